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
class Dpo:
    """Train a LoRA adapter by direct preference optimisation on rows that hold both answers (Rafailov et al.).

    Plain DPO (arXiv 2305.18290), the control of every method that makes its own data. Rows need `answer`, to be
    preferred, and `rejected`: those of `--data`, or of `file`. `rass:objective=dpo` makes them itself.

    The paper's defaults: beta .1, rate 1e-6 with RMSprop on all weights, batch 64. Ours: a LoRA adapter on all linear
    layers, AdamW, rate 5e-6, batch 32; the checkpoint that answers most of the dev split under the safety floor at
    half its margin.
    """

    file: str = ""
    """JSONL of examples, or of rows in trl's conversational preference format, instead of the fit split."""
    rate: float = 5e-6
    """The highest learning rate; a tiny model wants far more (1e-3)."""
    epochs: float = 1.0
    """Passes over the data."""
    batch: int = 32
    """Pairs per update, over all processes."""
    rank: int = 16
    """Rank of the adapter, on every linear layer of the blocks; 0 trains the weights themselves."""
    alpha: int = 32
    """The adapter's change is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout on the adapter's input."""
    beta: float = 0.1
    """How strongly the model is held to itself before training."""
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
            given = _learnable.learnable(rows, paired=True)
            found = _tuned.pairs(lm, data, out, {"file": [p.chosen for p in given.pairs]}, lambda: given)
            return _tuned.tuned(self, lm, data, found, out, judge=judge, objective="dpo")
