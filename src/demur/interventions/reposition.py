"""Set what the residual stream has along a direction to a fixed amount."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from demur.directions import Direction
from demur.errors import ConfigError
from demur.interventions import Stock
from demur.plan import Plan, Point, Site, check_positions

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reposition(Stock):
    """Set what the residual stream has along a direction to a fixed amount: h - <h - o, u> u + strength * v.

    u is v at length 1. The reposition form of Refusal Steering (arXiv 2512.16602). Unlike adding, strength 0 still
    changes the stream: every state is then put level with the origin o.
    """

    direction: Direction
    """v, one vector for each layer that is edited; it points towards refusal."""
    origin: Direction
    """o, one state for each of the same layers: the middle between refused and answered."""
    strength: float = -1.0
    """In lengths of the direction."""
    positions: str = "all"
    """Which tokens: all, prompt, last_prompt, from_instruction_end, generated, generated[:k]."""
    point: Point = "resid_post"
    """Where in the block: resid_pre, attn_out, mlp_out, resid_post, ..."""

    def __post_init__(self) -> None:
        check_positions(self.positions)
        if self.origin.layers != self.direction.layers:
            raise ConfigError(
                f"reposition: the origin has layers {self.origin.layers}, the direction {self.direction.layers}; "
                "give one state for each layer of the direction"
            )

    def plan(self, lm: LM) -> Plan:
        """Return one site that acts at every layer of the direction.

        Raises:
            ConfigError: for a layer that the model does not have.
        """
        layers = self.direction.layers
        tensors = {}
        for name, rows in (("v", self.direction), ("o", self.origin)):
            tensors[name] = torch.zeros(max(lm.n_layers, max(layers) + 1), rows.vectors.shape[1])
            tensors[name][list(layers)] = rows.vectors
        site = Site(
            op="set",
            layers=layers,
            point=self.point,
            vector="v",
            origin="o",
            strength=self.strength,
            positions=self.positions,
        )
        return Plan(sites=(site,), tensors=tensors)
