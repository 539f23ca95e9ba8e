"""Project directions out of the matrices that write to the stream, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from demur.directions import Direction
from demur.errors import ConfigError
from demur.interventions import Stock
from demur.plan import Plan, WeightEdit

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Abliterate(Stock):
    """Project directions out of the matrices that write to the stream, block by block: W - s w_l r_l r_l^T W.

    Each block has its own direction and weight. With `norm`, the edited matrix is given back the lengths of its
    columns (what each input unit writes) or of its rows; see `plan.WeightEdit`. The embedding is left as it is.
    """

    direction: Direction
    """r_l of each edited block; lengths do not matter."""
    weights: tuple[float, ...]
    """w_l of each edited block."""
    norm: Literal["none", "column", "row"] = "none"
    """Which lengths the edited matrices keep."""
    strength: float = 1.0
    """Multiplies all weights; 0 changes nothing."""

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.direction.layers):
            raise ConfigError(
                f"abliterate: {len(self.weights)} weights for directions of {len(self.direction.layers)} layers"
            )
        if self.norm not in ("none", "column", "row"):
            raise ConfigError(f"abliterate: norm={self.norm!r} is not understood; allowed: none, column, row")

    def plan(self, lm: LM) -> Plan:
        """Return the edits of attention and MLP of each block with a weight."""
        edits, tensors = [], {}
        for layer, weight, vector in zip(self.direction.layers, self.weights, self.direction.vectors, strict=True):
            if weight == 0 or self.strength == 0:
                continue
            name = f"r{layer}"
            tensors[name] = torch.nn.functional.normalize(vector, dim=0)
            strength = weight * self.strength
            parts: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")
            edits += [
                WeightEdit(part=p, layers=(layer,), vector=name, strength=strength, norm=self.norm) for p in parts
            ]
        return Plan(weights=tuple(edits), tensors=tensors)
