"""The rows of the one table that `make perf` prints."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison."""

    what: str
    against: str
    equal: str
    """What was checked to be the same before anything was timed."""
    value: float
    low: float
    high: float
    unit: str = "×"
    target: float | None = None
    at_most: bool = False
    """Whether the target is an upper bound."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def ratio_row(numerators: Sequence[float], denominators: Sequence[float], **rest: object) -> Row:
    """Return the row of the median over rounds of numerator / denominator, each taken within its round."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return Row(value=statistics.median(ratios), low=min(ratios), high=max(ratios), **rest)  # type: ignore[arg-type]


def show(rows: Sequence[Row], versions: dict[str, dict[str, str]], conditions: str) -> None:
    """Print the table, then the versions each side ran with."""
    table = Table(title=f"demur beside its peers · {conditions}", title_justify="left")
    for name in ("what", "against", "same before timing", "median", "range over rounds", "target", ""):
        table.add_column(name, justify="right" if name in ("median", "range over rounds", "target") else "left")
    marks = {True: "met", False: "MISSED", None: ""}
    for row in rows:
        target = "" if row.target is None else f"{'≤' if row.at_most else '≥'} {row.target:g}{row.unit}"
        span = f"{row.low:.2f} … {row.high:.2f}"
        mark = " · ".join(part for part in (marks[row.met], row.note) if part)
        table.add_row(row.what, row.against, row.equal, f"{row.value:.2f}{row.unit}", span, target, mark)
    console = Console(width=max(Console().width, 150))
    console.print(table)
    for side, found in versions.items():
        console.print(f"{side}: " + ", ".join(f"{k} {v}" for k, v in found.items()), highlight=False)


def save(path: Path, rows: Sequence[Row], versions: dict[str, dict[str, str]], conditions: str) -> None:
    """Keep the figures beside the table."""
    kept = {"conditions": conditions, "versions": versions, "rows": [asdict(r) | {"met": r.met} for r in rows]}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
