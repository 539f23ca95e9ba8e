"""Take from every next token what a safety prompt would add to it (Self-CD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions.contrastive import Contrastive
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
READS = "nothing"

SAFETY = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
    "Do not give harmful, unethical or illegal content."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selfcd:
    """Self-contrastive decoding (Shi et al., arXiv 2401.17633): nothing is fitted.

    With z the logits of the conversation as it is and z* those under a safety prompt, every token is drawn from
    s = z* - ratio (z* - z): at ratio 2.5, 2.5 z - 1.5 z*. Ratio 0 is the conversation under the safety prompt, ratio
    1 the conversation as it is.

    From the paper and its released code: the formula, the ratio, no limit on tokens or on how many of them. Ours: two
    caches and batches (the released code has neither and does not run as published), the second half of the text,
    which is not given in full and follows the sense of the one named there, and sampling from s.
    """

    text: str = SAFETY
    """The safety prompt."""
    ratio: float = 2.5
    """How far to go from the safety prompt; 1 changes nothing."""
    horizon: int | None = None
    """Tokens of the answer that are drawn so; by default all, as in the paper."""

    def fit(self, lm: LM, data: FitData) -> Contrastive:
        """Return the intervention; the data are not looked at."""
        return self.intervention()

    def intervention(self) -> Contrastive:
        """Return the intervention, which needs neither model nor data."""
        return Contrastive(text=self.text, mix=(self.ratio, 1 - self.ratio), horizon=self.horizon)
