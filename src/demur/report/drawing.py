"""How figures look, and how matplotlib's SVG becomes part of a page. matplotlib is imported on use."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito (2008): told apart under the common kinds of colour blindness
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
INK, MUTED, RULE = "#1c1c1a", "#5c5c57", "#d8d8d2"
WIDTH = 4.3
"""Inches: drawn at about the size it is shown at, so that text stays legible on a phone."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e9e9e4",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "demur",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def canvas(height: float) -> Iterator[tuple[Canvas, Axes]]:
    """Give a figure of the report's width and style with one pair of axes.

    Args:
        height: in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Canvas(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def svg(figure: Canvas, name: str, label: str) -> str:
    """Return a figure as an `<svg>` element whose ids are its own and whose text is text.

    Args:
        figure: drawn inside `canvas`.
        name: unique on the page; prefixes every id.
        label: read out in place of the picture.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    head = re.search(r'viewBox="([^"]+)"', text)
    box = head.group(1) if head else "0 0 1 1"
    start = f'<svg viewBox="{box}" role="img" aria-label="{html.escape(label, quote=True)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return start + re.sub(r"^<svg[^>]*>", "", text.strip(), count=1)


def percent_axis(axis: Any) -> None:
    """Show a share as per cent on one axis."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v * 100:g} %"))


def legend_above(figure: Canvas, axes: Axes, columns: int = 2) -> None:
    """Put the legend above the plot, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2, handlelength=2.2, columnspacing=1.4
    )


def labelled(axes: Axes, points: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Write a name beside each point, moved up or down with a thin line where another name stands.

    The limits of the axes must stand already: they say what is near.
    """
    figure = axes.figure
    figure.canvas.draw()
    taken: list[tuple[float, float, float]] = []
    size = 8 * figure.dpi / 72
    for name, at in sorted(points, key=lambda one: one[1]):
        x, y = axes.transData.transform(at)
        width = 0.62 * size * len(name)
        steps = [0.35 * size, *(sign * k * 1.3 * size for k in range(1, 12) for sign in (-1, 1))]
        near = [v for left, right, v in taken if left < x + size + width and x + size < right]
        free = (d for d in steps if all(abs(y + d - v) >= 1.25 * size for v in near))
        move = next(free, steps[0])
        taken.append((x + size, x + size + width, y + move))
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5} if abs(move) > size else None
        shift = (0.9 * 8, move * 72 / figure.dpi)
        axes.annotate(
            name, at, xytext=shift, textcoords="offset points", fontsize=8, color=INK, va="center", arrowprops=line
        )
