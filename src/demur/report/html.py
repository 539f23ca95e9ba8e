"""One self-contained page: no script, nothing loaded, everything escaped."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from demur.report import bars, boundary_figures, heat, plane, price_figure, tables, text
from demur.report.data import Pairing, ReportData
from demur.report.picture import Picture

TEMPLATES = Path(__file__).parent / "templates"
BLOCK = 100
"""Rows of transcripts in one block: a browser lays out only the blocks in view."""
LONG = 700
"""Characters of an answer shown before the rest is folded."""


def render_html(data: ReportData) -> str:
    """Return the page.

    Args:
        data: as `build` makes it.
    """
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    page = _environment().get_template("report.html.j2")
    return page.render(data=data, style=style, pictures=_pictures(data), boards=_boards(data), LONG=LONG, BLOCK=BLOCK)


@functools.cache
def _environment() -> jinja2.Environment:
    """Return the templates; compiled once a process."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"text": text, "tables": tables, "outcome": tables.outcome}
    environment.filters |= {"blocks": _blocks, "cut": _cut, "rest": _rest}
    return environment


def _pictures(data: ReportData) -> dict[str, tuple[Picture, ...]]:
    board = data.headline
    found: dict[str, Sequence[Picture | None]] = {
        "plane": (plane.on_test(data), plane.on_validation(data)),
        "category": bars.by(data, board.categories, "category") if board else (),
        "language": bars.by(data, board.languages, "language") if board and len(board.languages) > 1 else (),
        "heat": [heat.picture(h, compared=data.compared) for h in data.heats],
        "price": (price_figure.by_position(data),),
        "boundary": boundary_figures.boundary(data.boundary),
    }
    return {name: tuple(p for p in own if p is not None) for name, own in found.items()}


def _boards(data: ReportData) -> list[dict[str, Any]]:
    return [
        {
            "board": board,
            "verdict": tables.verdict(data, board),
            "more": tables.more(data, board),
            "category": tables.slices(data, board.categories, "Category"),
            "language": tables.slices(data, board.languages, "Language"),
        }
        for board in data.boards
    ]


def _blocks(rows: Sequence[Pairing]) -> Iterator[tuple[int, Sequence[Pairing]]]:
    """Yield (index of the first row, at most `BLOCK` rows)."""
    for start in range(0, len(rows), BLOCK):
        yield start, rows[start : start + BLOCK]


def _cut(value: str) -> str:
    return value if len(value) <= LONG else value[: LONG - 100]


def _rest(value: str) -> str:
    return "" if len(value) <= LONG else value[LONG - 100 :]
