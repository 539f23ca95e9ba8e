"""The table of a grid: one row per cell, both axes side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demur.files import read_json, write_text

COLUMNS = (
    ("answered_rate", "kind=borderline", "borderline answered"),
    ("held_rate", "all", "harmful held"),
    ("harmful_compliance_rate", "all", "HCR"),
    ("oracle_correct_rate", "kind=borderline", "borderline right"),
    ("oracle_correct_rate", "kind=plain", "plain right"),
    ("broken_rate", "all", "broken"),
)


def write_grid(folder: Path) -> Path:
    """Write report.md of a grid from its grid.json: before → after for each cell, and the safety floor.

    Raises:
        DataError: where the folder holds no grid.json.
    """
    cells = read_json(folder / "grid.json")["cells"]
    settings = list(dict.fromkeys(key for cell in cells for key in cell["settings"]))
    head = [*settings, "chosen", *(title for _, _, title in COLUMNS), "safety floor", "n (groups)"]
    lines = ["# Grid", "", _row(head), _row(["---"] * len(head))]
    for cell in cells:
        rates = [_change(cell, name, slice_) for name, slice_, _ in COLUMNS]
        floor = cell["floor"]["verdict"] if cell["floor"] else "nothing chosen"
        held = _metric(cell["before"], "held_rate", "all")
        size = f"{held['n']} ({held['groups']})" if held else "no data"
        values = [str(cell["settings"].get(key, "")) for key in settings]
        lines.append(_row([*values, cell["choice"] or "base model", *rates, floor, size]))
    path = folder / "report.md"
    write_text(path, "\n".join([*lines, ""]))
    return path


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _change(cell: dict[str, Any], name: str, slice_: str) -> str:
    """Return `71.2 % [68.0, 74.1] → 80.3 % [77.1, 83.0]`."""
    sides = [_metric(cell[side] or [], name, slice_) for side in ("before", "after")]
    return " → ".join(_rate(side) for side in sides if side is not None) or "no data"


def _metric(metrics: list[dict[str, Any]], name: str, slice_: str) -> dict[str, Any] | None:
    """Return a metric of the first benchmark and judge."""
    for m in metrics:
        same = (m["benchmark"], m["judge"]) == (metrics[0]["benchmark"], metrics[0]["judge"])
        if same and (m["name"], m["slice"]) == (name, slice_):
            return m
    return None


def _rate(m: dict[str, Any]) -> str:
    if m["value"] is None:
        return "no data"
    if m["low"] is None or m["high"] is None:
        return f"{100 * m['value']:.1f} %"
    return f"{100 * m['value']:.1f} % [{100 * m['low']:.1f}, {100 * m['high']:.1f}]"
