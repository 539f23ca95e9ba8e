"""`demur estimate`: what a model will need before anything of it is loaded: memory by stage, tokens, time."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from demur.cli._console import console, emit_json, table

if TYPE_CHECKING:
    from demur.estimating import Estimate


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Say what a model will need (memory by stage, tokens, time) from its configuration alone.")
    def estimate(
        model: str = typer.Argument(..., help="`organism`, a folder with a config.json, or a hub id."),
        prompts: int = typer.Option(500, min=1, help="Prompts to answer and to capture."),
        prompt_tokens: int = typer.Option(64, min=1, help="Tokens of the longest prompt, its template included."),
        new_tokens: int = typer.Option(256, "--max-new-tokens", min=1, help="Tokens of an answer at most."),
        rows: int = typer.Option(1000, min=1, help="Rows to train on."),
        row_tokens: int = typer.Option(128, min=1, help="Tokens of the longest of them, answer included."),
        learnt_tokens: int = typer.Option(0, min=0, help="Of these, after a batch's shortest prompt [default: all]."),
        rank: int = typer.Option(16, min=1, help="Rank of the adapter."),
        preference: bool = typer.Option(False, help="Rows hold a chosen and a rejected answer, as in DPO."),
        device: str = typer.Option("auto", help="auto, cpu, cuda, …"),
        dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
        revision: str = typer.Option("", help="Revision on the hub."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur.errors import Unavailable
        from demur.registry import install_hint, missing

        if gone := missing("local"):
            raise Unavailable(f"`demur estimate` needs {', '.join(gone)}: {install_hint('local')}")
        from demur.estimating import Work, estimate
        from demur.loading import describe

        config, place, kind = describe(model, device=device, dtype=dtype, revision=revision)
        work = Work(
            prompts=prompts,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            rows=rows,
            row_tokens=row_tokens,
            learnt_tokens=learnt_tokens,
            rank=rank,
            preference=preference,
        )
        found = estimate(model, config, work, place, kind)
        if as_json:
            made = asdict(found)
            made["needs"] = [{**asdict(n), "memory": n.memory} for n in found.needs]
            emit_json(made)
        else:
            _show(found)


def _show(found: Estimate) -> None:
    title = f"{found.model}: {found.parameters:,} parameters, {found.dtype} on {found.device}"
    head = ("stage", "memory", "weights", "cache", "adapter", "working", "libraries", "tokens", "time", "")
    rows = [
        (
            n.stage,
            *(_size(v) for v in (n.memory, n.weights, n.cache, n.adapter, n.working, n.libraries)),
            f"{n.tokens:,}" if n.tokens else "–",
            "–" if n.seconds is None else _time(n.seconds),
            n.note,
        )
        for n in found.needs
    ]
    table(title, head, rows, right=range(1, 9))
    most = max(n.memory for n in found.needs)
    fits = "fits" if most <= found.available else "DOES NOT FIT"
    console().print(f"{_size(found.available)} free on {found.device}: the largest stage {fits}.", highlight=False)
    console().print("Assumed: " + "; ".join(found.assumed) + ".", highlight=False)


def _size(value: int) -> str:
    if not value:
        return "–"
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.2g} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
