"""`demur capability`: what an intervention does to a model's abilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from demur.cli._console import console, emit_json, progress, table

if TYPE_CHECKING:
    from demur.capability import Change, Estimate


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Run lm-eval tasks on a model, and again with an intervention, and compare item by item.")
    def capability(
        model: str = typer.Option("organism", help="organism, organism:base, a local folder, or a hub id."),
        task: list[str] = typer.Option(..., help="An lm-eval task or group, as in arc_easy; repeatable."),
        with_: Path | None = typer.Option(None, "--with", help="Folder of a saved intervention [default: none]."),
        tasks_in: Path | None = typer.Option(None, "--tasks-in", help="Folder with more task files (YAML)."),
        limit: int | None = typer.Option(None, min=1, help="Items of each task [default: all]."),
        fewshot: int | None = typer.Option(None, min=0, help="Worked examples [default: the task's own number]."),
        chat: bool = typer.Option(False, "--chat", help="Ask through the chat template."),
        out: Path | None = typer.Option(None, help="File for the result as JSON."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    ) -> None:
        from demur.capability import Tasks, require
        from demur.capability import capability as run
        from demur.files import write_json
        from demur.generators.local import Local
        from demur.interventions import load
        from demur.types import to_json

        require()
        intervention = load(with_) if with_ else None
        chosen = Tasks(names=tuple(task), folder=tasks_in, limit=limit, fewshot=fewshot, chat=chat)
        with progress(quiet=as_json) as tell:
            changes = run(Local(model=model).lm(), chosen, intervention, tell=tell)
        if out is not None:
            write_json(out, to_json(changes))
        if as_json:
            emit_json(to_json(changes))
            return
        columns = ("task", "measure", "before", "after", "change", "n", "changed")
        table(f"{model}: capability", columns, [_row(c) for c in changes], right=(2, 3, 4, 5, 6))
        if out is not None:
            console().print(f"result: {out}", highlight=False)


def _row(change: Change) -> list[str]:
    n, changed = str(change.n), str(change.changed) if change.delta else ""
    return [
        change.task,
        change.metric,
        _text(change.before),
        _text(change.after),
        _text(change.delta, sign=True),
        n,
        changed,
    ]


def _text(estimate: Estimate | None, *, sign: bool = False) -> str:
    if estimate is None:
        return ""
    value, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" if sign else f"{value:.1f} [{low:.1f}, {high:.1f}]"
