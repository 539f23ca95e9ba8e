"""`demur chat`: talk to a model in the terminal, with or without an intervention."""

from __future__ import annotations

from pathlib import Path

import typer

from demur.cli._console import console, harmless


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Talk to a model; an empty line or Ctrl-D ends it.")
    def chat(
        model: str = typer.Option("organism", help="organism, organism:base, a local folder, or a hub id."),
        with_: Path | None = typer.Option(None, "--with", help="Folder of a saved intervention to attach."),
        system: str = typer.Option("", help="A system prompt."),
        max_new_tokens: int = typer.Option(256, min=1, help="Longest answer, in tokens."),
        temperature: float = typer.Option(0.0, min=0.0, help="0 is greedy."),
        history: bool = typer.Option(True, help="Send earlier turns along (the organism knows single turns only)."),
    ) -> None:
        from demur.chat import Conversation
        from demur.types import Sampling

        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        talk = Conversation(model=model, intervention=with_, system=system or None, sampling=sampling, history=history)
        out = console()
        out.print(f"{talk.title}. An empty line ends it.", style="dim", highlight=False)
        if talk.hint:
            out.print(talk.hint, style="dim", highlight=False)
        while text := _ask():
            out.print(harmless(talk.say(text)), highlight=False, markup=False)


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
