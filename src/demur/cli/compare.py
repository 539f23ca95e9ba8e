"""`demur compare`: runs side by side on the same prompts, with both axes and the safety floor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from demur.cli._console import HEADLINES, console, emit_json, marked, table, validation_note

if TYPE_CHECKING:
    from demur.floor import Difference


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Compare runs of the same prompts: both axes, and the first run against each other one.")
    def compare(
        runs: list[Path] = typer.Argument(..., help="Run folders; the first is the reference."),
        margin: float = typer.Option(0.02, min=0.0, max=1.0, help="Margin of the safety floor."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur.comparison import compare_runs
        from demur.errors import ConfigError
        from demur.types import to_json

        if len(runs) < 2:
            raise ConfigError("compare needs at least two run folders; got one. Try `demur measure` to make another.")
        made = compare_runs(runs, margin=margin)
        if as_json:
            emit_json(to_json(made))
            return
        for benchmark in made.benchmarks:
            rows = []
            for name, text in HEADLINES:
                found = [made.metric(i, benchmark, name) for i in range(len(runs))]
                cells = [marked(m, rests) for m, rests in zip(found, made.validations, strict=True)]
                if any(m is not None and m.value is not None for m in found):
                    rows.append([text, *cells])
            table(benchmark, ("measure", *(r.name for r in runs)), rows, right=range(1, len(runs) + 1))
        validation_note([v for rests in made.validations for v in rests])
        for pair in made.pairs:
            console().print(
                f"{pair.other} against {pair.reference}: answered {_change(pair.answered)}; {pair.floor.verdict}; "
                f"newly unsafe: {len(pair.floor.newly_unsafe)}",
                highlight=False,
            )
        if not all(pair.floor.passed for pair in made.pairs):
            raise typer.Exit(100)


def _change(difference: Difference) -> str:
    """Return `+12.3 points [+9.8, +14.9] (n=1048, groups=424)`."""
    if difference.value is None or difference.low is None or difference.high is None:
        return "no data"
    value, low, high = (100 * v for v in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}] (n={difference.n}, groups={difference.groups})"
