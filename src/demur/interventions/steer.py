"""Add a direction to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from demur.directions import Direction
from demur.interventions import Stock
from demur.plan import Plan, Point, Site, check_positions

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steer(Stock):
    """Add a direction to the residual stream: h + strength * v.

    Activation addition (Turner et al., arXiv 2308.10248; Arditi et al., arXiv 2406.11717). The direction points
    towards refusal, so a negative strength means less refusal.
    """

    direction: Direction
    """What to add; it points towards refusal."""
    layer: int | tuple[int, ...] | None = None
    """Where to add, one layer or several; by default wherever the direction has a vector. A direction of one layer
    may be added at any other."""
    strength: float = -1.0
    """In lengths of the direction; 0 changes nothing."""
    positions: str = "all"
    """Which tokens: all, prompt, last_prompt, from_instruction_end, generated, generated[:k]."""
    point: Point = "resid_post"
    """Where in the block: resid_pre, attn_out, mlp_out, resid_post, ..."""

    def __post_init__(self) -> None:
        check_positions(self.positions)

    def plan(self, lm: LM) -> Plan:
        """Return one site; a direction of several layers gives each layer its own vector."""
        layers = self.direction.layers if self.layer is None else self.layer
        chosen = (layers,) if isinstance(layers, int) else tuple(layers)
        vector = self.direction.vectors[0]
        if len(self.direction.layers) > 1:
            vector = torch.zeros(max(lm.n_layers, max(chosen) + 1), self.direction.vectors.shape[1])
            for layer in chosen:
                vector[layer] = self.direction.at(layer).vectors[0]
        site = Site(
            op="add",
            layers=chosen,
            point=self.point,
            vector="v",
            strength=self.strength,
            positions=self.positions,
        )
        return Plan(sites=(site,), tensors={"v": vector})
