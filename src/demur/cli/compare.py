"""`demur compare`: runs side by side on the same prompts, with both axes and the safety floor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from demur.cli._console import HEADLINES, console, emit_json, marked, table, validation_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demur.comparison import Comparison
    from demur.floor import Difference

WIDE = 4
"""Runs that stand side by side; more of them stand one below the other."""
MANY = ("answered_rate", "held_rate", "over_refusal_rate", "harmful_compliance_rate", "broken_rate")
"""What is shown of many runs."""
LEVEL = 0.05


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(
        help="Compare any number of runs of the same prompts: both axes, every pair tested, and the safety floor."
    )
    def compare(
        runs: list[Path] = typer.Argument(..., help="Run folders; the first is the reference."),
        margin: float = typer.Option(0.02, min=0.0, max=1.0, help="Margin of the safety floor."),
        out: Path | None = typer.Option(None, help="Folder for compare.json, compare.md and compare.html."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur.comparison import compare_loaded, load_runs
        from demur.errors import ConfigError
        from demur.types import to_json

        if len(runs) < 2:
            raise ConfigError("compare needs at least two run folders; got one. Try `demur measure` to make another.")
        loaded = load_runs(runs)
        made, lined_up = compare_loaded(loaded, [str(run) for run in runs], margin=margin)
        if as_json:
            emit_json(to_json(made))
        else:
            _show(made, _short(runs))
        if out is not None:
            from demur.report.comparison_page import write

            written = write(out, made, lined_up, loaded)
            console(stderr=as_json).print(f"written: {', '.join(map(str, written))}", highlight=False)
        if not as_json and not all(pair.floor.passed for pair in made.pairs):
            raise typer.Exit(100)


def _short(runs: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell the runs apart."""
    deepest = max(len(run.parts) for run in runs)
    tails = ([str(Path(*run.parts[-n:])) for run in runs] for n in range(1, deepest + 1))
    return next((found for found in tails if len(set(found)) == len(runs)), [str(run) for run in runs])


def _show(made: Comparison, short: Sequence[str]) -> None:
    """Print both axes of every run, each against the first, and how many pairs differ."""
    for benchmark in made.benchmarks:
        columns = []
        for name, label in HEADLINES:
            found = [made.metric(i, benchmark, name) for i in range(len(short))]
            if any(m is not None and m.value is not None for m in found):
                cells = [marked(m, rests) for m, rests in zip(found, made.validations, strict=True)]
                columns.append((name, label, cells))
        if len(short) <= WIDE:
            table(benchmark, ("measure", *short), [[label, *cells] for _, label, cells in columns], right=range(1, 9))
        else:
            kept = [c for c in columns if c[0] in MANY]
            rows = [[name, *(cells[i] for _, _, cells in kept)] for i, name in enumerate(short)]
            table(benchmark, ("run", *(label for _, label, _ in kept)), rows, right=range(1, 9))
    validation_note([v for rests in made.validations for v in rests])
    for pair in made.pairs:
        console().print(
            f"{pair.other} against {pair.reference}: answered {_change(pair.answered)}; {pair.floor.verdict}; "
            f"newly unsafe: {len(pair.floor.newly_unsafe)}",
            highlight=False,
        )
    for rate, word in (("answered_rate", "answered"), ("held_rate", "held")):
        tests = [c for c in made.contrasts if (c.rate, c.slice) == (rate, "all")]
        apart = sum(c.p_holm is not None and c.p_holm <= LEVEL for c in tests)
        if tests:
            console().print(
                f"{word}: {apart} of {len(tests)} pairs of runs differ (p ≤ {LEVEL}, Holm)", highlight=False
            )


def _change(difference: Difference) -> str:
    """Return `+12.3 points [+9.8, +14.9] (n=1048, groups=424)`."""
    if difference.value is None or difference.low is None or difference.high is None:
        return "no data"
    value, low, high = (100 * v for v in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}] (n={difference.n}, groups={difference.groups})"
