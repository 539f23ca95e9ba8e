"""`demur report`: write the report of a run again from its records."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Write report.html and report.md of a run or recipe folder again, from its records alone.")
    def report(folder: Path = typer.Argument(..., help="A folder that `measure` or `run` made.")) -> None:
        from demur import report as reporting

        for path in reporting.write(folder):
            typer.echo(path)
