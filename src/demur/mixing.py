"""Branches and what is made of their logits, as data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from demur.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """The same conversation told in another way, read beside the base; every branch gets the base's answer tokens.

    A branch that no logits are mixed with is read once, for the probes that name it, and not decoded.
    """

    system: str | None = None
    """A system text put after the plan's own and before the prompt's."""
    prefill: str = ""
    """Put after the generation header, before the answer."""

    def describe(self) -> str:
        """Return what differs from the base, in plain words."""
        parts = [f"system text {self.system!r}"] if self.system is not None else []
        parts += [f"prefill {self.prefill!r}"] if self.prefill else []
        return ", ".join(parts) or "the same text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """Mix the next-token logits z of the base with those of another branch, z*: s = a z + b z*.

    At steps where the branches agree, `agreed` replaces `mix`. They agree when 1 / r >= agreement and
    rho >= agreement * rho*, with r the rank of z*'s likeliest token in z, and rho and rho* the largest probabilities
    of the two (AdaCD, arXiv 2604.17132). Tokens less likely than `plausible` times the likeliest of the base cannot
    be drawn (adaptive plausibility constraint). Log-probabilities may stand for logits: what they add to a row
    cancels wherever a + b = 1.
    """

    branch: int = 1
    """Index of the other branch; the first of the plan's branches is 1."""
    mix: tuple[float, float]
    """(a, b)."""
    agreed: tuple[float, float] | None = None
    agreement: float = 0.9
    plausible: float = 0.0
    """Between 0 (no constraint) and 1."""
    horizon: int | None = None
    """After this many written tokens the other branch is left and the base alone goes on; None: never."""
    gate: int | None = None
    """Index of the gate that must be above 0; where it is not, the row is the base's from the start."""

    def __post_init__(self) -> None:
        for name, value, fits, allowed in (
            ("branch", self.branch, self.branch >= 1, "at least 1 (0 is the base)"),
            ("agreement", self.agreement, 0 < self.agreement <= 1, "above 0 and at most 1"),
            ("plausible", self.plausible, 0 <= self.plausible <= 1, "from 0 to 1"),
            ("horizon", self.horizon, self.horizon is None or self.horizon >= 0, "0 or more, or null"),
        ):
            if not fits:
                raise ConfigError(f"logits: {name} is {value}; it must be {allowed}")
        for pair in (self.mix, self.agreed or (0.0, 0.0)):
            if len(pair) != 2 or not all(math.isfinite(x) for x in pair):
                raise ConfigError(f"logits: {pair} are no two finite numbers a and b of a z + b z*")

    @property
    def idle(self) -> bool:
        """Whether it leaves the base's logits as they are, so that the branch need not be read."""
        pairs = {self.mix, self.agreed or self.mix}
        return self.horizon == 0 or (pairs == {(1.0, 0.0)} and self.plausible == 0)

    @property
    def _exact(self) -> bool:
        """Whether a + b = 1: then s is exactly z where z* is z, and exactly z* where a = 0."""
        return all(abs(a + b - 1) < 1e-12 for a, b in (self.mix, self.agreed or self.mix))

    def agree(self, base: Float[Tensor, "row vocab"], other: Float[Tensor, "row vocab"]) -> Bool[Tensor, " row"]:
        """Return for which rows the branches agree."""
        first = likeliest(other)[:, None]
        wanted = base.gather(-1, first)
        if self.agreement > 0.5:  # 1 / r is 1, 1/2, ...: only r = 1 will do
            same = wanted >= _largest(base)
        else:
            same = 1 / ((base > wanted).sum(-1, keepdim=True) + 1) >= self.agreement
        sure, sure_other = base.softmax(-1), other.softmax(-1)
        return (same & (_largest(sure) >= self.agreement * sure_other.gather(-1, first)))[:, 0]

    def combine(
        self, base: Float[Tensor, "row vocab"], other: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row vocab"]:
        """Return the mixed logits, -inf for tokens that are not plausible."""
        a: Any = self.mix[0]
        b: Any = self.mix[1]
        if self.agreed is not None and self.agreed != self.mix:
            agree = self.agree(base, other)[:, None]
            a, b = (torch.where(agree, one, two) for one, two in zip(self.agreed, self.mix, strict=True))
        mixed = torch.lerp(base, other, b) if self._exact else a * base + b * other
        if self.plausible == 0:
            return mixed
        kept = base.clone().ge_(_largest(base) + math.log(self.plausible))  # 1 or 0, in float: a mask is slow on a CPU
        return mixed.sub_(kept.reciprocal_().sub_(1))

    def moved(self, gates: int, branches: int) -> Logits:
        """Return it for a plan in which its gates and branches stand further back."""
        gate = None if self.gate is None else self.gate + gates
        return dataclasses.replace(self, gate=gate, branch=self.branch + branches)

    def describe(self) -> str:
        """Return what it does, in plain words."""
        text = f"logits {self.mix[0]:g} x base + {self.mix[1]:g} x branch {self.branch}"
        if self.agreed is not None:
            text += f", {self.agreed[0]:g} and {self.agreed[1]:g} where they agree to {self.agreement:g}"
        text += f", of tokens above {self.plausible:g} of the likeliest" if self.plausible else ""
        text += "" if self.horizon is None else f", for {self.horizon} tokens"
        return text + ("" if self.gate is None else f", where gate {self.gate} is open")


def likeliest(logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    """Return the first of the likeliest tokens of each row; numpy finds it ten times as fast as torch on a CPU."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _largest(logits: Tensor) -> Tensor:
    return logits.amax(-1, keepdim=True)
