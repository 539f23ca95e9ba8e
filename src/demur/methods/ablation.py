"""Project a refusal direction out of everything the model writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions.ablate import Ablate
from demur.methods._contrast import Against, Contrast
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
SPACE = {"layer": "layer", "against": ["harmful", "borderline"], "strength": [1.0], "scale": (0.1, 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Ablate one direction from every writer of the residual stream: W − strength · r rᵀ W.

    Directional ablation of Arditi et al. (arXiv 2406.11717), at every layer and token, as there. Ours: partial
    strength in weight semantics, the direction of one given layer (the paper searches; see `refusal_direction`), and
    that it may be the direction of borderline refusals.
    """

    layer: int = 2
    """The block after which the direction is measured."""
    strength: float = 1.0
    """1 removes the direction, 0 changes nothing."""
    against: Against = "harmful"
    """Whose refusals give the direction: those of harmful or of borderline prompts."""

    def fit(self, lm: LM, data: FitData) -> Ablate:
        """Fit on the `fit` split; raises DataError when a group of prompts is missing."""
        return self.of(Contrast.of(lm, data, layers=(self.layer,)))

    def of(self, contrast: Contrast) -> Ablate:
        """Make the intervention from states captured before."""
        return Ablate(direction=contrast.direction(self.against).at(self.layer), strength=self.strength)
