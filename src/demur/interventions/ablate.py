"""Project a direction out of everything that is written to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from demur.directions import Direction
from demur.errors import ConfigError
from demur.interventions import Stock
from demur.plan import Plan, Site, WeightEdit

if TYPE_CHECKING:
    from demur.architectures import Half
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ablate(Stock):
    """Project a direction out of everything that is written to the residual stream: W - strength * r r^T W.

    Directional ablation (Arditi et al., arXiv 2406.11717) with partial strength in the meaning it has for weights.
    By hooks, the same is done to what the writers give: the embedding's output and what each attention and MLP
    writes, with the same numbers. Where a post-norm of gain g follows a writer, r becomes normalise(g * r).
    """

    direction: Direction
    """What to project out; its length does not matter."""
    layer: int | None = None
    """Whose vector is projected out; by default the direction's only one."""
    strength: float = 1.0
    """1 removes the direction, 0 changes nothing."""
    by: Literal["hooks", "weights"] = "hooks"
    """Edit the stream row by row, or the weights of the whole model; both do the same."""
    layers: tuple[int, ...] | None = None
    """The blocks whose writers are edited; by default all of them."""
    embedding: bool = True
    """Whether the embedding is edited too; without it, some of the direction stays in the stream."""

    def __post_init__(self) -> None:
        if self.layer is None and len(self.direction.layers) != 1:
            raise ConfigError(f"ablate: say which layer's vector to use, one of {self.direction.layers}")
        if self.by not in ("hooks", "weights"):
            raise ConfigError(f"ablate: by={self.by!r} is not understood; allowed: hooks, weights")

    def plan(self, lm: LM) -> Plan:
        """Return sites on the writers, or edits of their weights.

        Raises:
            ModelError: for a model whose writers are not understood.
        """
        layer = self.direction.layers[0] if self.layer is None else self.layer
        vector = self.direction.at(layer).vectors[0]
        chosen = tuple(range(lm.n_layers)) if self.layers is None else self.layers
        if self.by == "weights":
            return Plan(weights=self._weights(chosen), tensors={"r": vector})
        sites = [self._site("resid_pre", (0,), "r")] if self.embedding else []
        tensors = {"r": vector}
        points: tuple[tuple[Literal["attn_write", "mlp_write"], list[Half]], ...]
        points = (("attn_write", lm.half("attention")), ("mlp_write", lm.half("mlp")))
        for point, halves in points:
            rows = [vector if h.gain is None else vector * h.gain.cpu() for h in halves]
            tensors[point] = torch.stack(rows)
            sites.append(self._site(point, chosen, point))
        return Plan(sites=tuple(sites), tensors=tensors)

    def _site(self, point: Literal["resid_pre", "attn_write", "mlp_write"], layers: tuple[int, ...], name: str) -> Site:
        return Site(op="ablate", layers=layers, point=point, vector=name, strength=self.strength)

    def _weights(self, layers: tuple[int, ...]) -> tuple[WeightEdit, ...]:
        made = [WeightEdit(part=p, layers=layers, vector="r", strength=self.strength) for p in ("attention", "mlp")]
        if self.embedding:
            made.insert(0, WeightEdit(part="embedding", layers=(0,), vector="r", strength=self.strength))
        return tuple(made)
