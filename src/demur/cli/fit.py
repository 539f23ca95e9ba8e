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
        fit_on: list[str] = typer.Option(
            ["world:split=train", "world:split=train,attack=all"], "--fit", help="Benchmarks to fit on; repeatable."
        ),
        dev: list[str] = typer.Option(
            ["world:split=validation", "world:split=validation,attack=all"],
            help="Benchmarks to calibrate on; repeatable.",
        ),
        test: list[str] = typer.Option(
            [], help="Benchmarks that will test the result: what is fitted on must not stand in them; repeatable."
        ),
        allow_overlap: bool = typer.Option(
            False, help="Go on where what is fitted on stands in --dev, the data's dev split or --test."
        ),
        judge: list[str] = typer.Option([], help="Judges of the answers [default: the cards']."),
        out: Path = typer.Option(Path("runs/fit"), help="Folder for the answers and the intervention."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur.settings import check, parse_part

        part = parse_part(method)
        check("methods", part)
        from demur.jobs import Rows, choice, fit_method
        from demur.registry import comparison_only

        with progress(quiet=as_json) as tell:
            folder, described = fit_method(
                part,
                model=model,
                rows=Rows(data=data, fit=fit_on, dev=dev, test=test, allow_overlap=allow_overlap),
                judges=judge,
                out=out,
                progress=tell,
            )
        why, warning = choice(out), comparison_only("methods", part.name)
        if as_json:
            emit_json(
                {"intervention": str(folder), "description": described, "chosen": why, "comparison_only": warning}
            )
        else:
            console().print(f"intervention: {folder}", highlight=False)
            if why:
                console().print(f"chosen: {why}", highlight=False, soft_wrap=True)
            if warning:
                console().print(f"For comparison only: {warning}.", highlight=False, soft_wrap=True)
            console().print(f"try it:  demur measure --model {model} --with {folder}", highlight=False)
            console().print(
                f"hold it to the safety floor:  demur verify {model} {model} --with-b {folder}", highlight=False
            )
