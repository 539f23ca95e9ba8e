"""Safety-tune a model: general answers, a share of refusals, and seemingly toxic prompts (STL-aug)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur import responses
from demur.interventions.adapter import Adapter
from demur.methods import _tuned
from demur.methods._contrast import Against, Positions
from demur.responses import Made, Role
from demur.types import Example, FitData, Judge

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class StlAug:
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

    general: int = 20_000
    """Most plain prompts that were answered."""
    harmful: int = 1000
    """Most harmful prompts."""
    attacked: float = 0.0
    """Most of the harmful prompts that are under attack, as a share; the papers have none."""
    seeming: int = 250
    """Most benign prompts that look harmful; those the model refuses come first."""
    layer: int = 2
    """The block after which the steering acts that answers what the model refuses."""
    against: Against = "harmful"
    """Whose refusals give the direction of that steering: those of harmful or of borderline prompts."""
    strengths: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5)
    """Strengths of the steering, tried in this order until an answer is judged fit."""
    positions: Positions = "last_prompt"
    """Which tokens the steering acts on."""
    rate: float = 3e-4
    """The highest learning rate; a tiny model wants far more (1e-3)."""
    epochs: float = 3.0
    """Passes over the data."""
    batch: int = 128
    """Rows per update, over all processes."""
    rank: int = 8
    """Rank of the adapter, on every linear layer of the blocks."""
    alpha: int = 16
    """The adapter's change is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout on the adapter's input."""
    checkpoints: int = 4
    """How many checkpoints are kept and measured."""
    weaker: tuple[float, ...] = (0.8, 0.6, 0.4)
    """Where the best checkpoint misses the floor, shares of its change that are tried instead."""
    max_new_tokens: int = 512
    """Longest answer that is made."""
    judge: str = ""
    """Judge of the made answers; by default that of the fit, else `classifier`."""
    seed: int = 0
    """Of the choice of prompts, their order and the adapter's start."""

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
        steering = _tuned.Steering(
            layer=self.layer, against=self.against, strengths=self.strengths, positions=self.positions
        )
        return _tuned.joined(
            _tuned.freed(
                lm, chosen["benign"], lambda: steering.ask(lm, data, judge, max_new_tokens=self.max_new_tokens)
            ),
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
