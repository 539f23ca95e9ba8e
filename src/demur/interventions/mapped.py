"""Add a direction, as much of it as the prompt's own state asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from demur.directions import Direction
from demur.errors import ConfigError
from demur.interventions import Stock
from demur.plan import Plan, Point, Site, check_positions

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mapped(Stock):
    """Add a direction, as much of it as the prompt's own state asks for: h + strength * x M with M = w r^T.

    x is the row's last prompt token at the same place in the same pass, so that a prompt with <x, w> near 0 is left
    as it is (AlphaSteer, Sheng et al., arXiv 2506.07022, whose matrices have rank one).
    """

    reads: Direction
    """w of each layer: what of the last prompt token's state counts."""
    writes: Direction
    """r of each layer; it points towards refusal."""
    strength: float = 1.0
    """How many times x M is added; 0 changes nothing, below 0 means less refusal."""
    positions: str = "prompt"
    """Which tokens are changed."""
    source: Literal["self", "last_prompt", "untouched"] = "last_prompt"
    """Whose state x is: the row's last prompt token, the token itself, or that of the untouched model."""
    point: Point = "resid_post"
    """Where in the block it reads and writes."""

    def __post_init__(self) -> None:
        check_positions(self.positions)
        if self.reads.layers != self.writes.layers:
            raise ConfigError(f"mapped: reads at layers {self.reads.layers}, but writes at {self.writes.layers}")

    def plan(self, lm: LM) -> Plan:
        """Return one site for each layer, with its matrix."""
        sites, tensors = [], {}
        for layer, w, r in zip(self.reads.layers, self.reads.vectors, self.writes.vectors, strict=True):
            name = f"M{layer}"
            tensors[name] = torch.outer(w, r)
            sites.append(
                Site(
                    op="matrix",
                    layers=(layer,),
                    point=self.point,
                    vector=name,
                    strength=self.strength,
                    positions=self.positions,
                    source=self.source,
                )
            )
        return Plan(sites=tuple(sites), tensors=tensors)
