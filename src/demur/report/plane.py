"""The two-error plane: prompts that deserve help and got none, against prompts that must be refused and were not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.report import drawing
from demur.report.data import Board, FloorView, Rate, ReportData, Sweep, Trial
from demur.report.drawing import BLACK, BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILLION
from demur.report.picture import Picture
from demur.report.tables import KIND_WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {"steer": ("o", SKY), "ablate": ("^", ORANGE), "gated": ("s", GREEN)}
OTHER = ("D", PURPLE)
X_LABEL = "1 − answered (borderline prompts)"
Y_LABEL = "1 − held (harmful prompts)"

Pair = tuple[Rate, Rate]


def on_test(data: ReportData) -> Picture | None:
    """Draw before and after on the measured prompts, with the floor."""
    board = data.headline
    before = _measured(board, after=False)
    if board is None or before is None:
        return None
    after = _measured(board, after=True)
    only_borderline = _has_borderline(board)
    with drawing.canvas(3.7) as (figure, axes):
        _box(axes, before, BLACK, "before" if after else "measured", marker="o")
        if after is not None:
            _box(axes, after, BLUE, "after", marker="D")
            _arrow(axes, before, after)
        if after is None:
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
        else:
            _limits(axes, [before, after], floor=_floor_line(before, data.floor))
            _draw_floor(axes, _floor_line(before, data.floor))
        _finish(figure, axes, X_LABEL if only_borderline else "1 − answered")
        picture = drawing.svg(figure, "plane-test", _words(before, after))
    title = "Before and after, on the test prompts" if after else "Both errors, on the measured prompts"
    caption = "Down and to the left is better. Boxes are 95 % intervals of both rates; they resample whole groups."
    if data.compared:
        caption += " The line is the floor for the point alone; the floor itself also demands it of the lower bound."
    return Picture(name="plane-test", title=title, svg=picture, caption=caption)


def on_validation(data: ReportData) -> Picture | None:
    """Draw every trial of the sweep, the front, the floor and the choice."""
    sweep = data.sweep
    if sweep is None or not any(t.point for t in sweep.trials):
        return None
    base = _pair(sweep.base) or _pair(sweep.base_screen)
    with drawing.canvas(3.7 + 0.2) as (figure, axes):
        _trials(axes, sweep)
        _front(axes, sweep)
        if base is not None:
            _box(axes, base, BLACK, "untouched model", marker="o")
        _choice(axes, sweep)
        _root_scale(axes, sweep, base)
        if base is not None and sweep.margin is not None:
            _draw_floor(axes, 1 - _value(base[1]) + sweep.margin)
        _finish(figure, axes, X_LABEL)
        picture = drawing.svg(figure, "plane-validation", _sweep_words(sweep))
    caption = (
        "Filled marks with boxes were judged on whole answers; faint hollow ones were only screened by their first "
        "token. The dashed line is the front of the judged trials. Choosing uses half the floor's margin. "
        "The vertical axis is a square-root scale, to open up the region near zero."
    )
    return Picture(
        name="plane-validation", title=f"Every trial, on the {sweep.split} prompts", svg=picture, caption=caption
    )


def on_cells(path: Path, before: Pair, after: Sequence[tuple[str, Rate, Rate, bool]]) -> None:
    """Write a PNG of the untouched model and of many cells, each by its name; hollow marks miss the floor on test.

    Args:
        path: the file.
        before: answered and held rate of the untouched model.
        after: name, answered, held, whether the floor was kept.
    """
    with drawing.canvas(4.2) as (figure, axes):
        figure.set_size_inches(8, 5)
        _named(axes, before, "untouched model", after)
        _finish(figure, axes, X_LABEL)
        figure.savefig(path, dpi=150, facecolor="white")


def on_runs(runs: Sequence[tuple[str, Rate, Rate, bool]]) -> Picture:
    """Draw many runs, each by its name, against the first; hollow marks miss the floor.

    Args:
        runs: name, answered, held, whether the floor was kept; the first is the reference.
    """
    first, *others = runs
    with drawing.canvas(4.4) as (figure, axes):
        _named(axes, first[1:3], f"run {first[0]}, the reference", others)
        _finish(figure, axes, "1 − answered")
        said = "; ".join(f"{name}: {_place((answered, held))}" for name, answered, held, _ in runs)
        picture = drawing.svg(figure, "plane-runs", said)
    caption = (
        "Down and to the left is better. Numbers are those of the list above; hollow marks miss the safety floor "
        "against the reference. The box is its 95 % interval in both rates; those of the others are in the table."
    )
    return Picture(name="plane-runs", title="Both errors of every run", svg=picture, caption=caption)


def _named(axes: Axes, before: Pair, label: str, after: Sequence[tuple[str, Rate, Rate, bool]]) -> None:
    """Draw one point with its box, and others by name: full where they keep the floor of the first.

    What lies far below the floor stands at the upper edge, with its value.
    """
    floor = _floor_line(before, None)
    edge = floor + 2 * (floor - _point(before)[1])
    shown = {name: _point((answered, held)) for name, answered, held, _ in after}
    _limits(axes, [before, *((a, h) for name, a, h, _ in after if shown[name][1] <= edge)], floor=edge)
    xs = [_point(before)[0], *(x for x, _ in shown.values())]
    axes.set_xlim(max(0.0, min(xs) - 0.03), min(1.0, max(xs) + 0.12))
    axes.set_ylim(top=edge)
    _box(axes, before, BLACK, label, marker="o")
    labels = []
    for name, _, _, kept in after:
        x, y = shown[name]
        at = (x, min(y, edge))
        axes.plot(*at, marker="D", color=BLUE, fillstyle="full" if kept else "none", linestyle="none", clip_on=False)
        labels.append((name if y <= edge else f"{name} ({100 * y:.0f} %)", at))
    drawing.labelled(axes, labels)
    _draw_floor(axes, floor)


def _measured(board: Board | None, *, after: bool) -> Pair | None:
    if board is None:
        return None
    answered = board.row("answered_rate:borderline") or board.row("answered_rate")
    held = board.row("held_rate")
    if answered is None or held is None:
        return None
    return _pair((answered.after, held.after) if after else (answered.before, held.before))


def _has_borderline(board: Board) -> bool:
    return board.row("answered_rate:borderline") is not None


def _pair(pair: tuple[Rate | None, Rate | None]) -> Pair | None:
    answered, held = pair
    if answered is None or held is None or answered.value is None or held.value is None:
        return None
    return answered, held


def _value(rate: Rate) -> float:
    return rate.value if rate.value is not None else 0.0


def _point(pair: Pair) -> tuple[float, float]:
    return 1 - _value(pair[0]), 1 - _value(pair[1])


def _span(rate: Rate) -> tuple[float, float]:
    """Return the interval of 1 − rate."""
    value = _value(rate)
    low = rate.low if rate.low is not None else value
    high = rate.high if rate.high is not None else value
    return 1 - high, 1 - low


def _box(axes: Axes, pair: Pair, colour: str, label: str, *, marker: str, size: float = 8) -> None:
    from matplotlib.patches import Rectangle

    (x0, x1), (y0, y1) = _span(pair[0]), _span(pair[1])
    face = Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=colour, alpha=0.14, linewidth=0, zorder=2)
    edge = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=0.9, zorder=3)
    axes.add_patch(face)
    axes.add_patch(edge)
    x, y = _point(pair)
    axes.plot([x], [y], marker=marker, color=colour, markersize=size, linestyle="none", label=label, zorder=5)


def _arrow(axes: Axes, before: Pair, after: Pair) -> None:
    arrow = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.2, "shrinkA": 7, "shrinkB": 7}
    axes.annotate("", xy=_point(after), xytext=_point(before), arrowprops=arrow, zorder=4)


def _floor_line(before: Pair, floor: FloorView | None) -> float:
    return 1 - _value(before[1]) + (floor.margin if floor is not None else 0.02)


def _limits(axes: Axes, pairs: Sequence[Pair], *, floor: float) -> None:
    xs = [v for p in pairs for v in _span(p[0])]
    ys = [v for p in pairs for v in _span(p[1])] + [floor]
    x_pad, y_pad = max(0.02, 0.15 * (max(xs) - min(xs))), max(0.006, 0.2 * (max(ys) - min(ys)))
    axes.set_xlim(max(0.0, min(xs) - x_pad), min(1.0, max(xs) + x_pad))
    axes.set_ylim(max(0.0, min(ys) - y_pad), min(1.0, max(ys) + y_pad))


def _draw_floor(axes: Axes, level: float) -> None:
    top = axes.get_ylim()[1]
    if level >= top:
        return
    axes.axhspan(level, top, facecolor="none", edgecolor="#e3d2c6", hatch="////", linewidth=0, zorder=0)
    axes.axhline(level, color=VERMILLION, linewidth=1.3, linestyle=(0, (6, 2)), zorder=1, label="the floor")
    background = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.9}
    axes.annotate(
        "below the floor",
        xy=(axes.get_xlim()[1], top),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color="#8f3d00",
        fontsize=9,
        bbox=background,
    )


def _trials(axes: Axes, sweep: Sweep) -> None:
    for kind in dict.fromkeys(t.kind for t in sweep.trials):
        marker, colour = MARKS.get(kind, OTHER)
        own = [t for t in sweep.trials if t.kind == kind]
        screened = [p for t in own if not t.is_judged and (p := t.point)]
        if screened:
            x, y = zip(*(_point(p) for p in screened), strict=True)
            axes.plot(
                x,
                y,
                marker=marker,
                linestyle="none",
                markersize=4.5,
                fillstyle="none",
                color=colour,
                alpha=0.65,
                zorder=2,
            )
        judged = [p for t in own if t.is_judged and t.id != sweep.choice and (p := t.point)]
        for pair in judged:
            _box(axes, pair, colour, "", marker=marker, size=6.5)
        axes.plot(
            [], [], marker=marker, linestyle="none", color=colour, markersize=6.5, label=KIND_WORDS.get(kind, kind)
        )


def _front(axes: Axes, sweep: Sweep) -> None:
    points = sorted(_point(p) for t in sweep.trials if t.id in sweep.front and (p := t.point))
    if len(points) > 1:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=INK, linewidth=1.1, linestyle="--", zorder=3, label="Pareto front")


def _choice(axes: Axes, sweep: Sweep) -> None:
    chosen = next((t for t in sweep.trials if t.id == sweep.choice), None)
    pair = chosen.point if chosen is not None else None
    if chosen is None or pair is None:
        return
    _box(axes, pair, BLUE, "chosen", marker="*", size=14)


def _root_scale(axes: Axes, sweep: Sweep, base: Pair | None) -> None:
    import numpy as np
    from matplotlib.ticker import FixedLocator

    pairs = [p for t in sweep.trials if (p := t.point)] + ([base] if base else [])
    top = min(1.0, max(_span(p[1])[1] for p in pairs) * 1.1 + 0.02)

    def root(v: Any) -> Any:
        return np.sqrt(np.clip(v, 0, None))

    axes.set_yscale("function", functions=(root, np.square))
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(FixedLocator([t for t in (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if t <= top]))
    xs = [v for p in pairs for v in _span(p[0])]
    axes.set_xlim(max(0.0, min(xs) - 0.03), min(1.0, max(xs) + 0.03))


def _finish(figure: Any, axes: Axes, x_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(Y_LABEL)
    drawing.percent_axis(axes.xaxis)
    drawing.percent_axis(axes.yaxis)
    drawing.legend_above(figure, axes, columns=3)


def _words(before: Pair, after: Pair | None) -> str:
    return f"Before: {_place(before)}." + (f" After: {_place(after)}." if after else "")


def _place(pair: Pair) -> str:
    x, y = _point(pair)
    return f"{x * 100:.1f} % of prompts that deserve help unanswered, {y * 100:.1f} % of harmful prompts not held"


def _sweep_words(sweep: Sweep) -> str:
    judged = sum(t.is_judged for t in sweep.trials)
    choice: Trial | None = next((t for t in sweep.trials if t.id == sweep.choice), None)
    chosen = f" The chosen one is {choice.id}." if choice is not None else " None was chosen."
    return f"{len(sweep.trials)} trials in the plane of both errors, {judged} of them judged on whole answers.{chosen}"
