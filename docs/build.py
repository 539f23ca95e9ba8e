"""Rebuild `docs/reference.md`, the tables of what demur has: `python docs/build.py` (or `make docs`).

The tables come from the package alone: names and summaries from the registry, settings from the dataclass fields and
the docstrings under them. `--check` writes nothing and exits 1 when the page is out of date.
"""

# ruff: noqa: T201
from __future__ import annotations

import ast
import sys
from pathlib import Path

import demur
from demur import modifiers, registry, suites
from demur.benchmarks import _cards

PAGE = Path(__file__).with_name("reference.md")
PACKAGE = Path(demur.__file__).parent
HEAD = "# Reference\n\nMade by `make docs` from the package; do not edit by hand.\n"


def fields(kind: str, name: str) -> list[tuple[str, str, str, str]]:
    """Return (setting, type, default, meaning) of each field of a member's class, read without importing it."""
    path = PACKAGE / kind / f"{name}.py"
    wanted = name.replace("_", "")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.lower() == wanted:
            return list(_settings(node))
    return []


def _settings(node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    found = []
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign) or "ClassVar" in ast.unparse(item.annotation):
            continue
        default = ast.unparse(item.value) if item.value is not None else "required"
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        found.append((ast.unparse(item.target), ast.unparse(item.annotation), default, " ".join(str(said).split())))
    return found


def cell(text: str) -> str:
    """Return text that is safe inside a table cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def overview(kind: str) -> list[str]:
    """Return the table of a kind's members; of benchmarks with what their cards say."""
    if kind != "benchmarks":
        rows = [f"| `{m.name}` | {cell(summary(m))} | {m.extra or ''} |" for m in registry.members(kind)]
        return ["| name | what it is | extra |", "|---|---|---|", *rows]
    return [
        "| name | what it is | licence | prompts | languages | kinds | home |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| `{b.name}` | {cell(b.summary)} | {cell(b.licence)} | {b.size} | {b.languages} | {b.kinds} | {b.home} |"
            for b in _cards.lines()
        ),
        "",
        "`demur show NAME` prints the whole card: revision, checksums, citation, cautions, how to get access.",
    ]


def summary(member: registry.Member) -> str:
    """Return a member's first line, with why it is for comparison only where it is."""
    return member.summary + (f" *Comparison only: {member.comparison_only}.*" if member.comparison_only else "")


def section(kind: str) -> str:
    """Return the tables of one kind: its members, then each member's settings."""
    lines = [f"## {kind.capitalize()}", "", *overview(kind)]
    members = registry.members(kind)
    for member in members:
        rows = fields(kind, member.name)
        if rows:
            lines += [
                "",
                f"### {kind} / {member.name}",
                "",
                "| setting | type | default | meaning |",
                "|---|---|---|---|",
            ]
            lines += [f"| `{n}` | `{cell(t)}` | `{cell(d)}` | {cell(m)} |" for n, t, d, m in rows]
    return "\n".join(lines) + "\n"


def modifiers_section() -> str:
    """Return the table of the settings that every benchmark takes."""
    lines = ["## Settings of any benchmark", "", "| setting | type | default | meaning |", "|---|---|---|---|"]
    rows = modifiers.settings()
    lines += [f"| `{s.name}` | `{cell(s.type)}` | `{cell(str(s.default))}` | {cell(s.doc)} |" for s in rows]
    lines += ["", "A benchmark that declares a setting of the same name keeps its own."]
    return "\n".join(lines) + "\n"


def suites_section() -> str:
    """Return the table of the suites."""
    lines = ["## Suites", "", "| name | what it is | benchmarks |", "|---|---|---|"]
    for suite in suites.SUITES.values():
        parts = ", ".join(f"`{cell(part)}`" for part in suite.parts)
        lines.append(f"| `{suite.name}` | {cell(suite.summary)} | {parts} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    parts = [section(kind) for kind in registry.KINDS if registry.names(kind)]
    text = "\n".join([HEAD, *parts, modifiers_section(), suites_section()])
    if "--check" in sys.argv[1:]:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE.name} is up to date" if fresh else f"{PAGE.name} is out of date: run `make docs`")
        return 0 if fresh else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
