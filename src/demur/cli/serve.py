"""`demur serve`: a model, plain and with interventions, behind OpenAI's interface, and a playground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from demur.cli._console import console, progress

if TYPE_CHECKING:
    from demur.serving.limits import Limits
    from demur.serving.menu import Menu

WORLD = (["world:split=train,limit=600"], ["world:split=validation,limit=600"])
"""What the boundary of the embedded model is fitted and calibrated on."""


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Serve a model behind OpenAI's interface, plain and with interventions, with a playground.")
    def serve(
        model: str = typer.Argument("organism", help="organism, organism:base, a local folder, or a hub id."),
        with_: list[str] = typer.Option(
            [], "--with", help="Folder of a saved intervention, or NAME=FOLDER; repeatable, chosen per request."
        ),
        name: str = typer.Option("", help="What requests call the model [default: its id]."),
        host: str = typer.Option("127.0.0.1", help="Address to listen on; others than loopback need --keys-env."),
        port: int = typer.Option(8000, min=0, max=65535, help="Port to listen on; 0 takes a free one."),
        keys_env: str = typer.Option("", help="Environment variable with the keys that requests must bring."),
        fit_on: list[str] = typer.Option(
            [], "--fit", help="Benchmarks the refusal boundary is fitted on [default: the organism's own, else none]."
        ),
        dev: list[str] = typer.Option([], help="Benchmarks it is calibrated on; goes with --fit."),
        boundary: bool = typer.Option(True, help="Fit the refusal boundary, for the playground to show."),
        out: Path = typer.Option(Path("runs/serve"), help="Folder for the answers the boundary is fitted on."),
        rows: int = typer.Option(32, min=1, help="Answers written at once."),
        queue: int = typer.Option(256, min=1, help="Answers that may wait; beyond it requests get a 429."),
        context: int = typer.Option(4096, min=2, help="Tokens of prompt and answer, at most."),
        answer: int = typer.Option(2048, min=1, help="Tokens of one answer, at most."),
        seconds: float = typer.Option(300.0, min=0.1, help="How long a request may wait and be answered."),
        body: int = typer.Option(1_000_000, min=1000, help="Bytes of a request, at most."),
        reuse: int = typer.Option(256, min=0, help="MB for beginnings that prompts share; 0 reads each prompt whole."),
    ) -> None:
        from demur.errors import ConfigError, Unavailable
        from demur.registry import install_hint, missing
        from demur.serving.limits import Limits

        if bool(fit_on) != bool(dev):
            raise ConfigError("--fit and --dev go together: the boundary is fitted on one, calibrated on the other")
        if gone := missing("serve"):
            raise Unavailable(f"`demur serve` needs {', '.join(gone)}: {install_hint('serve')}")
        limits = Limits(rows=rows, queue=queue, context=context, answer=answer, seconds=seconds, body=body, reuse=reuse)
        parts = (fit_on, dev) if fit_on else WORLD if model == "organism" else ([], [])
        _serve(model, with_, name, (host, port, keys_env), parts if boundary else ([], []), out, limits)


def _serve(
    model: str,
    withs: list[str],
    name: str,
    where: tuple[str, int, str],
    parts: tuple[list[str], list[str]],
    out: Path,
    limits: Limits,
) -> None:
    from demur.mine import Boundary
    from demur.serving.start import Setup, serve

    fit = Boundary(fit=tuple(parts[0]), dev=tuple(parts[1])) if parts[0] else None
    host, port, keys_env = where
    setup = Setup(
        model=model, interventions=tuple(withs), name=name, host=host, port=port, keys_env=keys_env, fit=fit, out=out,
        limits=limits,
    )  # fmt: skip
    with progress() as tell:
        serve(setup, tell=tell, announce=_announce)


def _announce(address: str, menu: Menu) -> None:
    out = console()
    out.print(f"playground: {address}/", highlight=False, markup=False)
    out.print(f"OpenAI base URL: {address}/v1", highlight=False, markup=False)
    for entry in menu.entries.values():
        floor = "" if not entry.name else f"   floor: {entry.floor.state}; {entry.floor.verdict}"
        out.print(f"model: {menu.id_of(entry)}{floor}", highlight=False, markup=False)
    out.print("Ctrl-C ends it; what was accepted is finished first.", highlight=False, markup=False)
