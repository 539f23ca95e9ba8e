"""Safety-tune a model: general answers and a share of refusals (STL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur import responses
from demur.interventions.adapter import Adapter
from demur.methods import _tuned
from demur.responses import Made, Role
from demur.types import Example, FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stl(_tuned.Tuned):
    """Fine-tune a model on answered plain prompts with a share of refused harmful ones: it learns to refuse.

    Safety-tuned Llamas (Bianchi et al., arXiv 2309.07875), the baseline and second stage of DCR (arXiv 2603.03323).
    It is meant for a model before its safety training (`--model organism:base`): the checkpoint with the best balance
    of answered and held prompts is kept.

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
    seed: int = 0
    """Of the choice of prompts, their order and the adapter's start."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on rows of the `fit` split, and choose a checkpoint on `dev`.

        Raises:
            DataError: when plain or harmful prompts are missing.
            ModelError: when the loss is not finite.
        """
        judge = _tuned.judge_of(data, self.judge)
        with _tuned.folder(data) as out:
            making = {name: getattr(self, name) for name in ("general", "harmful", "attacked", "seed")}
            found = _tuned.pairs(lm, data, out, making, lambda: self._made(data.examples))
            return _tuned.tuned(self, lm, data, found, out, judge=judge, aim="balance")

    def _made(self, examples: Sequence[Example]) -> Made:
        most: dict[Role, int] = {"general": self.general, "harmful": self.harmful}
        chosen = responses.choose_untuned(examples, most, attacked=self.attacked, seed=self.seed)
        return _tuned.joined(_tuned.own(chosen["general"], "general"), _tuned.refused(chosen["harmful"]))
