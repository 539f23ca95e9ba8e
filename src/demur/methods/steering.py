"""Add a refusal direction, with a negative strength, at one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions.steer import Steer
from demur.methods._contrast import Against, Contrast, Positions
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
SPACE = {
    "layer": "layer",
    "against": ["harmful", "borderline"],
    "positions": ["all", "last_prompt"],
    "strength": [1.0],
    "scale": (0.1, 2.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """Steer every prompt away from refusal at one layer: h − strength · v.

    v = mean(refused) − mean(answered plain) at the last prompt token, in the stream after the block (the
    difference in means of Arditi et al., arXiv 2406.11717, used as activation addition). Theirs: difference, token and
    addition. Ours: what is refused and answered is the model's own doing as judged, the direction may be that of
    borderline refusals, and the defaults, which are those of the embedded model.
    """

    layer: int = 2
    """The block after which the vector is added."""
    strength: float = 0.5
    """How many lengths of v are subtracted; 0 changes nothing."""
    against: Against = "harmful"
    """Whose refusals give the direction: those of harmful or of borderline prompts."""
    positions: Positions = "all"
    """Every token, or the last of the prompt alone, which moves the decision and leaves the answer's words be."""

    def fit(self, lm: LM, data: FitData) -> Steer:
        """Fit on the `fit` split; raises DataError when a group of prompts is missing."""
        return self.of(Contrast.of(lm, data, layers=(self.layer,)))

    def of(self, contrast: Contrast) -> Steer:
        """Make the intervention from states captured before."""
        direction = contrast.direction(self.against).at(self.layer)
        return Steer(direction=direction, strength=-self.strength, positions=self.positions)
