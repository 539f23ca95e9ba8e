"""Probes and gates as data: what is read of a row, and how much of an edit the row gets for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from demur.errors import ConfigError, DataError
from demur.sites import Point, check_point, check_positions, layers_text
from demur.types import from_json, to_json

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

FEATURES = ("dot", "cosine", "condition")
RULES = ("above", "below", "sign", "value", "argmax", "softmax")
JOINS = ("all", "any", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """States of the untouched model, read once per row: the mean over the tokens named, at each layer."""

    layers: tuple[int, ...]
    point: Point = "resid_post"
    position: str = "last_prompt"
    """One of `sites.POSITIONS`; of what the model writes itself nothing can be read."""
    minus: str = ""
    """Another position, whose mean is subtracted: a transition between two places."""
    branch: int = 0
    """On which branch it is read, 0 being the base."""

    def __post_init__(self) -> None:
        check_point(self.point)
        for position in (self.position, self.minus or "all"):
            check_positions(position)
        if not self.layers:
            raise ConfigError("probe: no layers are named")

    def describe(self) -> str:
        """Return what it reads, in plain words."""
        where = f"{self.point}[{', '.join(map(str, self.layers))}]" if len(self.layers) < 4 else ""
        where = where or f"{self.point} of {layers_text(self.layers)}"
        less = f" less {self.minus}" if self.minus else ""
        return f"{where} at {self.position}{less}" + (f" of branch {self.branch}" if self.branch else "")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """How much of an edit a row gets: a score of what a probe reads, then a rule that makes values of it.

    The score of a choice is the mean over the probe's layers of the feature of the state h and the weight w, plus
    the bias: `dot` <h, w>, `cosine` cos(h, w), `condition` cos(h, tanh(<h, w> w / <w, w>)) (CAST, Lee et al., arXiv
    2409.05907). The rule turns scores into values: `above` and `below` the threshold 1, else 0; `sign` 1 at or above
    it, else -1; `value` the score itself; `argmax` 1 for the best choice if it is above the threshold, else 0;
    `softmax` over the choices.

    Gates can be joined: `all` multiplies the values of the gates in `of`, `any` takes their largest, `none` is 1
    less that; such a gate reads nothing itself.

    With `lifetime="request"` it is read from the untouched model, while the prompt is read, then kept for the row
    and all its branches. With `lifetime="token"` every token is scored by its own state, as it stands in this pass
    when the gate's layer is reached; the probe's position then means nothing.
    """

    probe: Probe | None = None
    weight: Float[Tensor, ...] | None = None
    """Float[" d_model"], Float["layer d_model"] with one row for each of the probe's layers, or
    Float["choice layer d_model"]."""
    feature: Literal["dot", "cosine", "condition"] = "dot"
    bias: float = 0.0
    rule: Literal["above", "below", "sign", "value", "argmax", "softmax", "all", "any", "none"] = "above"
    threshold: float = 0.0
    of: tuple[int, ...] = ()
    """Indices of the gates that are joined; they stand before this one."""
    lifetime: Literal["request", "token"] = "request"

    def __post_init__(self) -> None:
        if self.rule not in (*RULES, *JOINS) or self.feature not in FEATURES:
            raise ConfigError(
                f"gate: rule {self.rule!r} with feature {self.feature!r} is not understood; "
                f"allowed: {', '.join((*RULES, *JOINS))} with {', '.join(FEATURES)}"
            )
        if self.lifetime not in ("request", "token"):
            raise ConfigError(f"gate: lifetime {self.lifetime!r} is not understood; allowed: request, token")
        if (self.rule in JOINS) != bool(self.of) or (self.rule in JOINS) != (self.probe is None):
            raise ConfigError("gate: give a probe and its weight, or a rule of all, any or none with gates to join")
        if self.rule in JOINS:
            return
        if self.weight is None or self.weight.ndim not in (1, 2, 3):
            raise ConfigError("gate: its weight must have the shape (d_model), (layer, d_model) or (choice, ...)")
        if self.probe and self.weight.ndim > 1 and self.weight.shape[-2] != len(self.probe.layers):
            rows, layers = self.weight.shape[-2], len(self.probe.layers)
            raise ConfigError(f"gate: its weight has {rows} rows for the {layers} layers that its probe reads")
        if self.lifetime == "token" and len(self.probe.layers if self.probe else ()) != 1:
            raise ConfigError("gate: one that is read at every token reads one layer")

    @property
    def choices(self) -> int:
        """How many values it has for each row; 1 for gates that are joined, which take their parts' number."""
        return int(self.weight.shape[0]) if self.weight is not None and self.weight.ndim == 3 else 1

    def score(self, states: Float[Tensor, "... d_model"], layer: int) -> Float[Tensor, "... choice"]:
        """Return the share of the score that one of the probe's layers gives, bias left out."""
        if self.weight is None or self.probe is None:  # cannot happen: joined gates are not read
            return states.new_zeros((*states.shape[:-1], 1))
        wide, index = states.float(), self.probe.layers.index(layer)
        weight = self.weight.to(wide.device, torch.float32)
        weight = (
            weight[:, index] if weight.ndim == 3 else weight[index : index + 1] if weight.ndim == 2 else weight[None]
        )
        along = wide @ weight.T
        if self.feature == "dot":
            return along / len(self.probe.layers)
        target = (
            weight
            if self.feature == "cosine"
            else torch.tanh(along[..., None] * weight / weight.square().sum(-1, keepdim=True))
        )
        return cosine_similarity(wide[..., None, :], target, dim=-1) / len(self.probe.layers)

    def values(self, scores: Float[Tensor, "... choice"]) -> Float[Tensor, "... choice"]:
        """Return what the rule makes of scores, bias left out of them."""
        score = scores + self.bias
        if self.rule == "value":
            return score
        if self.rule == "softmax":
            return score.softmax(-1)
        above = score > self.threshold
        if self.rule == "sign":
            return torch.where(score >= self.threshold, 1.0, -1.0)
        if self.rule == "below":
            return (score < self.threshold).float()
        if self.rule == "argmax":
            best = torch.zeros_like(score).scatter_(-1, score.argmax(-1, keepdim=True), 1.0)
            return best * above
        return above.float()

    def joined(self, values: list[Float[Tensor, "row choice"]]) -> Float[Tensor, "row choice"]:
        """Return what a rule of all, any or none makes of other gates' values."""
        found = values[0]
        for other in values[1:]:
            found = found * other if self.rule == "all" else torch.maximum(found, other)
        return 1 - found if self.rule == "none" else found

    def opens(self, states: Float[Tensor, "row d_model"]) -> Bool[Tensor, " row"]:
        """Return for which states, read at the probe's one place, it lets anything happen: a value that is not 0.

        Raises:
            ConfigError: for a gate that joins others or reads several layers.
        """
        if self.probe is None or len(self.probe.layers) != 1:
            raise ConfigError("gate: only one that reads a single layer can be asked about states")
        return (self.values(self.score(states, self.probe.layers[0])) != 0).any(-1)

    def moved(self, gates: int, branches: int) -> Gate:
        """Return it for a plan in which its gates and branches stand further back."""
        probe = self.probe
        if probe is not None and probe.branch:
            probe = dataclasses.replace(probe, branch=probe.branch + branches)
        return dataclasses.replace(self, probe=probe, of=tuple(i + gates for i in self.of))

    def record(self) -> dict[str, Any]:
        """Return everything but the weight, as JSON values."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "weight"]
        return {name: to_json(getattr(self, name)) for name in names}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], weight: Tensor | None) -> Gate:
        """Build a gate from what `record` gave, and its weight.

        Raises:
            DataError: for a field that gates do not have.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"weight"}
        unknown = set(record) - known
        if unknown:
            raise DataError(f"unknown field {min(unknown)!r} in Gate; allowed: {', '.join(sorted(known))}")
        probe = record.get("probe")
        made = {**record, "of": tuple(record.get("of", ()))}
        made["probe"] = None if probe is None else from_json(Probe, probe, where="gate")
        return cls(weight=weight, **made)

    def describe(self) -> str:
        """Return when it is open, in plain words."""
        if self.probe is None:
            return f"is {self.rule} of gates {', '.join(map(str, self.of))}"
        feature = {"dot": "probe", "cosine": "cosine", "condition": "condition"}[self.feature]
        what = f"the {feature} of {self.probe.describe()}"
        if self.lifetime == "token":
            what = f"the {feature} of {self.probe.point}[{self.probe.layers[0]}] at each token"
        if self.rule in ("above", "below"):
            return f"is open where {what} is {self.rule} {self.threshold:g}"
        says = {"sign": f"1 at or above {self.threshold:g}, else -1", "value": "as it is", "softmax": "as shares"}
        says["argmax"] = f"1 for the best of {self.choices} if above {self.threshold:g}"
        return f"is {what}: {says[self.rule]}"
