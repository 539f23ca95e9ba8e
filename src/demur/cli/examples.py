"""`demur examples`: mined and other examples in the formats of other trainers."""

from __future__ import annotations

from pathlib import Path

import typer

from demur.cli._console import console, emit_json, table


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Write examples (as `demur mine` selects them) as rows that trl's trainers take unchanged.")
    def examples(
        data: list[Path] = typer.Argument(..., metavar="DATA…", help="JSONL of examples, or folders of `demur mine`."),
        out: Path = typer.Option(..., help="Folder for preference.jsonl, sft.jsonl, prompts.jsonl and dev-….jsonl."),
        as_json: bool = typer.Option(False, "--json", help="Print what was written as JSON."),
    ) -> None:
        from demur.ecosystem import trl_rows
        from demur.files import read_rows
        from demur.mining.folder import SELECTED
        from demur.types import Example

        files = [path / SELECTED if path.is_dir() else path for path in data]
        written = trl_rows.write((e for path in files for e in read_rows(path, Example)), out)
        if as_json:
            counts = {str(path): n for path, n in written.files.items()}
            emit_json({"files": counts, "left_out": written.left_out})
            return
        table("written", ("file", "rows"), [[str(path), str(n)] for path, n in written.files.items()], right=(1,))
        for name, why in written.left_out.items():
            told = "; ".join(f"{n} because {reason}" for reason, n in why.items())
            console().print(f"not in {name}.jsonl: {told}", highlight=False, markup=False)
