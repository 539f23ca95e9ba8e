"""`demur list`: what there is of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from demur.cli._console import emit_json, table

if TYPE_CHECKING:
    from demur.registry import Member

KINDS = ("benchmarks", "judges", "generators", "methods", "interventions", "export", "suites")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(name="list", help="List benchmarks, judges, generators, methods, interventions or suites.")
    def list_members(
        kind: str = typer.Argument(..., help=f"One of: {', '.join(KINDS)}."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur import registry
        from demur.errors import NotFound

        if kind == "suites":
            _suites(as_json)
            return
        if kind not in registry.KINDS:
            raise NotFound("kind of part", kind, KINDS)
        if kind == "benchmarks":
            _benchmarks(as_json)
            return
        members = registry.members(kind)
        if as_json:
            emit_json([_record(m) for m in members])
            return
        rows = [[m.name, _summary(m), "" if m.installed else m.hint] for m in members]
        table(kind, ("name", "what it is", "to install"), rows)


def _record(member: Member) -> dict[str, Any]:
    record = {"name": member.name, "summary": member.summary, "installed": member.installed}
    return {**record, "comparison_only": member.comparison_only} if member.comparison_only else record


def _summary(member: Member) -> str:
    return member.summary + (f" Comparison only: {member.comparison_only}." if member.comparison_only else "")


def _benchmarks(as_json: bool) -> None:
    """Show each benchmark with what its card says of licence, size and languages."""
    from demur.benchmarks import _cards

    lines = _cards.lines()
    if as_json:
        emit_json(
            [
                {
                    "name": line.name,
                    "summary": line.summary,
                    "installed": True,
                    "licence": line.licence,
                    "size": line.card.size,
                    "sample": line.card.sample,
                    "languages": list(line.card.languages),
                    "kinds": [kind for kind in line.card.kinds if kind],
                    "home": line.card.home,
                    "revision": line.card.revision,
                    "gated": bool(line.card.access),
                }
                for line in lines
            ]
        )
        return
    rows = [
        [line.name, line.summary.partition(": ")[2] or line.summary, line.licence, line.size, _few(line.card.languages)]
        for line in lines
    ]
    table("benchmarks", ("name", "what it is", "licence", "prompts", "languages"), rows)


def _few(languages: Sequence[str]) -> str:
    """Return up to five language codes, of more the number and the first ones."""
    shown = " ".join(languages[:5])
    return f"{len(languages)}: {shown} …" if len(languages) > 5 else shown or "any"


def _suites(as_json: bool) -> None:
    from demur.suites import SUITES

    if as_json:
        emit_json([{"name": s.name, "summary": s.summary, "parts": list(s.parts)} for s in SUITES.values()])
    else:
        table(
            "suites",
            ("name", "what it is", "benchmarks"),
            [[s.name, s.summary, "; ".join(s.parts)] for s in SUITES.values()],
        )
