"""Pages of the open folders, of the recipes and of the suites, from the registries: for `docs/build.py`."""

from __future__ import annotations

from pathlib import Path

from docstrings import cell, code, folded, line, link, papers, table, text

from demur import modifiers, registry, suites
from demur.benchmarks import _cards
from demur.source_fields import Setting
from demur.types import Card

ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "benchmarks": "Benchmarks",
    "judges": "Judges",
    "generators": "Generators",
    "methods": "Methods",
    "interventions": "Interventions",
    "export": "Exporters",
}
"""The open folders, and what their pages are called."""
LINE_BY_LINE = {
    "rass": "rass", "mosr": "mosr", "circuit_breakers": "mosr", "x_boundary": "mosr", "repbend": "mosr",
    "dcr": "dcr", "actor": "dcr", "stl": "dcr",
}  # fmt: skip
"""Reconstructed methods, and the page that says line by line what is the paper's and what is ours."""
SETTINGS = ("setting", "type", "default", "meaning")


def page(kind: str) -> str:
    """Return the tables of one open folder: its members, then each with documentation and settings."""
    parts = [_benchmarks() if kind == "benchmarks" else _overview(kind)]
    parts += [_member(kind, member) for member in registry.members(kind)]
    if kind == "benchmarks":
        parts += [_modifiers(), _suites()]
    return "\n\n".join(parts)


def recipes() -> str:
    """Return every recipe of the repository with its command."""
    parts = []
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        source = path.read_text("utf-8").strip()
        parts += [
            f"## {path.stem}",
            f"`demur run recipes/{path.name} --out runs/{path.stem}`",
            f"```toml\n{source}\n```",
        ]
    return "\n\n".join(parts)


def _overview(kind: str) -> str:
    rows = []
    for member in registry.members(kind):
        extra = f"`{member.extra}`" if member.extra else ""
        row = [f"[`{member.name}`](#{member.name})", cell(member.summary)]
        if kind == "methods":
            found = papers(registry.documentation(kind, member.name))
            row.append(", ".join(map(link, found)) or "none: ours")
        rows.append([*row, extra])
    papers_too = ("paper (arXiv)",) if kind == "methods" else ()
    return table(("name", "what it is", *papers_too, "extra"), rows)


def _benchmarks() -> str:
    columns = ("name", "what it is", "licence", "prompts", "languages", "kinds")
    rows = [
        [f"[`{b.name}`](#{b.name})", cell(b.summary), cell(b.licence), b.size, _few(b.card), b.kinds]
        for b in _cards.lines()
    ]
    return table(columns, rows)


def _few(card: Card) -> str:
    """Return up to six language codes, of more the number."""
    return " ".join(card.languages) if len(card.languages) <= 6 else f"{len(card.languages)} languages"


def _member(kind: str, member: registry.Member) -> str:
    lines = [f"## {member.name}", text(registry.documentation(kind, member.name))]
    if member.comparison_only:
        lines.append(f"**For comparison only**: {line(member.comparison_only)}. It is neither chosen nor exported.")
    if kind == "methods" and member.name in LINE_BY_LINE:
        where = LINE_BY_LINE[member.name]
        lines.append(f"[Line by line: what is the paper's and what is ours](../{where}.md)")
    if member.extra:
        lines.append(f"Needs the extra `{member.extra}`: `{registry.install_hint(member.extra)}`.")
    if kind == "benchmarks":
        lines.append(_card(member.name))
    if rows := [_setting(s) for s in registry.fields(kind, member.name)]:
        lines.append(folded(f"Settings ({len(rows)})", table(SETTINGS, rows)))
    return "\n\n".join(lines)


def _setting(s: Setting) -> list[str]:
    return [code(s.name), code(s.type), code(s.default) if s.default is not None else "required", cell(s.doc)]


def _card(name: str) -> str:
    """Return what a benchmark's card says."""
    one = _cards.line(name)
    card = one.card
    home = f"<{card.home}>" if card.home.startswith("http") else one.home
    said = [
        ("licence", cell(card.licence)),
        ("citation", cell(card.citation)),
        ("home", home),
        ("revision", code(card.revision)),
        ("prompts", one.size),
        ("languages", one.languages),
        ("kinds", one.kinds),
        ("access", cell(card.access)),
    ]
    facts = [f"- {key}: {value}" for key, value in said if value]
    return "\n".join([*facts, *(f"- caution: {line(words)}" for words in card.cautions)])


def _modifiers() -> str:
    rows = [[code(s.name), code(s.type), code(str(s.default)), cell(s.doc)] for s in modifiers.settings()]
    said = "A benchmark that declares a setting of the same name keeps its own."
    return f"## Settings of any benchmark\n\n{said}\n\n{table(SETTINGS, rows)}"


def _suites() -> str:
    rows = [[code(s.name), cell(s.summary), "<br>".join(map(code, s.parts))] for s in suites.SUITES.values()]
    return f"## Suites\n\n{table(('name', 'what it is', 'benchmarks'), rows)}"
