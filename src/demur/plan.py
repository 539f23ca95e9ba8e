"""`Plan`: an intervention as data, read by the forward pass row by row.

A plan lists edits of the residual stream (`sites`), the probes that switch them on or off per row (`gates`),
a system text (`system`) and edits of the weights (`weights`). It holds its tensors by name, goes to a folder and
back, and has a fingerprint. Rows of different plans share a batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demur.errors import ConfigError, DataError
from demur.files import read_json, write_json
from demur.types import from_json, to_json

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from demur.lm import LM

Point = Literal["resid_pre", "norm_in", "attn_write", "attn_out", "mlp_write", "mlp_out", "resid_post"]
POINTS: tuple[Point, ...] = ("resid_pre", "norm_in", "attn_write", "attn_out", "mlp_write", "mlp_out", "resid_post")
"""Points of a block in the order in which they are computed.

`resid_pre` and `resid_post` are the stream before and after the block, `norm_in` is what attention reads,
`attn_out` and `mlp_out` are what is added to the stream, and `attn_write` and `mlp_write` are what the last
matrix gives before a post-norm: the same as `attn_out` and `mlp_out` where a model has no post-norm.
"""
POSITIONS = ("all", "prompt", "last_prompt", "from_instruction_end", "generated", "generated[:k]")
PLAN, TENSORS = "plan.json", "tensors.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One edit of the residual stream.

    With `v` the vector, `u = v / |v|` and `s` the strength: `add` is h + s v, `ablate` is h - s <h, u> u, and
    `set` is h - <h, u> u + s v.
    """

    op: Literal["add", "ablate", "set"]
    layers: tuple[int, ...]
    point: Point
    vector: str
    """Name of a tensor of the plan: Float[" d_model"], or Float["layer d_model"] with one row per block."""
    strength: float
    positions: str = "all"
    gate: int | None = None
    """Index of the gate that must be open."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """A linear probe of the untouched model, read once per row while the prompt is read, then kept.

    Open where `<h, weight> + bias` is above (or below) the threshold.
    """

    layer: int
    point: Point = "resid_post"
    weight: Float[Tensor, " d_model"]
    bias: float = 0.0
    rule: Literal["above", "below"] = "above"
    threshold: float = 0.0
    position: Literal["last_prompt"] = "last_prompt"

    def __post_init__(self) -> None:
        _check_point(self.point)
        if self.rule not in ("above", "below") or self.position != "last_prompt":
            raise ConfigError(
                f"gate: rule {self.rule!r} at {self.position!r} is not understood; allowed: above, below at last_prompt"
            )

    def opens(self, states: Float[Tensor, "row d_model"]) -> Bool[Tensor, " row"]:
        """Return for which states, read at the gate's place, it is open."""
        value = states.float() @ self.weight.to(states.device) + self.bias
        return value > self.threshold if self.rule == "above" else value < self.threshold

    def record(self) -> dict[str, Any]:
        """Return everything but the weight, as JSON values."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "weight"]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightEdit:
    """W - s r r^T W on the matrices that write to the stream, r a unit vector of the stream.

    Where a post-norm with gain g follows the matrix, r becomes normalise(g * r): what is then taken out of the
    matrix's output is what shows up along r after the norm.
    """

    part: Literal["embedding", "attention", "mlp"]
    layers: tuple[int, ...]
    vector: str
    strength: float = 1.0

    @property
    def named(self) -> tuple[str, ...]:
        """The names of the tensors it needs."""
        return (self.vector,)

    def renamed(self, prefix: str) -> WeightEdit:
        """Return it with `prefix` before the names of its tensors."""
        return dataclasses.replace(self, vector=prefix + self.vector)

    def describe(self) -> str:
        """Return what it does, in plain words."""
        where = "the embedding" if self.part == "embedding" else f"{self.part} of {_layers(self.layers)}"
        return f"project {self.strength:g} x {self.vector} out of the weights of {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDelta:
    """W + s U D on the weight of one linear layer: the low-rank change of LoRA (Hu et al., arXiv 2106.09685)."""

    module: str
    """The layer's name in the model."""
    up: str
    """Name of a tensor Float["out rank"]."""
    down: str
    """Name of a tensor Float["rank in"]."""
    strength: float = 1.0

    @property
    def named(self) -> tuple[str, ...]:
        """The names of the tensors it needs."""
        return (self.up, self.down)

    def renamed(self, prefix: str) -> WeightDelta:
        """Return it with `prefix` before the names of its tensors."""
        return dataclasses.replace(self, up=prefix + self.up, down=prefix + self.down)

    def describe(self) -> str:
        """Return what it does, in plain words."""
        return f"add {self.strength:g} x {self.up} {self.down} to the weight of {self.module}"


Edit = WeightEdit | WeightDelta
"""The closed list of edits of weights."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Everything an intervention does, as data."""

    sites: tuple[Site, ...] = ()
    gates: tuple[Gate, ...] = ()
    system: str | None = None
    """A system text put before the prompt's own."""
    weights: tuple[Edit, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*(s.vector for s in self.sites), *(name for e in self.weights for name in e.named)):
            if name not in self.tensors:
                raise ConfigError(f"plan: the tensor {name!r} is named by an edit, but is not there")
        for site in self.sites:
            check_positions(site.positions)
            _check_point(site.point)
            if site.gate is not None and not 0 <= site.gate < len(self.gates):
                raise ConfigError(f"plan: a site names gate {site.gate}, but there are {len(self.gates)} gates")

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal for plans that do the same (edits, order, texts, tensors)."""
        digest = hashlib.sha256(repr(self._record()).encode())
        for name, tensor in sorted(self._stored().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _record(self) -> dict[str, Any]:
        return {
            "sites": to_json(self.sites),
            "gates": [gate.record() for gate in self.gates],
            "system": self.system,
            "weights": to_json(self.weights),
        }

    def _stored(self) -> dict[str, Tensor]:
        return {**self.tensors, **{f"gate {i}": gate.weight for i, gate in enumerate(self.gates)}}

    def describe(self) -> str:
        """Return one line per edit, in plain words."""
        lines = [f"system text: {self.system!r}"] if self.system is not None else []
        for site in self.sites:
            gate = "" if site.gate is None else f", where gate {site.gate} is open"
            where = f"{site.point} of {_layers(site.layers)}, {site.positions} tokens{gate}"
            lines.append(f"{site.op} {site.strength:g} x {site.vector} at {where}")
        for index, gate_ in enumerate(self.gates):
            read = f"probe of {gate_.point}[{gate_.layer}] at {gate_.position} is {gate_.rule} {gate_.threshold:g}"
            lines.append(f"gate {index} is open where the {read}")
        lines += [edit.describe() for edit in self.weights]
        return "\n".join(lines) or "nothing"

    def save(self, folder: Path) -> None:
        """Write `plan.json` and `tensors.safetensors` to `folder`, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / TENSORS, self._stored())
        write_json(folder / PLAN, self._record())

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read what `save` wrote.

        Raises:
            DataError: where a file is missing or is not a plan.
        """
        record, tensors = read_json(folder / PLAN), load_tensors(folder / TENSORS)
        where = str(folder / PLAN)
        return cls(
            sites=tuple(from_json(Site, item, where=where) for item in record["sites"]),
            gates=tuple(Gate(**item, weight=tensors.pop(f"gate {i}")) for i, item in enumerate(record["gates"])),
            weights=tuple(_edit(item, where) for item in record["weights"]),
            system=record["system"],
            tensors=tensors,
        )


class Intervention(Protocol):
    """What changes a model's behaviour: it gives its plan, says what it does, and goes to a folder."""

    def plan(self, lm: LM) -> Plan:
        """Return what the model's forward pass must do."""

    def describe(self) -> dict[str, Any]:
        """Return kind and settings as JSON values; equal for equal interventions."""

    def fingerprint(self) -> str:
        """Return 16 hex digits of settings and tensors."""

    def save(self, folder: Path) -> None:
        """Write `intervention.json` and `tensors.safetensors`."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to one safetensors file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, partial)
    partial.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors file.

    Raises:
        DataError: where the file is missing or broken.
    """
    try:
        return dict(load_file(path))
    except Exception as error:
        raise DataError(f"cannot read {path}: {error}") from None


def merge(plans: Iterable[Plan]) -> Plan:
    """Join plans in order: sites of one point fold left, system texts stand one below the other."""
    sites: list[Site] = []
    gates: list[Gate] = []
    weights: list[Edit] = []
    tensors: dict[str, Tensor] = {}
    texts = []
    for index, plan in enumerate(plans):
        prefix, offset = f"{index}.", len(gates)
        tensors |= {prefix + name: tensor for name, tensor in plan.tensors.items()}
        for site in plan.sites:
            gate = None if site.gate is None else site.gate + offset
            sites.append(dataclasses.replace(site, vector=prefix + site.vector, gate=gate))
        gates += plan.gates
        weights += [edit.renamed(prefix) for edit in plan.weights]
        texts += [plan.system] if plan.system is not None else []
    system = "\n\n".join(text for text in texts if text) if texts else None
    return Plan(sites=tuple(sites), gates=tuple(gates), weights=tuple(weights), system=system, tensors=tensors)


def check_positions(name: str) -> int | None:
    """Return k of `generated[:k]`, None for the other position names.

    Raises:
        ConfigError: for a name that is none of `POSITIONS`.
    """
    found = re.fullmatch(r"generated\[:(\d+)\]", name)
    if found:
        return int(found.group(1))
    if name not in POSITIONS[:-1]:
        raise ConfigError(f"positions {name!r} are not understood; allowed: {', '.join(POSITIONS)}")
    return None


def at_layer(tensor: Tensor, layer: int) -> Tensor:
    """Return the vector for a block: row `layer` of a Float["layer d_model"], or the vector itself."""
    return tensor[layer] if tensor.ndim == 2 else tensor


def unit(vector: Tensor) -> Tensor:
    """Return the vector at length 1 in float32, the length taken in float64; a zero vector stays zero."""
    wide = vector.double()
    return torch.nn.functional.normalize(wide, dim=0, eps=1e-300).float()


def _edit(record: dict[str, Any], where: str) -> Edit:
    if "module" in record:
        return from_json(WeightDelta, record, where=where)
    return from_json(WeightEdit, record, where=where)


def _check_point(point: str) -> None:
    if point not in POINTS:
        raise ConfigError(f"point {point!r} is not understood; allowed: {', '.join(POINTS)}")


def _layers(layers: tuple[int, ...]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    steps = {b - a for a, b in itertools.pairwise(layers)}
    shown = f"{layers[0]} to {layers[-1]}" if steps == {1} else ", ".join(map(str, layers))
    return f"layers {shown}"
