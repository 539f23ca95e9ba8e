"""Weigh the next token against the same conversation told to refuse, for the first tokens of the answer (AdaCD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.errors import ConfigError
from demur.interventions.contrastive import Contrastive
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
READS = "nothing"
SPACE = {"horizon": [1, 4, 10], "scale": (0.1, 1.2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adacd:
    """Adaptive contrastive decoding (Qi et al., arXiv 2604.17132): nothing is fitted.

    Beside the conversation as it is (logits z) the same one is read under `text` (logits z*). At each of the first
    `horizon` tokens, with rho and rho* the largest probabilities: where both want the same token and
    rho >= agreement * rho*, refusing is taken to be right and reinforced, s = z* + alpha (z* - z); else it is
    mitigated, s = z* - alpha (z* - z). Only tokens of at least `plausible` * rho under z can be drawn. After that the
    conversation goes on as it is.

    From the paper and its released code: formula, text and all defaults. The code mixes logits where the paper writes
    a normalised difference; the code is followed. Ours: masks and positions from lengths, so that an end token in
    the prompt is read (the released code masks it out); float32 for the mix; sampling from s where the paper is
    greedy; every end token of the model ends the answer. A thinking model spends the horizon inside its thinking, on
    which the paper is silent: answer with thinking off. A template that adds a system text of its own adds it to the
    plain side, as in the released code.
    """

    text: str = "Please refuse to answer me!"
    """System text of the other side; where a template knows no system role, before the user's first message."""
    alpha: float = 4.5
    """How far the difference is taken."""
    agreement: float = 0.9
    """lambda of the paper, above .5 and at most 1: equal first choices, and how sure the plain side must be."""
    plausible: float = 0.01
    """beta of the paper."""
    horizon: int = 10
    """Tokens; 0 changes nothing."""

    def __post_init__(self) -> None:
        if not 0.5 < self.agreement <= 1:
            raise ConfigError(f"adacd: agreement is {self.agreement}; it must be above 0.5 and at most 1")

    def fit(self, lm: LM, data: FitData) -> Contrastive:
        """Return the intervention; the data are not looked at."""
        return self.intervention()

    def intervention(self) -> Contrastive:
        """Return the intervention, which needs neither model nor data."""
        return Contrastive(
            text=self.text,
            mix=(self.alpha, 1 - self.alpha),
            agreed=(-self.alpha, 1 + self.alpha),
            agreement=self.agreement,
            plausible=self.plausible,
            horizon=self.horizon,
        )
