"""Train an adapter on refused prompts near the boundary and on their harmful twins (RASS-style)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur import responses
from demur.errors import ConfigError, DataError
from demur.interventions.adapter import Adapter
from demur.methods import _tuned
from demur.methods._chosen import by_rule
from demur.mining.selection import RULES
from demur.responses import Made, Role
from demur.training import Objective
from demur.types import Example, FitData, Judge

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rass(_tuned.Steered):
    """Train a LoRA adapter on benign prompts that the model refuses, near its safety boundary, and harmful twins.

    RASS-style after Pan et al. (arXiv 2505.18325), whose training settings were never released: data from selection
    (`--data`), answers made by steering the model itself and judged before use, then SFT, DPO or DPO with an SFT term.
    The checkpoint kept is the one that answers most of the dev split under the safety floor at half its margin.

    The examples must hold answered plain prompts beside the boundary ones, since the direction of the steering comes
    from both; what `demur mine` selects holds none, so add such rows to it.
    """

    rate: float = 5e-6
    objective: Objective = "dpo"
    """`sft`, `dpo`, or `dpo_sft` (DPO with an SFT term on the chosen answers)."""
    selection: str = "given"
    """How refused and answered benign prompts are chosen among those of the `fit` split: `given` (those with the least
    |score| first, as mining scored them), or a rule of `demur mine`, scored here: `boundary`, or one of its controls
    `random_refused`, `random_all`, `hardest`, `far`, `near_harmful`, `words`."""
    rejected: str = "own"
    """What a harmful prompt's refusal is preferred to: `own`, the model's answer to the benign twin (else to another
    benign prompt), or `line`, a stock opening line, which a model that would never say it learns nothing from."""
    benign: int = 3000
    """Most refused benign prompts; those with the least |score| come first."""
    anchors: float = 0.2
    """Most answered borderline prompts, as a share of the refused ones."""
    harmful: int = 1000
    """Most harmful prompts; twins of the benign ones come first."""
    attacked: float = 0.15
    """Most of the harmful prompts that are under attack, as a share. Without any, attacks get through afterwards."""
    general: int = 1000
    """Most plain prompts."""
    beta: float = 0.1
    """How strongly DPO holds the model to itself before training."""
    sft_weight: float = 1.0
    """Weight of the SFT term of `dpo_sft`."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Make response pairs from the `fit` split, train on them, and choose a checkpoint on `dev`.

        Raises:
            ConfigError: for a layer out of range, or settings that do not fit together.
            DataError: when a group of prompts is missing, or no pair could be made.
            ModelError: when the loss is not finite.
        """
        rules = ("given", *(rule for rule in RULES if rule != "trigger"))
        for name, allowed in (("rejected", ("line", "own")), ("selection", rules)):
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise ConfigError(f"rass: {name}={given!r} is not understood; allowed: {', '.join(allowed)}")
        judge = _tuned.judge_of(data, self.judge)
        with _tuned.folder(data) as out:
            pairs = _tuned.pairs(lm, data, out, self._making(), lambda: self._made(lm, data, judge))
            if not any(pair.role == "benign" and (pair.rejected or self.objective == "sft") for pair in pairs):
                raise DataError(
                    f"rass: no benign pair could be made; {out / 'dropped.jsonl'} says why, prompt by prompt"
                )
            return _tuned.tuned(self, lm, data, pairs, out, judge=judge, objective=self.objective)

    def _made(self, lm: LM, data: FitData, judge: Judge) -> Made:
        ask = self.ask(lm, data, judge, own=self.rejected == "own")
        most: dict[Role, int] = {"benign": self.benign, "harmful": self.harmful, "general": self.general}
        rows: Sequence[Example] = data.examples
        if self.selection != "given":
            rows = by_rule(lm, rows, self.selection, count=self.benign, anchors=self.anchors, seed=self.seed)
        chosen = responses.choose(rows, most, attacked=self.attacked, seed=self.seed)
        chosen["anchor"] = chosen["anchor"][: round(self.anchors * len(chosen["benign"]))]
        return responses.make(lm, chosen, ask, lambda stage, done, total: None)

    def _making(self) -> dict[str, Any]:
        """Return the settings that decide the pairs."""
        names = ("layer", "against", "strengths", "positions", "rejected", "benign", "anchors", "harmful", "general")
        return {
            name: getattr(self, name) for name in (*names, "attacked", "selection", "max_new_tokens", "judge", "seed")
        }
