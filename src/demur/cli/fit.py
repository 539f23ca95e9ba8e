"""`demur fit`: fit one method and save the intervention."""

from __future__ import annotations

from pathlib import Path

import typer

from demur.cli._console import console, emit_json, progress


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Fit a method on prompts the model has answered, and save the intervention.")
    def fit(
        method: str = typer.Argument(..., help="A part, as in `gated_steering:layer=2,strength=1.0`."),
        model: str = typer.Option("organism", help="organism, organism:base, a local folder, or a hub id."),
        data: Path | None = typer.Option(None, help="JSONL of examples; else the model answers --fit and --dev."),
        fit_on: list[str] = typer.Option(["world:split=train"], "--fit", help="Benchmarks to fit on; repeatable."),
        dev: list[str] = typer.Option(["world:split=validation"], help="Benchmarks to calibrate on; repeatable."),
        judge: list[str] = typer.Option([], help="Judges of the answers [default: the cards']."),
        out: Path = typer.Option(Path("runs/fit"), help="Folder for the answers and the intervention."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur.jobs import fit_method
        from demur.settings import parse_part

        with progress(quiet=as_json) as tell:
            folder, described = fit_method(
                parse_part(method), model=model, data=data, fit=fit_on, dev=dev, judges=judge, out=out, progress=tell
            )
        if as_json:
            emit_json({"intervention": str(folder), "description": described})
        else:
            console().print(f"intervention: {folder}", highlight=False)
            console().print(f"try it:  demur measure --model {model} --with {folder}", highlight=False)
            console().print("It has not been held to the safety floor: compare a run with it to one without.")
