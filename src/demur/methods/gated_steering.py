"""Steer away from refusal only the prompts that a probe of the model's own states does not call harmful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions.gated import Gated
from demur.methods._contrast import Against, Contrast, Positions
from demur.methods.steering import Steering
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
SPACE = {
    "layer": "layer",
    "quantile": (0.0005, 0.03, "log"),
    "against": ["harmful", "borderline"],
    "positions": ["all", "last_prompt"],
    "strength": [1.0],
    "scale": (0.25, 2.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedSteering:
    """Steering behind a gate: h − strength · v on rows where a probe of harmful against refused borderline is low.

    The mean difference that carries refusal often does not tell harmful prompts from wrongly refused ones, while
    a linear probe on the same states does: the model holds the distinction and does not act on it.

    Ours, from parts that others have: the vector of `steering`, and a condition as CAST has one (see `cast`), here a
    linear probe whose threshold a share of unseen harmful prompts sets.
    """

    layer: int = 2
    """The block after which the gate reads and the vector is added."""
    strength: float = 1.0
    """How many lengths of the direction are subtracted."""
    quantile: float = 0.005
    """Share of unseen harmful prompts (the dev split) on which the gate may open."""
    against: Against = "borderline"
    """Whose refusals give the direction: those of harmful or of borderline prompts."""
    positions: Positions = "last_prompt"
    """Every token, or the last of the prompt alone, which moves the decision and leaves the answer's words be."""

    @property
    def steering(self) -> Steering:
        """The steering behind the gate."""
        return Steering(layer=self.layer, strength=self.strength, against=self.against, positions=self.positions)

    def fit(self, lm: LM, data: FitData) -> Gated:
        """Fit direction and probe on the `fit` split, the threshold on `dev`.

        Raises:
            DataError: when a group of prompts is missing.
        """
        return self.of(Contrast.of(lm, data, layers=(self.layer,)))

    def of(self, contrast: Contrast) -> Gated:
        """Make the intervention from states captured before."""
        return Gated(inner=self.steering.of(contrast), gate=contrast.gate(self.layer, self.quantile))
