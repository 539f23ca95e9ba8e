"""A plan made ready for one model: its tensors on the device, its parts by the place where they act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from demur.errors import ConfigError
from demur.plan import POINTS, Plan, Point, Site, check_positions, unit

if TYPE_CHECKING:
    from jaxtyping import Float

Key = tuple[int, Point]
"""A layer and a point in it."""
Action = Callable[[Tensor], Tensor]
"""Takes the stream Float["row token d_model"] and gives it back, edited or as it was."""
EMBEDDING: Key = (-1, "resid_post")
"""What the embedding of tokens gives, before anything is added to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One site at one layer, bound to a device."""

    site: Site
    number: tuple[int, int]
    """Index of the site, and the layer: what its kept sources are filed under."""
    scaled: tuple[Tensor, ...]
    """For each choice of the gate, the vector or matrix times the strength."""
    units: tuple[Tensor, ...]
    """For each choice, the vector at length 1."""
    origins: tuple[Tensor | None, ...]

    def change(self, choice: int, wide: Float[Tensor, "row token d_model"], x: Tensor) -> Tensor:
        """Return D(h) for one choice, in float32; the last axis is d_model, the others broadcast."""
        if self.site.op == "add":
            return self.scaled[choice]
        if self.site.op == "matrix":
            return x @ self.scaled[choice]
        if self.site.op == "toward":
            return self.scaled[choice] - self.site.strength * x
        direction, origin = self.units[choice], self.origins[choice]
        along = ((wide if origin is None else wide - origin) @ direction)[..., None] * direction
        return -self.site.strength * along if self.site.op == "ablate" else self.scaled[choice] - along


@dataclass(eq=False)
class Bound:
    """A plan made ready for one model: its edits by place, without those of strength 0."""

    plan: Plan
    device: torch.device
    parts: dict[Key, list[Part]]
    probes: dict[Key, list[int]]
    """Gates that are read once per request, by the places they read."""
    tokens: dict[Key, list[int]]
    """Gates that are read at every token."""
    sources: dict[Key, list[Part]]
    """Sites whose source is read from the untouched model."""
    columns: tuple[slice, ...]
    """Where the values of each gate stand among a row's."""
    soft: Tensor | None
    one_pass: bool
    """Whether every gate is read before the first edit, so that reading the prompt once is enough."""
    steady: bool
    """Whether the edits of a generated token are the same at each step."""

    @property
    def gates(self) -> int:
        """How many values of gates a row of the plan has."""
        return self.columns[-1].stop if self.columns else 0

    @property
    def places(self) -> set[Key]:
        """Every place where the plan reads or edits."""
        soft = {EMBEDDING} if self.soft is not None else set()
        return {*self.parts, *self.probes, *self.tokens, *self.sources, *soft}

    @property
    def asks(self) -> bool:
        """Whether something must be read of a row before its answer begins."""
        return bool(self.probes or self.sources)

    @property
    def ahead(self) -> bool:
        """Whether gates and sources need passes of their own before an answer: another branch hangs on them."""
        return self.asks and (not self.one_pass or bool(self.mixes))

    @property
    def mixes(self) -> int:
        """The branch whose logits are mixed with the base's; 0 for none."""
        return self.plan.mixes

    @property
    def foreign(self) -> bool:
        """Whether a gate reads another branch than the base, which a single forward pass cannot."""
        return any(gate.probe is not None and gate.probe.branch for gate in self.plan.gates)

    def read_on(self, branch: int) -> set[Key]:
        """Return the places where gates and untouched sources are read on a branch."""
        probes = {key: [self.plan.gates[gate].probe for gate in gates] for key, gates in self.probes.items()}
        found = {key for key, read in probes.items() if any(one and one.branch == branch for one in read)}
        return found if branch else {*found, *self.sources}


def order(key: Key) -> tuple[int, int]:
    """Return what sorts places by when they are computed."""
    return key[0], POINTS.index(key[1])


def bind(plan: Plan, layers: int, d_model: int, device: torch.device) -> Bound:
    """Make a plan ready for a model of `layers` blocks of width `d_model`.

    Raises:
        ConfigError: for a layer or a tensor that does not fit the model.
    """
    parts: dict[Key, list[Part]] = {}
    sources: dict[Key, list[Part]] = {}
    for number, site in enumerate(plan.sites):
        for layer in site.layers:
            _check_layer(layer, layers)
            part = _part(plan, number, layer, d_model, device)
            if not site.idle:
                parts.setdefault((layer, site.point), []).append(part)
                if site.source == "untouched":
                    sources.setdefault((layer, site.point), []).append(part)
    probes, tokens = _gates(plan, layers, d_model)
    _check_order(plan, tokens, parts)
    soft = plan.tensors[plan.soft_tokens].to(device).float() if plan.soft_tokens else None
    if soft is not None and (soft.ndim != 2 or soft.shape[1] != d_model):
        raise ConfigError(f"soft tokens have shape {tuple(soft.shape)}; this model needs (tokens, {d_model})")
    before = not parts or not probes or max(map(order, probes)) <= min(map(order, parts))
    foreign = any(gate.probe is not None and gate.probe.branch for gate in plan.gates)
    return Bound(
        plan,
        device,
        parts,
        probes,
        tokens,
        sources,
        _columns(plan),
        soft,
        one_pass=before and not sources and not foreign,
        steady=all(check_positions(part.site.positions) is None for here in parts.values() for part in here),
    )


def _columns(plan: Plan) -> tuple[slice, ...]:
    found: list[slice] = []
    for gate in range(len(plan.gates)):
        first = found[-1].stop if found else 0
        found.append(slice(first, first + plan.choices(gate)))
    return tuple(found)


def _gates(plan: Plan, layers: int, d_model: int) -> tuple[dict[Key, list[int]], dict[Key, list[int]]]:
    once: dict[Key, list[int]] = {}
    every: dict[Key, list[int]] = {}
    for index, gate in enumerate(plan.gates):
        if gate.probe is None or gate.weight is None:
            continue
        if gate.weight.shape[-1] != d_model:
            shape = tuple(gate.weight.shape)
            raise ConfigError(f"tensor 'weight of gate {index}' has shape {shape}; this model needs (..., {d_model})")
        for layer in gate.probe.layers:
            _check_layer(layer, layers)
            found = once if gate.lifetime == "request" else every
            found.setdefault((layer, gate.probe.point), []).append(index)
    return once, every


def _check_order(plan: Plan, tokens: dict[Key, list[int]], parts: dict[Key, list[Part]]) -> None:
    """Refuse a site before the place where its gate is read at every token."""
    reads = {gate: key for key, gates in tokens.items() for gate in gates}

    def last(gate: int) -> Key:
        return max((last(i) for i in plan.gates[gate].of), key=order) if plan.gates[gate].of else reads[gate]

    for key, here in parts.items():
        for gate in {p.site.gate for p in here if p.site.gate is not None}:
            if plan.gates[gate].lifetime == "token" and order(last(gate)) > order(key):
                raise ConfigError(
                    f"plan: a site at {key[1]} of layer {key[0]} needs gate {gate}, which each token reads later, at "
                    f"{last(gate)[1]} of layer {last(gate)[0]}; read it earlier"
                )


def _part(plan: Plan, number: int, layer: int, d_model: int, device: torch.device) -> Part:
    site = plan.sites[number]
    choices = 1 if site.gate is None else plan.choices(site.gate)
    width = 2 if site.op == "matrix" else 1

    def stack(name: str) -> tuple[Tensor, ...]:
        tensor = plan.tensors[name]
        several = tensor.unbind(0) if choices > 1 and len(tensor) == choices else (tensor,) * choices
        if choices > 1 and len(tensor) != choices:
            raise ConfigError(f"tensor {name!r} has {len(tensor)} rows for a gate of {choices} choices")
        rows = [t[layer] if t.ndim == width + 1 and layer < len(t) else t for t in several]
        if any(tuple(row.shape) != (d_model,) * width for row in rows):
            needs = ", ".join([str(d_model)] * width)
            raise ConfigError(
                f"tensor {name!r} has shape {tuple(tensor.shape)}; this model needs ({needs})"
                if width > 1
                else f"tensor {name!r} has shape {tuple(tensor.shape)}; this model needs ({d_model},)"
            )
        return tuple(row.float().to(device) for row in rows)

    raw = stack(site.vector)
    origins = stack(site.origin) if site.origin else (None,) * choices
    units = tuple(unit(row) for row in raw) if width == 1 else ()
    return Part(site, (number, layer), tuple(row * site.strength for row in raw), units, origins)


def _check_layer(layer: int, layers: int) -> None:
    if not 0 <= layer < layers:
        raise ConfigError(f"layer {layer} is out of range; this model has layers 0 to {layers - 1}")
