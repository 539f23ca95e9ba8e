"""Decode against the same conversation under another system text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions import Stock
from demur.plan import Branch, Logits, Plan

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrastive(Stock):
    """Decode against the same conversation under another system text: logits a z + b z*.

    z are the logits of the conversation as it is, z* those of the same one under `text`; both are given the same
    answer. Contrastive decoding between two prompts of one model (Self-CD, Shi et al., arXiv 2401.17633; AdaCD, Qi et
    al., arXiv 2604.17132). Costs a second row of the batch for as long as the horizon lasts.
    """

    text: str
    """The other branch's system text; it stands before the prompt's own."""
    mix: tuple[float, float]
    """(a, b)."""
    agreed: tuple[float, float] | None = None
    """(a, b) at steps where both branches agree on the next token; by default as elsewhere."""
    agreement: float = 0.9
    """How much they must agree: the base at least this sure of the other's likeliest token, relative to the other."""
    plausible: float = 0.0
    """Tokens less likely than this share of the base's likeliest are not drawn; 0: all may be."""
    horizon: int | None = None
    """Tokens of the answer that are drawn so; by default all."""
    strength: float = 1.0
    """How far the mix is taken: 1 as given, 0 changes nothing."""

    def plan(self, lm: LM) -> Plan:
        """Return a plan of one branch whose logits are mixed in; an empty one at strength 0."""
        if self.strength == 0 or self.horizon == 0:
            return Plan()
        logits = Logits(
            mix=self._scaled(self.mix),
            agreed=None if self.agreed is None else self._scaled(self.agreed),
            agreement=self.agreement,
            plausible=self.plausible,
            horizon=self.horizon,
        )
        return Plan(branches=(Branch(system=self.text),), logits=logits)

    def _scaled(self, pair: tuple[float, float]) -> tuple[float, float]:
        a, b = pair
        return pair if self.strength == 1 else (1 + self.strength * (a - 1), self.strength * b)
