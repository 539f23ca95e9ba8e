"""Take refusal directions out of the weights, with a kernel over depth (abliteration); for comparison only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from demur.directions import Direction
from demur.errors import ConfigError
from demur.interventions.abliterate import Abliterate as Edited
from demur.methods._contrast import Against, Contrast
from demur.types import FitData

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

EXTRA = "local"
COMPARISON_ONLY = "it takes refusal out of the weights without regard to whether the prompt is harmful"

Projection = Literal["none", "projected", "biprojected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Abliterate:
    """Weight abliteration: W - w_l r_l r_l^T W on every attention and MLP output, w_l a kernel over depth.

    r_l is the difference of means at the last prompt token. `projected` takes the component along the mean of the
    answered plain prompts out of it; `biprojected` measures at one layer and takes, for each edited block, that
    block's own such mean out as well. `norm="column"` gives each input unit's written vector its length back,
    `norm="row"` each output row's.

    Facts from the public descriptions of three tools (directional ablation: Arditi et al., arXiv 2406.11717; the
    kernel and `row`: heretic; `projected`, `biprojected`, `column`: J. Lai's posts on norm-preserving biprojected
    abliteration), written anew from these. The kernel: a ramp from `max_weight` at `position` down to `min_weight` at
    `distance`, nothing beyond. Ours: its default values (heretic searches them: .8 to 1.5, 0 to 1, .6 to 1 and up to .6
    of the depth), one kernel for attention and MLP, no approximation of the change by rank 3, no search, no
    winsorising. The contrast data are those of every method here; the direction may be that of borderline refusals.
    Nothing holds it to the safety floor.
    """

    against: Against = "harmful"
    """Whose refusals give the directions: those of harmful or of borderline prompts."""
    measured_at: float | None = None
    """Measure at one layer only, as a share of the depth (between two layers: between their vectors); None: each block
    has its own direction."""
    projection: Projection = "projected"
    """`none`, `projected` or `biprojected`; the last needs `measured_at`."""
    norm: Literal["none", "column", "row"] = "row"
    """Which lengths the edited matrices keep."""
    max_weight: float = 1.0
    """Weight at the kernel's middle."""
    min_weight: float = 0.5
    """Weight at its edge."""
    position: float = 0.7
    """Its middle, as a share of the depth."""
    distance: float = 0.6
    """How far it reaches, as a share of the depth."""

    def __post_init__(self) -> None:
        if self.projection not in ("none", "projected", "biprojected"):
            raise ConfigError(f"abliterate: projection={self.projection!r}; allowed: none, projected, biprojected")
        if self.projection == "biprojected" and self.measured_at is None:
            raise ConfigError("abliterate: biprojected measures at one layer; give measured_at=, a share of the depth")
        for name in ("measured_at", "position"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"abliterate: {name} is {value}; it is a share of the depth, from 0 to 1")
        if self.distance <= 0:
            raise ConfigError(f"abliterate: distance is {self.distance}; it must be above 0")

    def fit(self, lm: LM, data: FitData) -> Edited:
        """Fit the directions on the `fit` split; raises DataError when a group of prompts is missing."""
        contrast = Contrast.of(lm, data)
        n = lm.n_layers
        raw = contrast.direction(self.against)
        mu = contrast.group("answered_plain").double().mean(0)
        rows = self._rows(raw.vectors.double(), mu)
        direction = Direction(
            vectors=rows.float(),
            layers=tuple(range(n)),
            model=lm.ref,
            estimator=f"mean_difference, {self.projection}",
            data_sha=contrast.data_sha,
            stats=raw.stats,
        )
        weights = kernel(n, self.max_weight, self.min_weight, self.position, self.distance)
        return Edited(direction=direction, weights=weights, norm=self.norm)

    def _rows(
        self, raw: Float[Tensor, "layer d_model"], mu: Float[Tensor, "layer d_model"]
    ) -> Float[Tensor, "layer d_model"]:
        """Return the direction of each block."""
        rows = raw if self.projection == "none" else without(raw, mu)
        if self.measured_at is None:
            return rows
        one = between(rows, self.measured_at * (len(rows) - 1)).expand_as(rows)
        return without(one, mu) if self.projection == "biprojected" else one


def kernel(n: int, most: float, least: float, position: float, distance: float) -> tuple[float, ...]:
    """Return the weight of each of `n` blocks: a ramp from `most` at `position` to `least` at `distance`, then 0.

    Position and distance are shares of n - 1.
    """
    depth = max(n - 1, 1)
    away = [abs(layer / depth - position) / distance for layer in range(n)]
    return tuple(most + (least - most) * d if d <= 1 + 1e-9 else 0.0 for d in away)


def without(rows: Float[Tensor, "layer d_model"], mu: Float[Tensor, "layer d_model"]) -> Float[Tensor, "layer d_model"]:
    """Return the rows less their components along mu; twice, for what rounding leaves."""
    unit = torch.nn.functional.normalize(mu, dim=-1)
    for _ in range(2):
        rows = rows - (rows * unit).sum(-1, keepdim=True) * unit
    return rows


def between(rows: Float[Tensor, "layer d_model"], at: float) -> Float[Tensor, " d_model"]:
    """Return the row at a fractional index: the neighbours at length 1, mixed."""
    low = min(math.floor(at), len(rows) - 1)
    high = min(low + 1, len(rows) - 1)
    unit = torch.nn.functional.normalize(rows, dim=-1)
    return torch.lerp(unit[low], unit[high], at - low)
