"""Safety-tune a model: general answers, a share of refusals, and seemingly toxic prompts (STL-aug)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur import responses
from demur.interventions.adapter import Adapter
from demur.methods import _tuned
from demur.responses import Made, Role
from demur.types import Example, FitData, Judge

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class StlAug(_tuned.Steered):
    """Fine-tune a model on answered plain prompts, refused harmful ones and answered prompts that only look harmful.

    Safety-tuned Llamas (Bianchi et al., arXiv 2309.07875), the baseline and second stage of DCR (arXiv 2603.03323).
    It is meant for a model before its safety training (`--model organism:base`): the checkpoint with the best balance
    of answered and held prompts is kept.

    STL-aug, DCR's other baseline (arXiv 2603.03323): STL with seemingly toxic prompts and answers that do not refuse.
    How many, and whose answers, is not given there: 250, as DCR's first stage sees, the model's own where it answers,
    and where it refuses those of the model under steering, judged before use.

    The papers': 20,000 general and 1,000 harmful prompts, LoRA rank 8 and alpha 16 on q, k (DCR) and v, dropout .05,
    rate 3e-4, batch 128, 3 epochs; loss on all tokens. Ours: the general answers are those of the rows (the model's
    own, where it measured itself); refusals are the rows' own, else stock wordings; the adapter is on every linear
    layer, the loss on the answer alone, rate and warm-up follow a cosine.
    """

    rate: float = 3e-4
    epochs: float = 3.0
    batch: int = 128
    rank: int = 8
    alpha: int = 16
    general: int = 20_000
    """Most plain prompts that were answered."""
    harmful: int = 1000
    """Most harmful prompts."""
    attacked: float = 0.0
    """Most of the harmful prompts that are under attack, as a share; the papers have none."""
    seeming: int = 250
    """Most benign prompts that look harmful; those the model refuses come first."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on rows of the `fit` split, and choose a checkpoint on `dev`.

        Raises:
            ConfigError: for a layer out of range, where answers are made.
            DataError: when plain or harmful prompts are missing.
            ModelError: when the loss is not finite.
        """
        judge = _tuned.judge_of(data, self.judge)
        with _tuned.folder(data) as out:
            found = _tuned.pairs(lm, data, out, self._making(), lambda: self._made(lm, data, judge))
            return _tuned.tuned(self, lm, data, found, out, judge=judge, aim="balance")

    def _made(self, lm: LM, data: FitData, judge: Judge) -> Made:
        chosen = self._chosen(data.examples)
        rest = chosen["anchor"][: max(0, self.seeming - len(chosen["benign"]))]
        return _tuned.joined(
            _tuned.freed(lm, chosen["benign"], lambda: self.ask(lm, data, judge)),
            _tuned.own(rest, "anchor"),
            _tuned.own(chosen["general"], "general"),
            _tuned.refused(chosen["harmful"]),
        )

    def _chosen(self, examples: Sequence[Example]) -> dict[Role, list[Example]]:
        most: dict[Role, int] = {"general": self.general, "harmful": self.harmful, "benign": self.seeming}
        return responses.choose_untuned(examples, most, attacked=self.attacked, seed=self.seed)

    def _making(self) -> dict[str, object]:
        """Return the settings that decide the rows."""
        names = ("general", "harmful", "attacked", "seeming", "layer", "against", "strengths", "positions")
        return {name: getattr(self, name) for name in (*names, "max_new_tokens", "judge", "seed")}
