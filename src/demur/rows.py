"""The rows of a batch: each row's plan, phase, absolute position and gates, and the edits that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from demur.errors import ConfigError
from demur.plan import POINTS, Plan, Point, Site, at_layer, check_positions, unit

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from demur.chats import Encoded

Key = tuple[int, Point]
"""A layer and a point in it."""
Action = Callable[[Tensor], Tensor]
"""Takes the stream Float["row token d_model"] and gives it back, edited or as it was."""


class Part(NamedTuple):
    """One site at one layer, bound to a device."""

    site: Site
    vector: Tensor
    """The raw vector times the strength for `add` and `set`, the unit vector for `ablate`."""
    direction: Tensor


class Probe(NamedTuple):
    """One gate, bound to a device."""

    vector: Tensor
    bias: float
    above: bool
    threshold: float

    def open(self, h: Float[Tensor, "row d_model"]) -> Bool[Tensor, " row"]:
        """Return which rows the gate is open for."""
        value = h.float() @ self.vector + self.bias
        return value > self.threshold if self.above else value < self.threshold


@dataclass(eq=False)
class Bound:
    """A plan made ready for one model: its edits by place, without those of strength 0."""

    plan: Plan
    parts: dict[Key, list[Part]]
    probes: dict[Key, list[tuple[int, Probe]]]
    one_pass: bool
    """Whether every gate is read before the first edit, so that reading the prompt once is enough."""
    steady: bool
    """Whether the edits of a generated token are the same at each step."""

    @property
    def gates(self) -> int:
        """How many gates the plan has."""
        return len(self.plan.gates)


def bind(plan: Plan, layers: int, d_model: int, device: torch.device) -> Bound:
    """Make a plan ready for a model of `layers` blocks of width `d_model`.

    Raises:
        ConfigError: for a layer or a vector that does not fit the model.
    """
    parts: dict[Key, list[Part]] = {}
    for site in plan.sites:
        for layer in site.layers:
            _check_layer(layer, layers)
            raw = _fitting(at_layer(plan.tensors[site.vector], layer), d_model, site.vector).float()
            direction = unit(raw).to(device)
            if site.strength != 0 or site.op == "set":
                part = Part(site, (raw * site.strength).to(device), direction)
                parts.setdefault((layer, site.point), []).append(part)
    probes: dict[Key, list[tuple[int, Probe]]] = {}
    for index, gate in enumerate(plan.gates):
        _check_layer(gate.layer, layers)
        vector = _fitting(gate.weight, d_model, f"weight of gate {index}").float().to(device)
        probe = Probe(vector, gate.bias, gate.rule == "above", gate.threshold)
        probes.setdefault((gate.layer, gate.point), []).append((index, probe))
    one_pass = not parts or not probes or max(map(_order, probes)) <= min(map(_order, parts))
    steady = all(check_positions(part.site.positions) is None for here in parts.values() for part in here)
    return Bound(plan, parts, probes, one_pass, steady)


def _order(key: Key) -> tuple[int, int]:
    return key[0], POINTS.index(key[1])


def _check_layer(layer: int, layers: int) -> None:
    if not 0 <= layer < layers:
        raise ConfigError(f"layer {layer} is out of range; this model has layers 0 to {layers - 1}")


def _fitting(vector: Tensor, d_model: int, name: str) -> Tensor:
    if tuple(vector.shape) != (d_model,):
        raise ConfigError(f"tensor {name!r} has shape {tuple(vector.shape)}; this model needs ({d_model},)")
    return vector


@dataclass(eq=False)
class Rows:
    """What the forward pass must know of each row besides its tokens."""

    plans: tuple[Bound, ...]
    which: Int[Tensor, " row"]
    """Index into `plans` for each row."""
    prompt: Int[Tensor, " row"]
    """Length of the rendered prompt: a prefilled answer is not part of it."""
    instruction: Int[Tensor, " row"]
    """Where the user's last message ends."""
    start: Int[Tensor, " row"]
    """Absolute position of the first token that the next forward brings."""
    gates: Bool[Tensor, "row gate"]
    known: bool = False
    """Whether `gates` holds the rows' own values already."""
    decoding: bool = False
    """Whether the next forward brings one generated token per row."""
    longest: int = 0
    """Largest of `start`."""
    _steady: dict[Key, Action] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, encoded: Sequence[Encoded], plans: Sequence[Bound], device: torch.device) -> Rows:
        """Make rows for prompts not yet read, one plan each."""
        distinct = tuple(dict.fromkeys(plans))
        index = {id(plan): i for i, plan in enumerate(distinct)}
        return cls(
            plans=distinct,
            which=torch.tensor([index[id(plan)] for plan in plans], device=device),
            prompt=torch.tensor([e.prompt for e in encoded], device=device),
            instruction=torch.tensor([e.instruction for e in encoded], device=device),
            start=torch.zeros(len(encoded), dtype=torch.long, device=device),
            gates=torch.zeros(len(encoded), max((p.gates for p in distinct), default=0), dtype=torch.bool).to(device),
            known=not any(p.probes for p in distinct),
        )

    def __len__(self) -> int:
        return len(self.which)

    @property
    def keys(self) -> set[Key]:
        """The places that any of the plans edits."""
        return {key for plan in self.plans for key in plan.parts}

    @property
    def plain(self) -> bool:
        """Whether there is nothing to edit."""
        return not any(plan.parts for plan in self.plans)

    def take(self, index: Int[Tensor, " kept"]) -> Rows:
        """Return the rows at `index`."""
        return Rows(
            self.plans,
            self.which[index],
            self.prompt[index],
            self.instruction[index],
            self.start[index],
            self.gates[index],
            known=self.known,
            decoding=self.decoding,
            longest=self.longest,
        )

    def join(self, other: Rows) -> Rows:
        """Return these rows followed by `other`'s."""
        plans = tuple(dict.fromkeys((*self.plans, *other.plans)))
        width = max(self.gates.shape[1], other.gates.shape[1])
        halves = [
            (torch.tensor([plans.index(p) for p in r.plans], device=r.which.device)[r.which], _wide(r.gates, width))
            for r in (self, other)
        ]
        return Rows(
            plans,
            torch.cat([which for which, _ in halves]),
            torch.cat([self.prompt, other.prompt]),
            torch.cat([self.instruction, other.instruction]),
            torch.cat([self.start, other.start]),
            torch.cat([gates for _, gates in halves]),
            known=self.known and other.known,
            decoding=self.decoding,
            longest=max(self.longest, other.longest),
        )

    def advance(self, tokens: int) -> None:
        """Move every row's start by `tokens`."""
        self.start = self.start + tokens
        self.longest += tokens

    def positions(self, tokens: int) -> Int[Tensor, "row token"]:
        """Return the absolute positions of the next `tokens` tokens of each row."""
        if tokens == 1:
            return self.start[:, None]
        return self.start[:, None] + torch.arange(tokens, device=self.start.device)

    def mask(self, name: str, positions: Int[Tensor, "row token"]) -> Bool[Tensor, "row token"]:
        """Return which tokens a position name means, from absolute positions alone."""
        prompt, limit = self.prompt[:, None], check_positions(name)
        if limit is not None:
            return (positions >= prompt) & (positions < prompt + limit)
        if name == "prompt":
            return positions < prompt
        if name == "last_prompt":
            return positions == prompt - 1
        if name == "generated":
            return positions >= prompt
        if name == "from_instruction_end":
            return positions >= self.instruction[:, None]
        return torch.ones_like(positions, dtype=torch.bool)

    def edits(self, tokens: int) -> Mapping[Key, Action]:
        """Return the edits of the next forward by place; empty where nothing changes."""
        if self.plain:
            return {}
        if not self.decoding:
            return self._edits(self.positions(tokens))
        if any(not plan.steady for plan in self.plans):
            return self._edits(self.positions(tokens))
        if self._steady is None:
            self._steady = self._edits(self.positions(tokens))
        return self._steady

    def _edits(self, positions: Tensor) -> dict[Key, Action]:
        found: dict[Key, list[_Step]] = {}
        masks: dict[tuple[int, str], Tensor | None] = {}
        for index, plan in enumerate(self.plans):
            mine = None if len(self.plans) == 1 else (self.which == index)[:, None]
            for key, parts in plan.parts.items():
                for part in parts:
                    name = (index, part.site.positions)
                    if name not in masks:
                        masks[name] = _simple(self.mask(part.site.positions, positions), mine)
                    mask = masks[name]
                    if mask is None or mask.numel():
                        found.setdefault(key, []).append(_Step(part, mask, self))
        return {key: _fold(steps) for key, steps in found.items()}


def _wide(gates: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(gates, (0, width - gates.shape[1]))


def _simple(mask: Tensor, mine: Tensor | None) -> Tensor | None:
    """Return None for a mask of all tokens, an empty tensor for one of none."""
    if mine is not None:
        mask = mask & mine
    if bool(mask.all()):
        return None
    return mask if bool(mask.any()) else mask[:0]


class _Step:
    """One part on one batch; gates are looked up when it runs, since reading the prompt sets them."""

    def __init__(self, part: Part, mask: Tensor | None, rows: Rows) -> None:
        self.op, self.vector, self.direction = part.site.op, part.vector, part.direction
        self.strength, self.gate = part.site.strength, part.site.gate
        self.mask, self.rows = (None if mask is None else mask[..., None]), rows

    def __call__(self, h: Tensor) -> Tensor:
        mask = self.mask
        if self.gate is not None:
            gate = self.rows.gates[:, self.gate, None, None]
            mask = gate if mask is None else mask & gate
        edited = self._apply(h)
        return edited if mask is None else torch.where(mask, edited, h)

    def _apply(self, h: Tensor) -> Tensor:
        if self.op == "add":
            return h + self.vector.to(h.dtype)
        wide = h.float()
        along = (wide @ self.direction)[..., None] * self.direction
        if self.op == "ablate":
            return (wide - self.strength * along).to(h.dtype)
        return (wide - along + self.vector).to(h.dtype)


def _fold(steps: Sequence[_Step]) -> Action:
    if len(steps) == 1:
        return steps[0]

    def fold(h: Tensor) -> Tensor:
        for step in steps:
            h = step(h)
        return h

    return fold
