"""`demur explain`: where the refusal boundary lies."""

from __future__ import annotations

from pathlib import Path

import typer

from demur.cli._console import console, emit_json, progress, table


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    group = typer.Typer(help="Explain what a model refuses.", no_args_is_help=True)
    app.add_typer(group, name="explain")

    @group.callback()
    def _group() -> None:
        """Explain what a model refuses."""

    @group.command(help="Where the refusal boundary lies in the residual stream, with controls.")
    def boundary(
        model: str = typer.Option("organism", help="organism, organism:base, a local folder, or a hub id."),
        benchmark: list[str] = typer.Option(["world"], help="Prompts that are explained; repeatable."),
        fit_on: list[str] = typer.Option(["world:split=train"], "--fit", help="Prompts the direction comes from."),
        judge: list[str] = typer.Option([], help="Judges of the answers [default: the cards']."),
        layer: int | None = typer.Option(None, help="Layer of densities and sweep [default: the clearest]."),
        out: Path | None = typer.Option(None, help="Folder [default: runs/explain-MODEL]."),
        as_json: bool = typer.Option(False, "--json", help="Print the explanation as JSON."),
    ) -> None:
        from demur import report
        from demur.jobs import explain_model

        folder = out or Path("runs") / f"explain-{Path(model).name.replace(':', '-')}"
        with progress(quiet=as_json) as tell:
            record = explain_model(
                model=model, benchmarks=benchmark, fit=fit_on, judges=judge, layer=layer, out=folder, progress=tell
            )
        pages = report.write(folder)
        if as_json:
            emit_json(record)
            return
        rows = [
            [str(n), *(_auc(record["auc"][name][i]) for name in record["auc"])] for i, n in enumerate(record["layers"])
        ]
        names = [name.replace("_", " ") for name in record["auc"]]
        table(f"AUC by layer, {record['point']}, last prompt token", ("layer", *names), rows, right=range(1, 4))
        for note in record["notes"]:
            console().print(note, highlight=False)
        console().print(f"report: {pages[0]}", highlight=False)


def _auc(point: dict[str, float | None]) -> str:
    if point["value"] is None or point["low"] is None or point["high"] is None:
        return "no data"
    return f"{point['value']:.3f} [{point['low']:.3f}, {point['high']:.3f}]"
