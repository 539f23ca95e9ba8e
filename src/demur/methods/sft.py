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
class Sft:
    """Fine-tune a LoRA adapter on the answers of the rows, as they stand: plain SFT.

    The control of every method that makes its own data. Rows are those of `--data` or of `file`, or else what the
    model itself answered to `--fit`. A row with a label is learnt only where the answer is what a good model would do
    (so refusals of benign prompts are not taught again); one without is learnt as it is.

    No paper's defaults: LoRA on all linear layers and the loss on the answer alone are ours, as is the choice of the
    checkpoint that answers most of the dev split under the safety floor at half its margin.
    """

    file: str = ""
    """JSONL of examples, or of rows in trl's conversational prompt-completion format, instead of the fit split."""
    rate: float = 2e-5
    """The highest learning rate; a tiny model wants far more (1e-3)."""
    epochs: float = 1.0
    """Passes over the data."""
    batch: int = 32
    """Rows per update, over all processes."""
    rank: int = 16
    """Rank of the adapter, on every linear layer of the blocks; 0 trains the weights themselves."""
    alpha: int = 32
    """The adapter's change is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout on the adapter's input."""
    checkpoints: int = 4
    """How many checkpoints are kept and measured."""
    weaker: tuple[float, ...] = (0.8, 0.6, 0.4)
    """Where the best checkpoint misses the floor, shares of its change that are tried instead."""
    max_new_tokens: int = 512
    """Longest answer to the dev split."""
    judge: str = ""
    """Judge of the dev split's answers; by default that of the fit, else `classifier`."""
    seed: int = 0
    """Of the order of the rows and the adapter's start."""

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
