"""The job of `demur export`: model, intervention, floor, artefact, check, card; in a folder that appears whole."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from demur import fitted
from demur.errors import ConfigError
from demur.export import Exported, Exporter
from demur.export._card import card
from demur.export._folder import RECORD, staged
from demur.files import file_sha256, read_json, write_json, write_text
from demur.floor_records import FloorRecord, find
from demur.interventions import load as load_intervention
from demur.settings import PartSpec, build, parse_part
from demur.types import to_json

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention, Plan

FORMAT = "demur export 1"
CARD = "README.md"
TO_KEEP = "Fit a weaker one, or let `demur run` or `demur tune` choose under the floor"
TO_MEASURE = (
    "Measure it on harmful prompts that are not of the synthetic world, plain, attacked and as twins of borderline "
    "ones, 133 groups of each at least: `demur verify MODEL MODEL --with-b INTERVENTION --benchmark harmbench "
    "--benchmark harmbench:attack=all --benchmark file:path=TWINS --out FOLDER`, then --floor FOLDER (without "
    "--benchmark, verify takes the synthetic world, which does not count)"
)
PACKAGES = ("demur", "torch", "transformers", "peft", "gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An export that is known to be exact, not written yet."""

    part: PartSpec
    exporter: Exporter
    lm: LM
    intervention: Intervention
    plan: Plan
    record: FloorRecord
    method: str = ""
    """What fitted the intervention, with its settings; empty: not recorded."""

    def write(self, out: Path, *, below_floor: bool = False, command: str = "", overwrite: bool = False) -> Path:
        """Write the artefact with its card, checked by the consumer's own code; return its folder.

        Args:
            out: the folder; it appears whole or not at all.
            below_floor: let it leave although the floor is missed or was not measured. Recorded in the artefact.
            command: how it was made, for the card.
            overwrite: replace an earlier export.

        Raises:
            ConfigError: without `below_floor` where the floor is not kept; where `out` holds something else.
            ModelError: where the artefact does not do what the intervention does.
        """
        if self.record.state != "kept" and not below_floor:
            raise ConfigError(needs_flag(self.record))
        marks = {
            "floor": self.record.words,
            "below_floor": str(below_floor).lower(),
            "intervention": self.intervention.fingerprint(),
            "model": self.lm.ref.revision,
        }
        with staged(out, overwrite=overwrite) as folder:
            done = self.exporter(self.lm, self.plan, folder, marks)
            record = self._record(done, folder, below_floor, command)
            write_text(folder / CARD, card(record, self.record, _price(self.record)))
            write_json(folder / RECORD, record)
        return out

    def _record(self, done: Exported, folder: Path, below_floor: bool, command: str) -> dict[str, Any]:
        described = self.intervention.describe()
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        notes = [*done.notes, *_other_weights(described, self.lm)]
        versions = {name: version for name in PACKAGES if (version := _version(name))}
        return {
            "format": FORMAT,
            "target": self.part.name,
            "settings": dict(self.part.settings),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": to_json(self.lm.ref),
            "intervention": {
                "kind": described["kind"],
                "method": self.method,
                "fingerprint": self.intervention.fingerprint(),
                "data": list(dict.fromkeys(sha for sha in values(described, "data_sha") if sha)),
                "settings": described,
            },
            "plan": self.plan.describe().splitlines(),
            "floor": {
                "state": self.record.state,
                "words": self.record.words,
                "reason": self.record.reason,
                "result": to_json(self.record.floor),
            },
            "below_floor": below_floor,
            "checked": {**to_json(done.checked), "text": done.checked.text},
            "notes": notes,
            "files": {str(p.relative_to(folder)): file_sha256(p) for p in files},
            "command": command,
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        }


def prepare(
    intervention: Path,
    to: str,
    *,
    model: str = "",
    floor: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Export:
    """Load what is exported, refuse what the target cannot hold, and find the floor's record.

    Args:
        intervention: the folder of a saved intervention.
        to: a part: `merged`, `lora`, `gguf-vector` or `prefix`, with settings.
        model: as in `demur.load`; empty: the model that the intervention was fitted on.
        floor: the folder of the `demur run` or `demur verify` that measured it; by default the one around it.
        device: as in `demur.load`.
        dtype: as in `demur.load`.

    Raises:
        NotFound, ConfigError, DataError, ModelError: for what is not there, is for comparison only, or cannot be
            exported exactly.
    """
    from demur.lm import load

    spec = parse_part(to)
    spec = PartSpec(spec.name.replace("-", "_"), spec.settings)
    exporter = cast(Exporter, build("export", spec))
    loaded = load_intervention(intervention)
    if reason := fitted.comparison_only(intervention):
        raise ConfigError(f"{intervention} is there to be measured and compared, and is not exported: {reason}")
    lm = load(model or _own_model(loaded, intervention), device=device, dtype=dtype)
    made = of(lm, loaded, spec, exporter, find(intervention, loaded.fingerprint(), lm.ref, floor))
    return dataclasses.replace(made, method=fitted.method(intervention))


def of(lm: LM, intervention: Intervention, part: PartSpec, exporter: Exporter, record: FloorRecord) -> Export:
    """Return the export of an intervention on a loaded model.

    Raises:
        ConfigError: where the target cannot hold it exactly.
    """
    plan = intervention.plan(lm)
    exporter.refuse(lm, plan)
    return Export(part=part, exporter=exporter, lm=lm, intervention=intervention, plan=plan, record=record)


def needs_flag(record: FloorRecord) -> str:
    """Return why an export is held back, and what lets it go."""
    missed = record.state == "missed"
    what = "the safety floor is missed" if missed else "the safety floor was not measured"
    todo = TO_KEEP if missed else TO_MEASURE
    return (
        f"{what}: {record.reason.rstrip('.')}. {todo}, or export it all the same with --below-floor; its card then "
        f"says {record.words!r}"
    )


def values(record: Any, name: str) -> Iterator[Any]:
    """Yield every value that stands under a name anywhere in nested JSON values."""
    if isinstance(record, Mapping):
        if name in record:
            yield record[name]
        for value in record.values():
            yield from values(value, name)
    elif isinstance(record, list | tuple):
        for value in record:
            yield from values(value, name)


def _own_model(intervention: Intervention, folder: Path) -> str:
    """Return the model that an intervention names, or that was run beside it."""
    described = intervention.describe()
    named = [str(m["id"]) for m in values(described, "model") if isinstance(m, Mapping) and m.get("id")]
    named += [str(base) for base in values(described, "base") if base]
    if not named:
        from demur.records import RunFolder

        run = folder.absolute().parent / "after"
        named = [RunFolder.load(run).spec.model.id] if RunFolder(run).exists() else []
    if len(set(named)) != 1:
        said = f"it names {', '.join(sorted(set(named)))}" if named else "it names none"
        raise ConfigError(f"{folder}: say with --model which model the intervention is for; {said}")
    return named[0]


def _other_weights(described: Mapping[str, Any], lm: LM) -> list[str]:
    shas = {str(m.get("revision")) for m in values(described, "model") if isinstance(m, Mapping) and m.get("revision")}
    others = sorted(shas - {lm.ref.revision})
    return [f"It was fitted on other weights ({', '.join(others)}) than it is exported for."] if others else []


def _price(record: FloorRecord) -> Mapping[str, Any] | None:
    if record.folder is None or record.before is None or not (record.folder / "price.json").is_file():
        return None
    return cast("Mapping[str, Any]", read_json(record.folder / "price.json"))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
