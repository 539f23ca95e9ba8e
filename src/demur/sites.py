"""Edits of the residual stream as data: what is done, where in a block, and to which tokens."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from demur.errors import ConfigError

Point = Literal["resid_pre", "norm_in", "attn_write", "attn_out", "mlp_write", "mlp_out", "resid_post"]
POINTS: tuple[Point, ...] = ("resid_pre", "norm_in", "attn_write", "attn_out", "mlp_write", "mlp_out", "resid_post")
"""Points of a block in the order in which they are computed.

`resid_pre` and `resid_post` are the stream before and after the block, `norm_in` is what attention reads,
`attn_out` and `mlp_out` are what is added to the stream, and `attn_write` and `mlp_write` are what the last
matrix gives before a post-norm: the same as `attn_out` and `mlp_out` where a model has no post-norm.
"""
POSITIONS = ("all", "prompt", "last_prompt", "from_instruction_end", "last", "generated", "generated[:k]")
"""Which tokens of a row, from absolute positions alone.

`prompt` is the rendered chat with its generation header and `last_prompt` its last token; `from_instruction_end` is
everything after the user's last message; `generated` is the answer, a prefilled beginning included, and
`generated[:k]` its first k tokens; `last` is the last token that stood there before the model wrote its first.
"""
OPS: Mapping[str, str] = {
    "add": "add {s} x {v}",
    "ablate": "ablate {s} x {v}",
    "set": "set {s} x {v}",
    "matrix": "add {s} x {x} times {v}",
    "toward": "move {s} of the way from {x} to {v}",
}
SOURCES = ("self", "last_prompt", "untouched")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One edit of the stream: h becomes h + D(h) at some tokens of some layers.

    With `v` the tensor at the layer, `u = v / |v|`, `s` the strength, `o` the origin (zero where none is named) and
    `x` the source:

    | op | D(h) |
    |---|---|
    | `add` | s v |
    | `ablate` | - s <h - o, u> u |
    | `set` | - <h - o, u> u + s v |
    | `matrix` | s x M |
    | `toward` | s (v - x) |

    A gate multiplies D: closed (0) leaves h as it is bit for bit, 1 is the edit itself, and any other value scales
    it. A gate of several choices has one value for each; the tensor then has a first axis of that many, and the
    changes are summed: h + sum_k g_k D_k(h).
    """

    op: Literal["add", "ablate", "set", "matrix", "toward"]
    layers: tuple[int, ...]
    point: Point
    vector: str
    """Name of a tensor of the plan: Float[" d_model"], or Float["layer d_model"] with one row per block of the model;
    for `matrix` Float["d_model d_model"] or Float["layer d_model d_model"], which multiplies rows from the right."""
    strength: float
    positions: str = "all"
    gate: int | None = None
    """Index of the plan's gate that multiplies the change."""
    origin: str = ""
    """Name of the tensor o of `ablate` and `set`, shaped as `vector`."""
    source: Literal["self", "last_prompt", "untouched"] = "self"
    """What `matrix` and `toward` read as x: the token itself; the row's last prompt token as it stands at this place
    in this very pass; or that token in the untouched model. The last two are read once and kept for the row."""
    keep_norm: bool = False
    """Whether every edited token is given back the length it had before."""
    branches: tuple[int, ...] | None = None
    """Which branches it acts on, 0 being the base; None: all."""

    def __post_init__(self) -> None:
        check_positions(self.positions)
        check_point(self.point)
        if self.op not in OPS or self.source not in SOURCES:
            raise ConfigError(
                f"site: op {self.op!r} with source {self.source!r} is not understood; "
                f"allowed: {', '.join(OPS)} with {', '.join(SOURCES)}"
            )
        if self.origin and self.op not in ("ablate", "set"):
            raise ConfigError(f"site: an origin belongs to ablate and set, not to {self.op}")
        if self.source != "self" and self.op not in ("matrix", "toward"):
            raise ConfigError(f"site: a source belongs to matrix and toward, not to {self.op}")

    @property
    def named(self) -> tuple[str, ...]:
        """The names of the tensors it needs."""
        return (self.vector, self.origin) if self.origin else (self.vector,)

    @property
    def idle(self) -> bool:
        """Whether it changes nothing, whatever the model."""
        return self.strength == 0 and self.op != "set"

    def moved(self, prefix: str, gates: int, branches: int) -> Site:
        """Return it for a plan in which its tensors are renamed and its gates and branches stand further back."""
        return dataclasses.replace(
            self,
            vector=prefix + self.vector,
            origin=self.origin and prefix + self.origin,
            gate=None if self.gate is None else self.gate + gates,
            branches=None if self.branches is None else tuple(b and b + branches for b in self.branches),
        )

    def describe(self) -> str:
        """Return what it does, in plain words."""
        source = {"self": "the state", "last_prompt": "the last prompt state", "untouched": "the untouched state"}
        what = OPS[self.op].format(s=f"{self.strength:g}", v=self.vector, x=source[self.source])
        extra = f" around {self.origin}" if self.origin else ""
        extra += ", length kept" if self.keep_norm else ""
        where = f"{self.point} of {layers_text(self.layers)}, {self.positions} tokens"
        if self.branches is not None:
            where += f", of branches {', '.join(map(str, self.branches))}"
        gate = "" if self.gate is None else f", where gate {self.gate} is open"
        return f"{what}{extra} at {where}{gate}"


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


def check_point(point: str) -> None:
    """Raise ConfigError for a point that is none of `POINTS`."""
    if point not in POINTS:
        raise ConfigError(f"point {point!r} is not understood; allowed: {', '.join(POINTS)}")


def at_layer(tensor: Tensor, layer: int) -> Tensor:
    """Return the vector for a block: row `layer` of a Float["layer d_model"], or the vector itself."""
    return tensor[layer] if tensor.ndim == 2 else tensor


def unit(vector: Tensor) -> Tensor:
    """Return the vector at length 1 in float32, the length taken in float64; a zero vector stays zero."""
    wide = vector.double()
    return torch.nn.functional.normalize(wide, dim=-1, eps=1e-300).float()


def layers_text(layers: tuple[int, ...]) -> str:
    """Return layers in words, runs as `layers 2 to 5`."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    steps = {b - a for a, b in itertools.pairwise(layers)}
    shown = f"{layers[0]} to {layers[-1]}" if steps == {1} else ", ".join(map(str, layers))
    return f"layers {shown}"
