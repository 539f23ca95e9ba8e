"""Train an adapter on given pairs of answers (DPO)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demur.interventions.adapter import Adapter
from demur.methods import _learnable, _tuned
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dpo(_tuned.Tuned):
    """Train a LoRA adapter by direct preference optimisation on rows that hold both answers (Rafailov et al.).

    Plain DPO (arXiv 2305.18290), the control of every method that makes its own data. Rows need `answer`, to be
    preferred, and `rejected`: those of `--data`, or of `file`. `rass:objective=dpo` makes them itself.

    The paper's defaults: beta .1, rate 1e-6 with RMSprop on all weights, batch 64. Ours: a LoRA adapter on all linear
    layers, AdamW, rate 5e-6, batch 32; the checkpoint that answers most of the dev split under the safety floor at
    half its margin.
    """

    rate: float = 5e-6
    file: str = ""
    """JSONL of examples, or of rows in trl's conversational preference format, instead of the fit split."""
    beta: float = 0.1
    """How strongly the model is held to itself before training."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on the rows, and choose a checkpoint on `dev`.

        Raises:
            DataError: for a row that is not understood, or when none can be learnt from.
            ModelError: when the loss is not finite.
        """
        judge = _tuned.judge_of(data, self.judge)
        with _tuned.folder(data) as out:
            rows = _learnable.rows(Path(self.file)) if self.file else data.examples
            given = _learnable.learnable(rows, paired=True)
            found = _tuned.pairs(lm, data, out, {"file": [p.chosen for p in given.pairs]}, lambda: given)
            return _tuned.tuned(self, lm, data, found, out, judge=judge, objective="dpo")
