"""The heat map: both axes for each language and category, where a benchmark has several of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from demur.metrics import Outcome
from demur.report import drawing, text
from demur.report.changes import Judged, Key
from demur.report.data import Cell, Heat
from demur.report.drawing import INK
from demur.report.picture import Picture
from demur.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Axis = Literal["answered", "held"]
EXPECTED: dict[Axis, str] = {"answered": "comply", "held": "refuse"}
TITLES = {"answered": "Answered", "held": "Held"}
FEW = 5
"""Scored prompts below which a cell is not coloured."""
MOST = 30
"""Categories drawn; the table holds all."""


def heats(before: Mapping[Key, Judged], after: Mapping[Key, Judged] | None) -> tuple[Heat, ...]:
    """Count both axes by language and category, for the categories that stand in several languages.

    There is no map where no category does.

    Args:
        before: the answers of the first run.
        after: the answers of the second, if there is one.
    """
    made = []
    for axis in EXPECTED:
        sides = [_counts(side, axis) for side in (before, after) if side is not None]
        keys = list(dict.fromkeys(key for side in sides for key in side))
        several = [c for c in dict.fromkeys(key[0] for key in keys) if sum(key[0] == c for key in keys) > 1]
        keys = [key for key in keys if key[0] in several]
        categories, languages = several, list(dict.fromkeys(key[1] for key in keys))
        if not categories:
            continue
        cells = {key: (Cell(*sides[0].get(key, (0, 0))), Cell(*sides[-1].get(key, (0, 0)))) for key in keys}
        made.append(Heat(axis=axis, categories=tuple(categories), languages=tuple(languages), cells=cells))
    return tuple(made)


def picture(heat: Heat, *, compared: bool) -> Picture:
    """Draw one axis: a row for each category, a column for each language, the rate written in each cell.

    Args:
        heat: the counts.
        compared: whether to show what is after, with the change in points under it.
    """
    shown = heat.categories[:MOST]
    with drawing.canvas(0.9 + (0.46 if compared else 0.34) * len(shown)) as (figure, axes):
        _draw(axes, heat, shown, compared=compared)
        svg = drawing.svg(figure, f"heat-{heat.axis}", _words(heat, shown))
    left_out = len(heat.categories) - len(shown)
    return Picture(
        name=f"heat-{heat.axis}",
        title=f"{TITLES[heat.axis]}, by language and category",
        svg=svg,
        caption="Per cent"
        + (", after; below it the change in points" if compared else "")
        + f". Darker is higher; a cell of fewer than {FEW} scored prompts has no colour, an empty one has none. "
        "Cells are small: read their n in the table."
        + (f" {left_out} more categories are in the table." if left_out else ""),
        table=table(heat, compared=compared),
    )


def table(heat: Heat, *, compared: bool) -> Table:
    """Return the numbers of one axis, each with its n."""

    def cell(pair: tuple[Cell, Cell] | None) -> str:
        if pair is None or not pair[-1].n:
            return "–"
        first = f"{text.share(pair[0].value)} → " if compared else ""
        return f"{first}{text.share(pair[1].value)} (n {pair[1].n})"

    rows = tuple(
        (c or "(none)", *(cell(heat.cells.get((c, lang))) for lang in heat.languages)) for c in heat.categories
    )
    return Table(
        caption=f"{TITLES[heat.axis]}, by category and language", head=("Category", *heat.languages), rows=rows
    )


def _counts(side: Mapping[Key, Judged], axis: Axis) -> dict[tuple[str, str], tuple[int, int]]:
    """Return (hits, scored) by (category, language)."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for row in side.values():
        outcome: Outcome = row.outcome
        if outcome.prompt.expected == EXPECTED[axis] and outcome.measured:
            key = (outcome.prompt.category, outcome.prompt.language)
            hits, n = found.get(key, (0, 0))
            found[key] = (hits + (outcome.answered if axis == "answered" else outcome.held), n + 1)
    return found


def _draw(axes: Axes, heat: Heat, shown: Sequence[str], *, compared: bool) -> None:
    import numpy as np

    values = np.full((len(shown), len(heat.languages)), np.nan)
    for (category, language), (_, now) in heat.cells.items():
        if category in shown and now.value is not None and now.n >= FEW:
            values[shown.index(category), heat.languages.index(language)] = now.value
    axes.pcolormesh(values, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for (category, language), (was, now) in heat.cells.items():
        if category in shown and now.value is not None:
            place = heat.languages.index(language) + 0.5, shown.index(category) + 0.5
            moved = _moved(was, now) if compared else ""
            colour = "white" if now.value > 0.6 and now.n >= FEW else INK
            axes.text(*place, f"{100 * now.value:.0f}{moved}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks([i + 0.5 for i in range(len(shown))], [text.short(c or "(none)") for c in shown])
    axes.set_xticks([j + 0.5 for j in range(len(heat.languages))], heat.languages)
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _moved(was: Cell, now: Cell) -> str:
    """Return the change in points on a line of its own; "" for none."""
    if was.value is None or now.value is None or text.signed(now.value - was.value) == "0":
        return ""
    return f"\n{text.signed(now.value - was.value)}"


def _words(heat: Heat, shown: Sequence[str]) -> str:
    parts = [
        f"{category} in {language} {100 * now.value:.0f} %"
        for (category, language), (_, now) in heat.cells.items()
        if category in shown and now.value is not None
    ]
    return f"{TITLES[heat.axis]} rate by category and language: " + ", ".join(parts[:80]) + "."
