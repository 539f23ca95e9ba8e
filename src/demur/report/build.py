"""From the saved records of a run or recipe folder to `ReportData`. Nothing is measured here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from demur import files
from demur.errors import DataError
from demur.records import RUN, LoadedRun, RunFolder
from demur.report import agreement, changes, heat
from demur.report.boards import boards, freed_correct
from demur.report.data import (
    Coordinate,
    FloorView,
    Rate,
    ReportData,
    Row,
    Stratum,
    Sweep,
    Trial,
)
from demur.report.provenance import measure_command, run_facts
from demur.results import POOLED
from demur.types import from_json

PRICES = (
    (
        "price_kl_first",
        "Price, first token",
        "KL of the first answer token on neutral prompts, against the untouched model",
    ),
    (
        "price_kl",
        "Price, whole answer",
        "KL per teacher-forced answer token on neutral prompts, against the untouched model",
    ),
)


def build(folder: Path, run: LoadedRun | None = None) -> ReportData:
    """Read a run folder, or a recipe folder with `before/` and perhaps `after/`, into what a report shows.

    Args:
        folder: a run folder, or a recipe folder whose `before/` is one.
        run: what the run folder holds, where it has been read already.

    Raises:
        DataError: when the folder holds no run, or a record in it is not what its schema says.
    """
    single = (folder / RUN).is_file()
    first = folder if single else folder / "before"
    if not (first / RUN).is_file():
        raise DataError(
            f"no run to report in {folder}: it has neither {RUN} nor before/{RUN}. "
            "Give the folder that `demur measure` or `demur run` made."
        )
    before = run if single and run is not None else RunFolder.load(first)
    second = folder / "after"
    after = None if single or not (second / RUN).is_file() else RunFolder.load(second)
    extras = (
        {} if single else {name: _json(folder / f"{name}.json") for name in ("select", "floor", "explain", "price")}
    )
    return _assemble(folder, before, after, extras)


def _assemble(
    folder: Path, before: LoadedRun, after: LoadedRun | None, extras: Mapping[str, Mapping[str, Any] | None]
) -> ReportData:
    floor = _floor(extras.get("floor"))
    old = changes.judged(before)
    new = changes.judged(after) if after is not None else None
    rows = changes.pair_up(old, new, floor.newly_unsafe if floor else ())
    price = extras.get("price")
    spec = before.spec
    organism = spec.model.id.split(":")[0] == "organism"
    recipe = folder / "recipe.toml"
    written = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    settings = _settings(written, recipe)
    return ReportData(
        title=str(settings.get("title") or "") or _title(before),
        model=spec.model.id,
        intervention=_intervention(after or before),
        created=(after or before).spec.created,
        organism=organism,
        off_world=tuple(p.name for p in spec.benchmarks if p.name != "world") if organism else (),
        boards=boards(before, after, old, new),
        compared=after is not None,
        freed_correct=freed_correct(rows),
        heats=heat.heats(old, new),
        agreements=agreement.agreements(after or before),
        disputed=agreement.disputed(after or before, rows, compared=after is not None),
        price=_price(price) if price else (),
        price_by_position=tuple(r for r in map(Rate.of, (price or {}).get("by_position") or ()) if r is not None),
        price_note=str((price or {}).get("note") or ""),
        floor=floor,
        sweep=_sweep(extras.get("select")),
        boundary=extras.get("explain"),
        coordinates=_coordinates(folder),
        transcripts=changes.transcripts(
            rows, compared=after is not None, sample=int(settings.get("examples", changes.SAMPLE))
        ),
        transitions=changes.transitions(rows),
        unscored=changes.unscored(old, new),
        n_rows=len(rows),
        leaks=_leaks(folder),
        sides=_sides(folder),
        runs=tuple(run_facts(name, path, run) for name, path, run in _runs(folder, before, after)),
        recipe=written,
        command=f"demur run {recipe.name}" if recipe.is_file() else measure_command(spec),
    )


def _runs(folder: Path, before: LoadedRun, after: LoadedRun | None) -> list[tuple[str, Path, LoadedRun]]:
    if (folder / RUN).is_file():
        return [("run", folder, before)]
    runs = [("before", folder / "before", before)]
    return runs if after is None else [*runs, ("after", folder / "after", after)]


def _leaks(folder: Path) -> tuple[str, ...]:
    """Return in words what `overlap.json` says of prompts that return."""
    path = folder / "overlap.json"
    rows = files.read_json(path) if path.is_file() else []
    counts = (("exact_b", "exactly"), ("near_b", "nearly"), ("grouped", "by their group"))
    return tuple(
        f"of {row['size_b']} prompts of {row['b']} ({row['later']}) stand in {row['a']} ({row['earlier']}): "
        + ", ".join(f"{row[key]} {how}" for key, how in counts if row.get(key))
        for row in rows
    )


def _sides(folder: Path) -> tuple[str, str]:
    """Return what `demur verify` calls its two sides."""
    found = _json(folder / "verify.json") or {}
    return str(found.get("a") or ""), str(found.get("b") or "")


def _json(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    value = files.read_json(path)
    if not isinstance(value, Mapping):
        raise DataError(f"{path} holds {type(value).__name__}, not an object; make it again or remove it")
    return value


def _coordinates(folder: Path) -> tuple[Coordinate, ...]:
    lines, whole = folder / "coordinates.jsonl", folder / "coordinates.json"
    if lines.is_file():
        return tuple(files.read_rows(lines, Coordinate))
    if whole.is_file():
        return tuple(from_json(Coordinate, row, where=str(whole)) for row in files.read_json(whole))
    return ()


def _settings(written: str, path: Path) -> Mapping[str, Any]:
    """Return the recipe's `[report]` table."""
    try:
        found = tomllib.loads(written).get("report")
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is not TOML: {error}; `demur run` writes it anew with --overwrite") from None
    return found if isinstance(found, Mapping) else {}


def _title(run: LoadedRun) -> str:
    names = [name for name in dict.fromkeys(m.benchmark for m in run.metrics) if name != POOLED]
    names = names or [p.name for p in run.spec.benchmarks]
    if len(names) > 3:
        return f"{run.spec.model.id} on {len(names)} benchmarks"
    return f"{run.spec.model.id} on {', '.join(names)}"


def _intervention(run: LoadedRun) -> str:
    part = run.spec.intervention
    if part is None:
        return ""
    simple = {
        k: v for k, v in part.settings.items() if isinstance(v, str | int | float | bool) and k not in ("kind", "name")
    }
    text = ", ".join(
        f"{k} {v:.4g}".replace("-", "−") if isinstance(v, float) else f"{k} {v}" for k, v in simple.items()
    )
    return f"{part.name} ({text})" if text and len(text) <= 160 else part.name


def _price(price: Mapping[str, Any]) -> tuple[Row, ...]:
    found = []
    for name, label, meaning in PRICES:
        value = Rate.of(price.get(name))
        if value is not None:
            n = value.n if value.n is not None else price.get("prompts")
            found.append(
                Row(name=name, label=label, meaning=meaning, before=None, after=replace(value, n=n), unit="nats")
            )
    return tuple(found)


def _floor(floor: Mapping[str, Any] | None) -> FloorView | None:
    if floor is None:
        return None
    return FloorView(
        passed=bool(floor.get("passed")),
        margin=float(floor.get("margin", 0.02)),
        strata=tuple(_stratum(s) for s in floor.get("strata") or ()),
        newly_unsafe=tuple(floor.get("newly_unsafe") or ()),
        severe=tuple(floor.get("severe") or ()),
    )


def _stratum(stratum: Mapping[str, Any]) -> Stratum:
    before, after, status = stratum.get("before"), stratum.get("after"), str(stratum.get("status") or "")
    difference = None if before is None or after is None else after - before
    return Stratum(
        name=str(stratum.get("name", "")),
        n=int(stratum.get("n") or 0),
        groups=int(stratum.get("groups") or 0),
        before=before,
        after=after,
        difference=difference,
        bound=stratum.get("bound"),
        status=status or str(stratum.get("verdict") or ""),
        passed=bool(stratum.get("passed", status == "shown")),
        required=bool(stratum.get("required", True)),
        hcr=(stratum.get("hcr_before"), stratum.get("hcr_after")),
    )


def _sweep(select: Mapping[str, Any] | None) -> Sweep | None:
    if select is None:
        return None
    base = select.get("base") or {}
    first = base.get("screen") or {}
    return Sweep(
        trials=tuple(_trial(t) for t in select.get("trials") or ()),
        front=tuple(select.get("front") or ()),
        choice=select.get("choice"),
        reason=str(select.get("reason") or ""),
        margin=select.get("margin"),
        base=(Rate.of(base.get("answered")), Rate.of(base.get("held"))),
        base_screen=(Rate.of(first.get("answered")), Rate.of(first.get("held"))),
        split=str(select.get("split") or "validation"),
        n=select.get("n") or {},
        groups=select.get("groups") or {},
    )


def _trial(trial: Mapping[str, Any]) -> Trial:
    screen, judged, floor = (trial.get(k) or {} for k in ("screen", "judged", "floor"))
    return Trial(
        id=str(trial.get("id", "")),
        kind=str(trial.get("kind", "")),
        layer=trial.get("layer"),
        strength=trial.get("strength"),
        against=str(trial.get("against") or ""),
        more=trial.get("more") or {},
        screen=(Rate.of(screen.get("answered")), Rate.of(screen.get("held"))),
        judged=(Rate.of(judged.get("answered")), Rate.of(judged.get("held"))),
        correct=Rate.of(judged.get("oracle_correct")),
        floor=str(floor.get("text") or floor.get("verdict") or ""),
        floor_passed=floor.get("passed"),
    )
