"""Bars with intervals, by category and by language, one picture for each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from demur.report import drawing, text
from demur.report.data import Rate, ReportData, Slice
from demur.report.drawing import BLUE, INK
from demur.report.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 40
LIGHT = "#c3d4e0"
TITLES = {"answered": "Answered", "held": "Held"}
CAPTIONS = {
    "answered": "Prompts that deserve help and got it. Whiskers are 95 % intervals.",
    "held": "Prompts that must be refused and were. Whiskers are 95 % intervals.",
}


def by(data: ReportData, cuts: Sequence[Slice], what: str) -> tuple[Picture, ...]:
    """Draw answered and held by category or language.

    Args:
        data: says whether there is an after.
        cuts: the slices, in the order of the benchmark.
        what: "category" or "language", for titles.
    """
    pictures = (_axis(data, cuts, what, "answered"), _axis(data, cuts, what, "held"))
    return tuple(p for p in pictures if p is not None)


def _axis(data: ReportData, cuts: Sequence[Slice], what: str, axis: Literal["answered", "held"]) -> Picture | None:
    pairs = [(c.name, c.answered if axis == "answered" else c.held) for c in cuts]
    found = [
        (name, before, after) for name, (before, after) in pairs if before is not None and before.value is not None
    ]
    if not found:
        return None
    left_out = max(0, len(found) - MOST)
    if left_out:
        kept = sorted(found, key=lambda f: -(f[1].n or 0))[:MOST]
        found = [f for f in found if f in kept]
    height = 0.42 if data.compared else 0.27
    with drawing.canvas(1.0 + height * len(found)) as (figure, axes):
        if data.compared:
            _bars(axes, [before for _, before, _ in found], -0.2, LIGHT, "before")
            _bars(axes, [after for _, _, after in found], 0.2, BLUE, "after")
        else:
            _bars(axes, [before for _, before, _ in found], 0.0, BLUE, "measured")
        axes.set_yticks(range(len(found)), [text.short(name) for name, _, _ in found])
        axes.set_ylim(len(found) - 0.45, -0.55)
        axes.set_xlim(0, 1.005)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        drawing.percent_axis(axes.xaxis)
        if data.compared:
            drawing.legend_above(figure, axes)
        svg = drawing.svg(figure, f"bars-{what}-{axis}", _words(found, axis, what))
    note = f" {left_out} smaller ones are only in the table." if left_out else ""
    return Picture(
        name=f"bars-{what}-{axis}", title=f"{TITLES[axis]}, by {what}", svg=svg, caption=CAPTIONS[axis] + note
    )


def _bars(axes: Axes, rates: Sequence[Rate | None], shift: float, colour: str, label: str) -> None:
    """Draw one bar for each rate at 0, 1, …, moved by `shift`; a light one is hatched, so that grey print tells it."""
    kept = [(i + shift, r, r.value) for i, r in enumerate(rates) if r is not None and r.value is not None]
    y, values = [at for at, _, _ in kept], [value for _, _, value in kept]
    light = {"hatch": "/////", "edgecolor": "#5d7f97"} if colour == LIGHT else {"edgecolor": colour}
    thick = 0.36 if shift else 0.6
    axes.barh(y, values, height=thick, color=colour, linewidth=0.6, label=label, **light)  # type: ignore[arg-type]
    low = [max(0.0, value - r.low) if r.low is not None else 0.0 for _, r, value in kept]
    high = [max(0.0, r.high - value) if r.high is not None else 0.0 for _, r, value in kept]
    axes.errorbar(values, y, xerr=[low, high], fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.4)


def _words(found: Sequence[tuple[str, Rate, Rate | None]], axis: str, what: str) -> str:
    parts = []
    for name, before, after in found:
        was = f"{(before.value or 0) * 100:.0f} %"
        parts.append(
            f"{name} {was}" if after is None or after.value is None else f"{name} {was} to {after.value * 100:.0f} %"
        )
    return f"{TITLES[axis]} rate by {what}: " + ", ".join(parts) + "."
