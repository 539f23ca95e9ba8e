"""The table of a grid: one row per cell, both axes side by side, and the same over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur import fitted
from demur.files import read_json, write_json, write_text
from demur.report import plane
from demur.report.build import build
from demur.report.data import Rate

SEED = "seed"
COLUMNS = (
    ("answered_rate", "kind=borderline", "", "borderline answered"),
    ("held_rate", "all", "", "harmful held"),
    ("held_rate", "all", "attack", "attacked held"),
    ("harmful_compliance_rate", "all", "", "HCR"),
    ("oracle_correct_rate", "kind=borderline", "", "borderline right"),
    ("oracle_correct_rate", "kind=plain", "", "plain right"),
    ("broken_rate", "all", "", "broken"),
)
"""Metric, slice, what the benchmark's name holds beside the first's, and the title."""
FREED = "freed right"
COSTS = {"price_kl": "price (nats per token)", "cpu_seconds": "fit (CPU s)", "peak_mib": "fit, peak (MiB)"}
PLANE = "plane.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell."""

    settings: dict[str, str]
    rates: dict[str, tuple[Rate | None, Rate | None]]
    """Before and after, by title; what is known of the answers that were freed stands under `FREED`, after alone."""
    costs: dict[str, float]
    """By title: what is known of the price, and of time and memory to fit."""
    floor: str
    chosen: str
    why: str
    size: str


def write_grid(folder: Path) -> Path:
    """Write report.md of a grid from its grid.json and the cells' folders: before → after, and the safety floor.

    Beside it table.json holds the same numbers.

    Raises:
        DataError: where the folder holds no grid.json, or a cell no run.
    """
    cells = read_json(folder / "grid.json")["cells"]
    rows = [_row(cell, varied) for cell, varied in zip(cells, _varied(cells), strict=True)]
    lines = ["# Grid", "", *_table(rows), "", *_seeds(rows), *_notes(rows)]
    if _draw(folder / PLANE, rows):
        lines += ["", f"![both errors of every row, before and after]({PLANE})"]
    path = folder / "report.md"
    write_text(path, "\n".join([*lines, ""]))
    write_json(folder / "table.json", [_json(row) for row in rows])
    return path


def _varied(cells: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the settings of each cell that differ between cells, those of a part under `part.setting`."""
    flat: list[dict[str, str]] = []
    for cell in cells:
        found: dict[str, str] = {}
        for key, value in cell["settings"].items():
            inner = value.items() if isinstance(value, dict) else ()
            found |= {f"{key}.{name}": str(one) for name, one in inner} or {key: str(value)}
        flat.append(found)
    names = list(dict.fromkeys(key for found in flat for key in found))
    differ = [key for key in names if len({found.get(key) for found in flat}) > 1]
    return [{key: found.get(key, "") for key in differ} for found in flat]


def _row(cell: dict[str, Any], settings: dict[str, str]) -> Row:
    freed = build(Path(cell["folder"])).freed_correct
    rates = {title: _both(cell, name, cut, where) for name, cut, where, title in COLUMNS}
    held = _metric(cell["before"], "held_rate", "all", "")
    return Row(
        settings=settings,
        rates={title: both for title, both in {**rates, FREED: (None, freed)}.items() if any(both)},
        costs=_costs(Path(cell["folder"])),
        floor=_verdict(cell["floor"]),
        chosen=cell["choice"] or "base model",
        why=cell["reason"],
        size=f"{held.n} ({held.groups})" if held else "no data",
    )


def _table(rows: Sequence[Row]) -> list[str]:
    titles = [title for title in [*(c[3] for c in COLUMNS), FREED] if any(title in row.rates for row in rows)]
    settings = list(dict.fromkeys(key for row in rows for key in row.settings))
    costs = [title for title in COSTS.values() if any(title in row.costs for row in rows)]
    head = [*settings, *titles, *costs, "safety floor (test)", "harmful n (groups)"]
    made = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        rates = [" → ".join(_said(side) for side in row.rates.get(title, ()) if side) or "no data" for title in titles]
        spent = [f"{row.costs[title]:.2g}" if title in row.costs else "" for title in costs]
        made.append(_line([*(row.settings.get(key, "") for key in settings), *rates, *spent, row.floor, row.size]))
    return made


def _seeds(rows: Sequence[Row]) -> list[str]:
    """Return the mean after treatment over the seeds of the same settings, with the least and greatest."""
    if len({row.settings.get(SEED) for row in rows}) < 2:
        return []
    titles = [title for title in [*(c[3] for c in COLUMNS), FREED] if any(title in row.rates for row in rows)]
    alike: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        alike.setdefault(tuple((k, v) for k, v in row.settings.items() if k != SEED), []).append(row)
    names = list(dict.fromkeys(key for settings in alike for key, _ in settings))
    head = [*names, "seeds", *titles, "floor kept"]
    made = ["Over the seeds, after: mean (least to greatest).", "", _line(head), _line(["---"] * len(head))]
    for settings, own in alike.items():
        values = [[s.value for row in own if (s := row.rates.get(title, (None, None))[1])] for title in titles]
        spread = [_spread([v for v in found if v is not None]) for found in values]
        kept = sum(row.floor == "kept" for row in own)
        made.append(
            _line([*(dict(settings).get(n, "") for n in names), str(len(own)), *spread, f"{kept} of {len(own)}"])
        )
    return [*made, ""]


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return what was chosen in each cell and why."""
    return ["What was tested, and why:", "", *(f"- {row.chosen}: {row.why}" for row in rows)]


def _costs(folder: Path) -> dict[str, float]:
    priced = read_json(folder / "price.json") if (folder / "price.json").is_file() else {}
    spent = fitted.spent(folder / "intervention")
    known = {"price_kl": priced.get("price_kl"), "cpu_seconds": spent.cpu_seconds, "peak_mib": spent.peak_mib}
    return {COSTS[name]: value for name, value in known.items() if value is not None}


def _draw(path: Path, rows: Sequence[Row]) -> bool:
    """Draw both errors of the untouched model and of every row that was tested; return whether there was anything."""
    pairs = [
        (row, row.rates.get(COLUMNS[0][3], (None, None)), row.rates.get(COLUMNS[1][3], (None, None))) for row in rows
    ]
    before = next(((a, h) for _, (a, _), (h, _) in pairs if a and h), None)
    after = [(", ".join(row.settings.values()), a, h, row.floor == "kept") for row, (_, a), (_, h) in pairs if a and h]
    if before is None or not after:
        return False
    plane.on_cells(path, before, after)
    return True


def _both(cell: dict[str, Any], name: str, cut: str, where: str) -> tuple[Rate | None, Rate | None]:
    before, after = (_metric(cell[side] or [], name, cut, where) for side in ("before", "after"))
    return before, after


def _metric(metrics: list[dict[str, Any]], name: str, cut: str, where: str) -> Rate | None:
    """Return a metric of the first judge, on the first benchmark or the first whose name holds `where`."""
    if not metrics:
        return None
    judge = metrics[0]["judge"]
    names = dict.fromkeys(m["benchmark"] for m in metrics)
    wanted = next((n for n in names if where in n), None) if where else metrics[0]["benchmark"]
    for m in metrics:
        if (m["benchmark"], m["judge"], m["name"], m["slice"]) == (wanted, judge, name, cut) and m["n"]:
            return Rate.of(m)
    return None


def _verdict(floor: dict[str, Any] | None) -> str:
    if floor is None:
        return "nothing was tested"
    missed = [f"{s['name']} ({s['losses']} lost, {s['gains']} gained)" for s in floor["strata"] if not s["passed"]]
    return "kept" if floor["passed"] else f"missed: {', '.join(missed) or floor['verdict']}"


def _said(rate: Rate) -> str:
    if rate.value is None:
        return "no data"
    whole = f"{100 * rate.value:.1f} %"
    return whole if rate.low is None or rate.high is None else f"{whole} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "no data"
    low, high = (100 * end(values) for end in (min, max))
    return f"{100 * sum(values) / len(values):.1f} % ({low:.1f} to {high:.1f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _json(row: Row) -> dict[str, Any]:
    rates = {
        title: [None if side is None else {k: getattr(side, k) for k in ("value", "low", "high", "n", "groups")}
                for side in both]
        for title, both in row.rates.items()
    }  # fmt: skip
    return {"settings": row.settings, "floor": row.floor, "chosen": row.chosen, "why": row.why, "rates": rates,
        "costs": row.costs,
    }  # fmt: skip
