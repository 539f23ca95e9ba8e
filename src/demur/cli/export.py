"""`demur export`: an intervention in a form that other software serves."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from demur.cli._console import MISSED, console, emit_json, fail

HELP = (
    "Write an intervention as merged weights, a LoRA adapter, a llama.cpp control vector or a system text, exactly or "
    "not at all; exit 100 where the safety floor was not shown to hold."
)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help=HELP)
    def export(
        intervention: Path = typer.Argument(..., help="Folder of a saved intervention, as `demur run` leaves it."),
        to: str = typer.Option(..., help="merged, lora, gguf-vector or prefix (a part: `demur list export`)."),
        model: str = typer.Option("", help="Model [default: the one that the intervention was fitted on]."),
        floor: Path | None = typer.Option(
            None, help="Folder of the `demur run` or `demur verify` that measured it [default: the one around it]."
        ),
        below_floor: bool = typer.Option(
            False, "--below-floor", help="Export although the floor is missed or not measured; the artefact says so."
        ),
        out: Path | None = typer.Option(None, help="Folder for the artefact [default: runs/export-TARGET]."),
        device: str = typer.Option("auto", help="auto, cpu, cuda, mps."),
        dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
        overwrite: bool = typer.Option(False, help="Replace an earlier export."),
        as_json: bool = typer.Option(False, "--json", help="Print what demur.json holds."),
    ) -> None:
        from demur.exporting import needs_flag, prepare

        ready = prepare(intervention, to, model=model, floor=floor, device=device, dtype=dtype)
        if ready.record.state != "kept" and not below_floor:
            fail(needs_flag(ready.record))
            raise typer.Exit(MISSED)
        folder = out or Path("runs") / f"export-{ready.part.name.replace('_', '-')}"
        command = shlex.join(["demur", *sys.argv[1:]])
        ready.write(folder, below_floor=below_floor, command=command, overwrite=overwrite)
        _show(folder, as_json)


def _show(folder: Path, as_json: bool) -> None:
    from demur.export._folder import RECORD
    from demur.files import read_json

    record = read_json(folder / RECORD)
    if as_json:
        emit_json({**record, "folder": str(folder)})
        return
    out = console()
    for line in (
        f"exported: {folder} ({', '.join(record['files'])})",
        f"checked: {record['checked']['text']}",
        f"safety floor: {record['floor']['words']} ({record['floor']['reason']})",
        *record["notes"],
        f"card: {folder / 'README.md'}",
    ):
        out.print(line, highlight=False, markup=False)
