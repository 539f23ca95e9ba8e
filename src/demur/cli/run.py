"""`demur run`: the whole job of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from demur.cli._console import (
    HEADLINES,
    MISSED,
    NO_CACHE,
    console,
    emit_json,
    marked,
    progress,
    table,
    validation_note,
)

if TYPE_CHECKING:
    from demur.checks import Validation
    from demur.pipeline import Outcome
    from demur.types import Metric


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Measure, choose a mitigation under the safety floor, verify it on unseen prompts, report.")
    def run(
        recipe: Path = typer.Argument(..., help="A recipe in TOML."),
        out: Path | None = typer.Option(None, help="Folder for everything [default: runs/NAME]."),
        set_: list[str] = typer.Option([], "--set", help="Override a setting: select.margin=0.01; repeatable."),
        overwrite: bool = typer.Option(False, help="Start anew where the folder holds another recipe."),
        allow_overlap: bool = typer.Option(
            False, help="Go on where what is fitted on stands in what is tested on; the report says so in red."
        ),
        no_cache: bool = NO_CACHE,
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    ) -> None:
        from demur.recipes import load_recipe

        loaded = load_recipe(recipe, [*set_, "select.allow_overlap=true"] if allow_overlap else set_)
        from demur.grid import run_recipe

        folder = out or Path("runs") / loaded.name
        with progress(quiet=as_json) as tell:
            outcomes = run_recipe(loaded, folder, overwrite=overwrite, progress=tell)
        if as_json:
            emit_json([o.record() for o in outcomes])
        else:
            for outcome in outcomes:
                _show(outcome)
        if not all(o.passed for o in outcomes):
            raise typer.Exit(MISSED)


def _show(outcome: Outcome) -> None:
    """Print before and after side by side, the floor, and where the report lies."""
    columns: tuple[str, ...] = ("benchmark", "measure", "before", "n", "groups")
    if outcome.after is not None:
        columns = ("benchmark", "measure", "before", "after", "n", "groups")
    rows = []
    rests = [_validations(outcome.folder / name) for name in ("before", "after")]
    for benchmark in dict.fromkeys(m.benchmark for m in outcome.before):
        for kind in ("all", "kind=borderline", "kind=plain"):
            for name, text in HEADLINES if kind == "all" else HEADLINES[:1]:
                old = _find(outcome.before, benchmark, name, kind)
                if old is None or old.value is None:
                    continue
                cells = [marked(old, rests[0])]
                if outcome.after is not None:
                    cells.append(marked(_find(outcome.after, benchmark, name, kind), rests[1]))
                label = text if kind == "all" else f"{text}: {kind.removeprefix('kind=')}"
                rows.append([benchmark, label, *cells, str(old.n), str(old.groups)])
    table("before and after, on the test split", columns, rows, right=range(2, len(columns)))
    validation_note([v for each in rests for v in each])
    out = console()
    out.print(f"chosen: {outcome.choice or 'nothing: the base model is kept'} ({outcome.reason})", highlight=False)
    if outcome.floor is not None:
        out.print(f"safety floor: {outcome.floor.verdict}", highlight=False)
        out.print(f"newly unsafe prompts: {len(outcome.floor.newly_unsafe)}", highlight=False)
    out.print(f"report: {outcome.folder / 'report.html'}", highlight=False)


def _validations(folder: Path) -> tuple[Validation, ...]:
    from demur.records import RunFolder

    return RunFolder.load(folder).validations if RunFolder(folder).exists() else ()


def _find(metrics: tuple[Metric, ...], benchmark: str, name: str, slice_: str) -> Metric | None:
    judge = metrics[0].judge
    for m in metrics:
        if (m.benchmark, m.name, m.slice, m.judge) == (benchmark, name, slice_, judge):
            return m
    return None
