"""Fine-tune an adapter on given answers (SFT)."""

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
class Sft(_tuned.Tuned):
    """Fine-tune a LoRA adapter on the answers of the rows, as they stand: plain SFT.

    The control of every method that makes its own data. Rows are those of `--data` or of `file`, or else what the
    model itself answered to `--fit`. A row with a label is learnt only where the answer is what a good model would do
    (so refusals of benign prompts are not taught again); one without is learnt as it is.

    No paper's defaults: LoRA on all linear layers and the loss on the answer alone are ours, as is the choice of the
    checkpoint that answers most of the dev split under the safety floor at half its margin.
    """

    rate: float = 2e-5
    file: str = ""
    """JSONL of examples, or of rows in trl's conversational prompt-completion format, instead of the fit split."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on the rows, and choose a checkpoint on `dev`.

        Raises:
            DataError: for a row that is not understood, or when none can be learnt from.
            ModelError: when the loss is not finite.
        """
        judge = _tuned.judge_of(data, self.judge)
        with _tuned.folder(data) as out:
            rows = _learnable.rows(Path(self.file)) if self.file else data.examples
            given = _learnable.learnable(rows, paired=False)
            found = _tuned.pairs(lm, data, out, {"file": [p.chosen for p in given.pairs]}, lambda: given)
            return _tuned.tuned(self, lm, data, found, out, judge=judge, objective="sft")
