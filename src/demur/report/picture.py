"""What a figure is to the writers of a report."""

from __future__ import annotations

from dataclasses import dataclass

from demur.report.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An SVG with a title, a caption that says how to read it, and its numbers where no other table holds them."""

    name: str
    title: str
    svg: str
    caption: str
    table: Table | None = None
