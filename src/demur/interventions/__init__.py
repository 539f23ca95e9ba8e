"""Interventions: one file per stock kind, and what they share: saving, loading, fingerprints.

A folder holds `intervention.json` (kind and settings) and `tensors.safetensors`. Tensors inside settings are
replaced by their names; directions, gates, adapters and nested interventions by records.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from demur.directions import Direction
from demur.errors import DataError
from demur.files import read_json, write_json
from demur.lora import Lora
from demur.plan import Gate, Intervention, load_tensors, save_tensors

FILE, TENSORS = "intervention.json", "tensors.safetensors"


class Stock:
    """What the stock interventions share; each of them is a frozen dataclass whose fields are its settings."""

    __slots__ = ()

    @property
    def kind(self) -> str:
        """The name of the intervention: its file's."""
        return type(self).__module__.rpartition(".")[2]

    def describe(self) -> dict[str, Any]:
        """Return kind and settings as JSON values, tensors left out."""
        record, _ = pack(cast(Intervention, self))
        return cast("dict[str, Any]", _without_names(record))

    def fingerprint(self) -> str:
        """Return 16 hex digits of settings and tensors."""
        record, tensors = pack(cast(Intervention, self))
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write `intervention.json` and `tensors.safetensors` to `folder`, which is made if need be."""
        record, tensors = pack(cast(Intervention, self))
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / TENSORS, tensors)
        write_json(folder / FILE, {**record, "fingerprint": self.fingerprint()})


def load(folder: Path | str) -> Intervention:
    """Read an intervention from a folder that `save` wrote.

    Raises:
        DataError: where the folder holds none, or a broken one.
    """
    place = Path(folder)
    if not (place / FILE).is_file():
        raise DataError(
            f"no intervention in {place}: there is no {FILE}. `demur fit` and `demur run` write such folders"
        )
    record = read_json(place / FILE)
    if not isinstance(record, dict) or "kind" not in record:
        raise DataError(f"{place / FILE} is no intervention: it names no kind")
    made = unpack({k: v for k, v in record.items() if k != "fingerprint"}, load_tensors(place / TENSORS))
    if record.get("fingerprint", made.fingerprint()) != made.fingerprint():
        raise DataError(f"{place}: {FILE} and {TENSORS} do not belong together; fit the intervention again")
    return made


def pack(intervention: Intervention) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return an intervention as JSON values and named tensors."""
    tensors: dict[str, Tensor] = {}
    return cast("dict[str, Any]", _pack(intervention, "", tensors)), tensors


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Stock):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(cast(Any, value))}
        return {"kind": value.kind, **{k: _pack(v, f"{name}{k}.", tensors) for k, v in fields.items()}}
    if isinstance(value, Direction):
        tensors[name + "vectors"] = value.vectors
        return {"kind": "direction", **value.record(), "tensor": name + "vectors"}
    if isinstance(value, Gate):
        if value.weight is not None:
            tensors[name + "weight"] = value.weight
        return {"kind": "gate", **value.record(), "tensor": name + "weight"}
    if isinstance(value, Lora):
        tensors |= {name + key: tensor for key, tensor in value.tensors.items()}
        return {"kind": "lora", **value.record(), "tensor": name}
    if isinstance(value, tuple | list):
        return [_pack(item, f"{name}{i}.", tensors) for i, item in enumerate(value)]
    return value


def unpack(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Intervention:
    """Build an intervention from what `pack` gave.

    Raises:
        DataError: for a kind that does not exist, or settings that do not fit it.
    """
    made = _unpack(record, tensors)
    if not isinstance(made, Stock):
        raise DataError(f"{record.get('kind')!r} is no intervention")
    return cast(Intervention, made)


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item, tensors) for item in value)
    if not isinstance(value, Mapping) or "kind" not in value:
        return value
    rest = {k: v for k, v in value.items() if k not in ("kind", "tensor")}
    try:
        if value["kind"] == "direction":
            return Direction.of_record(rest, tensors[value["tensor"]])
        if value["kind"] == "lora":
            start = value["tensor"]
            return Lora.of_record(rest, {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)})
        if value["kind"] == "gate":
            return Gate.of_record(rest, tensors.get(value["tensor"]))
        return _class(str(value["kind"]))(**{k: _unpack(v, tensors) for k, v in rest.items()})
    except (KeyError, TypeError) as error:
        raise DataError(f"intervention of kind {value['kind']!r} cannot be read: {error}") from None


def _class(kind: str) -> Any:
    from demur import registry

    known = registry.names("interventions")
    if kind not in known and not kind.endswith(".py"):
        raise DataError(f"no intervention of kind {kind!r}; there are {', '.join(known)}")
    return registry.find("interventions", kind)


def _without_names(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_names(v) for k, v in value.items() if k != "tensor"}
    return [_without_names(v) for v in value] if isinstance(value, list) else value
