"""The same tables as Markdown. Answers to prompts that must be refused are left out altogether."""

from __future__ import annotations

import functools
import re
from typing import Any

import jinja2

from demur.report import heat, html, tables, text
from demur.report.data import Pairing, ReportData, Transcripts

SHOWN = 20
"""Transcripts per list."""
CUT = 300
"""Characters of a prompt or an answer."""


class Plain(str):
    """Text that is Markdown already and is written as it stands."""


def render_markdown(data: ReportData) -> str:
    """Return the report as Markdown.

    Args:
        data: as `build` makes it.
    """
    page = _environment().get_template("report.md.j2")
    made = page.render(data=data, shown=_shown(data), boundary=_boundary(data), heats=_heats(data))
    return "\n".join(line.rstrip() for line in made.splitlines()).rstrip() + "\n"


@functools.cache
def _environment() -> jinja2.Environment:
    """Return the templates; compiled once a process."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(html.TEMPLATES),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escape,  # every value, so that text means itself
        keep_trailing_newline=True,
    )
    environment.globals |= {"text": text, "tables": tables}
    environment.filters |= {"table": table, "code": _code}
    return environment


def _heats(data: ReportData) -> list[tables.Table]:
    return [heat.table(h, compared=data.compared) for h in data.heats]


def _boundary(data: ReportData) -> list[tables.Table]:
    if data.boundary is None:
        return []
    found = (tables.auc(data.boundary), tables.alpha(data.boundary), tables.coordinates(data))
    return [t for t in found if t is not None]


def _shown(data: ReportData) -> list[tuple[Transcripts, list[dict[str, str]]]]:
    """Return each list with its first rows, none of them an answer to a prompt that must be refused."""
    return [(t, [_row(r) for r in t.rows if _may_show(r)][:SHOWN] if not t.folded else []) for t in data.transcripts]


def _may_show(row: Pairing) -> bool:
    return not row.before.harmful and (row.after is None or not row.after.harmful)


def _row(row: Pairing) -> dict[str, str]:
    def said(answer: Any) -> str:
        state = tables.outcome(answer.state) + (f" ({answer.reason})" if answer.reason else "")
        return f"{state}: {_cut(answer.text)}" if answer.text else state

    return {
        "id": row.prompt_id,
        "asked": _cut(row.text),
        "before": said(row.before),
        "after": "" if row.after is None else said(row.after),
    }


def _cut(value: str) -> str:
    return value if len(value) <= CUT else value[: CUT - 1] + "…"


def table(shown: tables.Table) -> Plain:
    """Return one table as Markdown."""
    lines = [f"**{_escape(shown.caption)}**", ""]
    head, rows = shown.head, list(shown.rows)
    if shown.meanings:
        head = (*head, "Meaning")
        rows = [(*row, meaning) for row, meaning in zip(rows, shown.meanings, strict=True)]
    for i, row in enumerate((head, tuple("---" for _ in head), *rows)):
        cells = row if i == 1 else [_escape(cell) for cell in row]
        first = "– " if i - 2 in shown.indented else ""
        lines.append("| " + first + " | ".join(cells) + " |")
    if shown.note:
        lines += ["", _escape(shown.note)]
    return Plain("\n".join(lines) + "\n")


def _code(value: str) -> Plain:
    """Return a fenced block whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", value)), default=0))
    return Plain(f"{fence}\n{value.rstrip()}\n{fence}")


def _escape(value: Any) -> Any:
    """Make text mean itself in Markdown, on one line; leave `Plain` and what is no text alone."""
    if isinstance(value, Plain) or not isinstance(value, str):
        return value
    one_line = " ".join(value.split()) if "\n" in value or "\r" in value else value
    escaped = re.sub(r"([\\`*|~])", r"\\\1", one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped).replace("](", "]\\(")
