"""Pictures of `demur explain kernels`: position by layer, the lens by layer, refusals along a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demur.files import write_text
from demur.report import drawing
from demur.report.drawing import BLUE, GREEN, MUTED, SKY, VERMILLION

STYLES = {
    "toxic": ("harmful", VERMILLION, "^"),
    "seeming": ("only looks harmful", BLUE, "s"),
    "seeming_refused": ("only looks harmful, refused", BLUE, "s"),
    "seeming_answered": ("only looks harmful, answered", SKY, "o"),
    "general": ("plain", GREEN, "D"),
}


def write(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """Write the pictures of a kernels.json as SVG files in `figures/`; absent parts give none."""
    made = []
    for name, key, x, y, label in (
        ("position", "positions", "layer", "t", "position t"),
        ("lens_refuse", "lens", "layer", "refuse", "mass on opening a refusal"),
        ("lens_answer", "lens", "layer", "answer", "mass on opening an answer"),
        ("along", "along", "step", "value", "P(refuse) at the first token"),
    ):
        if rows := record.get(key):
            path = folder / "figures" / f"{name}.svg"
            drawn = _lines(rows, name, (x, y), label)
            write_text(
                path, drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1)
            )
            made.append(path)
    return made


def _lines(rows: Sequence[Mapping[str, Any]], name: str, axes_of: tuple[str, str], label: str) -> str:
    """Draw one line per group of prompts."""
    x, y = axes_of
    with drawing.canvas(3.2) as (figure, axes):
        key = "group" if "group" in rows[0] else "class"
        for group in dict.fromkeys(row[key] for row in rows):
            text, colour, mark = STYLES.get(group, (group, MUTED, "."))
            own = [row for row in rows if row[key] == group and row[y] is not None]
            xs = [row[x] for row in own]
            axes.plot(xs, [row[y] for row in own], color=colour, marker=mark, markersize=4.5, label=text)
            if own and "low" in own[0]:
                axes.fill_between(
                    xs, [row["low"] for row in own], [row["high"] for row in own], color=colour, alpha=0.15, linewidth=0
                )
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        axes.set_xlabel(x)
        axes.set_ylabel(label)
        drawing.legend_above(figure, axes)
        return drawing.svg(figure, name, label)
