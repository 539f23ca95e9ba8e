"""`Plan`: an intervention as data, read by the forward pass and the decode loop row by row.

The language, for authors of methods. A method fits whatever it needs and gives an intervention, whose `plan(lm)` is
one `Plan`. A plan holds tensors by name and up to seven lists or texts; each is optional, and a plan without any
changes nothing:

- `system`: a text put before the prompt's own system text.
- `soft_tokens`: embeddings that stand where that text would stand.
- `branches`: the same conversation under another system text or with another beginning, read beside the base in the
  same batch (`mixing.Branch`). Branch 0 is the base, the plan's first is 1.
- `gates`: a number per row, made from a probe of the untouched model's states (`gates.Gate`, `gates.Probe`).
- `sites`: edits of the stream, h + D(h), at layers, a point and positions, times a gate's value (`sites.Site`).
- `logits`: what is made of the branches' next-token logits, and for how many tokens (`mixing.Logits`).
- `weights`: edits of the model's weights.

What holds for all of them:

- Positions are absolute and belong to each row: no edit depends on padding, on neighbours, on whether there is a
  cache or on when a row entered the batch. Sites with the same point act in the order of the list.
- A gate belongs to a request. It is read once from the untouched model (no site of the plan has acted), before or
  while the prompt is read, and all branches share it; or, where it says so, by each token for itself.
- The answer is one: whatever a branch is told, it is given the tokens that were drawn from the mixed logits. Branches
  of a row leave the batch when the horizon is reached or the row's gate is shut; the base goes on alone.
- When things happen is part of the parts: a site by its positions (`generated[:k]` ends by itself), logits by their
  horizon, gates by their lifetime. There is no other schedule.
- Plans are composed left to right by `merge`: sites fold, system texts stand one below the other, gates and branches
  are renumbered, and at most one of the plans may mix logits, and one bring soft tokens.
- Strength 0, a gate of 0, a horizon of 0 and an empty plan give the untouched model bit for bit.
- Rows of different plans share a batch, unless a plan changes weights.

A plan goes to a folder (JSON and safetensors, with a version; unknown fields are errors) and has a fingerprint.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from demur.errors import ConfigError, DataError
from demur.files import read_json, write_json
from demur.gates import Gate, Probe
from demur.mixing import Branch, Logits
from demur.sites import POINTS, POSITIONS, Point, Site, at_layer, check_positions, layers_text, unit
from demur.types import from_json, to_json

if TYPE_CHECKING:
    from demur.lm import LM

__all__ = [
    "POINTS",
    "POSITIONS",
    "Branch",
    "Edit",
    "Gate",
    "Intervention",
    "Logits",
    "Plan",
    "Point",
    "Probe",
    "Site",
    "WeightDelta",
    "WeightEdit",
    "at_layer",
    "check_positions",
    "load_tensors",
    "merge",
    "save_tensors",
    "unit",
]

PLAN, TENSORS = "plan.json", "tensors.safetensors"
FORMAT = 2
"""Version of `plan.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightEdit:
    """W - s r r^T W on the matrices that write to the stream, r a unit vector of the stream.

    Where a post-norm with gain g follows the matrix, r becomes normalise(g * r): what is then taken out of the
    matrix's output is what shows up along r after the norm.

    With `norm`, lengths of W are kept: those of its columns (the vectors that the inputs write: each is edited at
    length 1, twice, and given its length back, so that nothing of r comes back), or those of its rows (each is put to
    length 1, the matrix edited, and the rows given their lengths back, which brings a little of r back). Biases are
    edited without.
    """

    part: Literal["embedding", "attention", "mlp"]
    layers: tuple[int, ...]
    vector: str
    strength: float = 1.0
    norm: Literal["none", "column", "row"] = "none"

    @property
    def named(self) -> tuple[str, ...]:
        """The names of the tensors it needs."""
        return (self.vector,)

    def renamed(self, prefix: str) -> WeightEdit:
        """Return it with `prefix` before the names of its tensors."""
        return dataclasses.replace(self, vector=prefix + self.vector)

    def describe(self) -> str:
        """Return what it does, in plain words."""
        where = "the embedding" if self.part == "embedding" else f"{self.part} of {layers_text(self.layers)}"
        kept = "" if self.norm == "none" else f", lengths of {self.norm}s kept"
        return f"project {self.strength:g} x {self.vector} out of the weights of {where}{kept}"


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
    soft_tokens: str = ""
    """Name of a tensor Float["token d_model"]: embeddings that stand after the system text, on every branch."""
    branches: tuple[Branch, ...] = ()
    logits: Logits | None = None
    weights: tuple[Edit, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [*(name for part in (*self.sites, *self.weights) for name in part.named)]
        for name in (*named, *([self.soft_tokens] if self.soft_tokens else ())):
            if name not in self.tensors:
                raise ConfigError(f"plan: the tensor {name!r} is named by an edit, but is not there")
        for site in self.sites:
            self._check("a site", site.gate, site.branches or ())
        if self.logits is not None:
            self._check("logits", self.logits.gate, (self.logits.branch,))
        for index, gate in enumerate(self.gates):
            self._check(f"gate {index}", None, () if gate.probe is None else (gate.probe.branch,))
            if any(not 0 <= other < index for other in gate.of):
                raise ConfigError(f"plan: gate {index} joins {gate.of}, but only gates before it can be joined")
            if any(self.gates[other].lifetime != gate.lifetime for other in gate.of):
                raise ConfigError(f"plan: gate {index} joins gates of another lifetime than its own")
        mixes = self.logits.gate if self.logits is not None else None
        if mixes is not None and self.gates[mixes].lifetime != "request":
            raise ConfigError("plan: logits need a gate that is read once per request")

    def _check(self, what: str, gate: int | None, branches: Iterable[int]) -> None:
        if gate is not None and not 0 <= gate < len(self.gates):
            raise ConfigError(f"plan: {what} names gate {gate}, but there are {len(self.gates)} gates")
        for branch in branches:
            if not 0 <= branch <= len(self.branches):
                count = len(self.branches)
                raise ConfigError(f"plan: {what} names branch {branch}, but there are {count} beside the base")

    @property
    def mixes(self) -> int:
        """The branch whose logits are mixed with the base's; 0 for none."""
        return 0 if self.logits is None or self.logits.idle else self.logits.branch

    def choices(self, gate: int) -> int:
        """Return how many values a gate has for each row."""
        own = self.gates[gate]
        return max(self.choices(i) for i in own.of) if own.of else own.choices

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal for plans that do the same (edits, order, texts, tensors)."""
        digest = hashlib.sha256(repr(self._record()).encode())
        for name, tensor in sorted(self._stored().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _record(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "sites": to_json(self.sites),
            "gates": [gate.record() for gate in self.gates],
            "system": self.system,
            "soft_tokens": self.soft_tokens,
            "branches": to_json(self.branches),
            "logits": None if self.logits is None else to_json(self.logits),
            "weights": to_json(self.weights),
        }

    def _stored(self) -> dict[str, Tensor]:
        weights = {f"gate {i}": gate.weight for i, gate in enumerate(self.gates) if gate.weight is not None}
        return {**self.tensors, **weights}

    def describe(self) -> str:
        """Return one line per part, in plain words."""
        lines = [f"system text: {self.system!r}"] if self.system is not None else []
        lines += [f"soft tokens: {self.soft_tokens}"] if self.soft_tokens else []
        lines += [f"branch {index}: {branch.describe()}" for index, branch in enumerate(self.branches, 1)]
        lines += [site.describe() for site in self.sites]
        lines += [f"gate {index} {gate.describe()}" for index, gate in enumerate(self.gates)]
        lines += [self.logits.describe()] if self.logits is not None else []
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
            DataError: where a file is missing, is not a plan, is of another version, or holds an unknown field.
        """
        record, tensors = read_json(folder / PLAN), load_tensors(folder / TENSORS)
        where = str(folder / PLAN)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            found = record.get("format") if isinstance(record, dict) else None
            raise DataError(f"{where} is a plan of format {found!r}; this version reads {FORMAT}: make it anew")
        unknown = set(record) - set(cls()._record())
        if unknown:
            raise DataError(f"unknown field {min(unknown)!r} in {where}; allowed: {', '.join(cls()._record())}")
        weights = [tensors.pop(f"gate {i}", None) for i in range(len(record.get("gates", ())))]
        gates = zip(record.get("gates", ()), weights, strict=True)
        return cls(
            sites=tuple(from_json(Site, item, where=where) for item in record.get("sites", ())),
            gates=tuple(Gate.of_record(item, weight) for item, weight in gates),
            weights=tuple(_edit(item, where) for item in record.get("weights", ())),
            branches=tuple(from_json(Branch, item, where=where) for item in record.get("branches", ())),
            logits=from_json(Logits, record["logits"], where=where) if record.get("logits") else None,
            system=record.get("system"),
            soft_tokens=record.get("soft_tokens", ""),
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
    """Join plans, left to right.

    Sites of one point act in order, system texts stand one below the other, gates and branches are renumbered.

    Raises:
        ConfigError: where more than one of them mixes logits, or brings soft tokens.
    """
    parts = list(plans)
    made: dict[str, list[Any]] = {name: [] for name in ("sites", "gates", "branches", "weights", "logits", "soft")}
    tensors: dict[str, Tensor] = {}
    for index, plan in enumerate(parts):
        prefix, gates, branches = f"{index}.", len(made["gates"]), len(made["branches"])
        tensors |= {prefix + name: tensor for name, tensor in plan.tensors.items()}
        made["sites"] += [site.moved(prefix, gates, branches) for site in plan.sites]
        made["gates"] += [gate.moved(gates, branches) for gate in plan.gates]
        made["branches"] += plan.branches
        made["weights"] += [edit.renamed(prefix) for edit in plan.weights]
        made["logits"] += [plan.logits.moved(gates, branches)] if plan.logits is not None else []
        made["soft"] += [prefix + plan.soft_tokens] if plan.soft_tokens else []
    for name, what in (("logits", "mix logits"), ("soft", "bring soft tokens")):
        if len(made[name]) > 1:
            raise ConfigError(f"{len(made[name])} of the plans {what}; at most one may")
    texts = [plan.system for plan in parts if plan.system is not None]
    return Plan(
        sites=tuple(made["sites"]),
        gates=tuple(made["gates"]),
        branches=tuple(made["branches"]),
        weights=tuple(made["weights"]),
        logits=made["logits"][0] if made["logits"] else None,
        soft_tokens=made["soft"][0] if made["soft"] else "",
        system="\n\n".join(text for text in texts if text) if texts else None,
        tensors=tensors,
    )


def _edit(record: dict[str, Any], where: str) -> Edit:
    if "module" in record:
        return from_json(WeightDelta, record, where=where)
    return from_json(WeightEdit, record, where=where)
