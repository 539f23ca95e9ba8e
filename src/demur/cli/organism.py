"""`demur organism`: train the embedded model again, or check its gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from demur.cli._console import MISSED, console, emit_json, progress, table

if TYPE_CHECKING:
    from demur.organism.gates import Split


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    group = typer.Typer(help="The embedded model organism of over-refusal.", no_args_is_help=True)
    app.add_typer(group, name="organism")

    @group.command(help="Train the organism from scratch, or with --base only its safety phase.")
    def train(
        out: Path = typer.Option(Path("runs/organism"), help="Folder for the checkpoints."),
        seed: int = typer.Option(0, help="Seed of data order and initial weights."),
        cause: str = typer.Option("mix", help="mix, trigger, caution, topic, misbelief or language."),
        base: Path | None = typer.Option(None, help="A base checkpoint to start the safety phase from."),
        check_gates: bool = typer.Option(True, "--check/--no-check", help="Measure the gates afterwards."),
    ) -> None:
        from demur.organism.trainer import train as run_training

        with progress() as tell:
            result = run_training(
                out, seed=seed, cause=cause, base=base, on_progress=lambda p: tell(p.phase, p.update, p.updates)
            )
        console().print(f"base: {result.base}\nsafety: {result.safety}", highlight=False)
        if check_gates:
            _gates(result.safety, "test", as_json=False)

    @group.command(help="Measure the behavioural gates of a trained organism on generations.")
    def check(
        path: Path | None = typer.Argument(None, help="A checkpoint folder [default: the shipped one]."),
        split: str = typer.Option("test", help="train, validation or test."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur import organism

        _gates(path or organism.path("organism"), split, as_json=as_json)


def _gates(path: Path, split: str, *, as_json: bool) -> None:
    from demur.errors import NotFound
    from demur.types import to_json
    from demur.world import SPLITS

    if split not in SPLITS:
        raise NotFound("split", split, SPLITS)
    from demur.organism.gates import check

    report = check(path, cast("Split", split))
    if as_json:
        emit_json(to_json(report))
    else:
        rows = []
        for gate in (*report.gates, *report.reported):
            value = "no data" if gate.value is None else f"{gate.value:.3f}"
            verdict = "" if gate in report.reported else "ok" if gate.passed else "MISSED"
            rows.append([gate.name, value, f"{gate.low:g} to {gate.high:g}", str(gate.n), str(gate.groups), verdict])
        table(f"gates on the {split} split", ("gate", "value", "range", "n", "groups", ""), rows, right=(1, 3, 4))
    if not report.passed:
        raise typer.Exit(MISSED)
