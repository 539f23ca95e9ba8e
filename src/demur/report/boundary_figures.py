"""Pictures of the boundary: how well each layer tells classes apart, where classes lie, what steering moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from demur.report import drawing, tables, text
from demur.report.data import Rate
from demur.report.drawing import BLUE, GREEN, MUTED, PURPLE, SKY, VERMILLION
from demur.report.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]

CURVES = (
    ("harmful_vs_plain", VERMILLION, "o", "-"),
    ("harmful_vs_refused_borderline", BLUE, "s", "--"),
    ("refused_vs_answered_borderline", GREEN, "^", "-."),
)
CLASSES = (
    ("plain", "plain", GREEN, "-", ""),
    ("borderline_answered", "borderline, answered", SKY, "--", "...."),
    ("borderline_refused", "borderline, refused", BLUE, "-.", "////"),
    ("harmful", "harmful", VERMILLION, (0, (1, 1)), "\\\\\\\\"),
)
KINDS = (("plain", GREEN, "o", "-"), ("borderline", BLUE, "s", "--"), ("harmful", VERMILLION, "^", "-."))


def boundary(record: Record | None) -> tuple[Picture, ...]:
    """Draw what `explain.json` holds; a part that is absent gives no picture."""
    if record is None:
        return ()
    return tuple(p for p in (auc(record), densities(record), alpha(record)) if p is not None)


def auc(record: Record) -> Picture | None:
    """Draw how well the coordinate along the direction tells classes apart, by layer, beside random directions."""
    table = tables.auc(record)
    if table is None:
        return None
    layers = [int(v) for v in record.get("layers") or []]
    curves = record.get("auc") or {}
    labels = dict(tables.AUC_NAMES)
    with drawing.canvas(3.7) as (figure, axes):
        axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=":", zorder=1)
        for key, colour, marker, line in CURVES:
            if curves.get(key):
                _curve(axes, layers, curves[key], colour, marker, line, labels[key])
        _random_auc(axes, record)
        _chosen_layer(axes, record, layers)
        axes.set_xticks(layers if len(layers) <= 16 else layers[:: -(-len(layers) // 12)])
        axes.set_xlabel(f"layer ({record.get('point', 'resid_post')})")
        axes.set_ylabel("area under the ROC curve")
        axes.set_ylim(_lowest(record), 1.02)
        drawing.legend_above(figure, axes, columns=1)
        svg = drawing.svg(figure, "auc", "Area under the ROC curve by layer; the numbers are in the table below.")
    caption = "0.5 is chance. Bands are 95 % intervals that resample groups."
    if _control(record):
        caption += f" Crosses: {len(_control(record))} random directions at the layer shown, harmful against plain."
    return Picture(name="auc", title="What each layer can tell apart", svg=svg, caption=caption, table=table)


def densities(record: Record) -> Picture | None:
    """Draw where each class lies along the direction: before above the line, after mirrored below it."""
    found = record.get("densities") or {}
    before, after = found.get("before") or {}, found.get("after") or {}
    if not any(key in before for key, *_ in CLASSES):
        return None
    with drawing.canvas(4.1) as (figure, axes):
        for key, label, colour, line, hatch in CLASSES:
            _density(axes, before.get(key), colour, line, hatch, label, sign=1)
            _density(axes, after.get(key), colour, line, hatch, "", sign=-1)
        axes.axhline(0, color=MUTED, linewidth=1)
        _threshold(axes, record)
        _half_labels(axes, mirrored=bool(after))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("coordinate along the direction, towards refusal →")
        drawing.legend_above(figure, axes)
        svg = drawing.svg(figure, "densities", _density_words(before, after))
    caption = "Each curve has the same area."
    if after:
        caption += " Before is drawn upwards, after downwards, on the same axis."
    if (record.get("boundary") or {}).get("t_star") is not None:
        caption += " The dotted line is where refusal becomes more likely than not."
    return Picture(name="densities", title=f"Where prompts lie{_at_layer(record)}", svg=svg, caption=caption)


def alpha(record: Record) -> Picture | None:
    """Draw refusal by the strength of steering along the direction."""
    table = tables.alpha(record)
    points = sorted(record.get("alpha_sweep") or [], key=lambda p: p.get("alpha", 0))
    if table is None:
        return None
    with drawing.canvas(3.7) as (figure, axes):
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=":", zorder=1)
        for kind, colour, marker, line in KINDS:
            own = [p for p in points if Rate.of(p.get(kind)) is not None]
            if own:
                _curve(axes, [p["alpha"] for p in own], [p[kind] for p in own], colour, marker, line, kind)
        drawn = _random_sweep(axes, record)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("strength α (negative: away from refusal)")
        axes.set_ylabel("refused at the first token")
        drawing.percent_axis(axes.yaxis)
        drawing.legend_above(figure, axes, columns=3)
        svg = drawing.svg(figure, "alpha", "Refusal by strength of steering; the numbers are in the table below.")
    caption = "What adding α times the direction does to refusal, read from the first answer token."
    if drawn:
        caption += f" Short strokes at α = {text.MINUS}1: {drawn} random directions of equal norm."
    return Picture(
        name="alpha", title=f"What the direction moves{_at_layer(record)}", svg=svg, caption=caption, table=table
    )


def _curve(
    axes: Axes, x: Sequence[float], values: Sequence[Any], colour: str, marker: str, line: str, label: str
) -> None:
    rates = [Rate.of(v) for v in values]
    kept = [(a, r) for a, r in zip(x, rates, strict=False) if r is not None and r.value is not None]
    if not kept:
        return
    xs, ys = [a for a, _ in kept], [r.value or 0.0 for _, r in kept]
    axes.plot(xs, ys, color=colour, marker=marker, markersize=5, linestyle=line, label=label, zorder=3)
    low = [y if r.low is None else r.low for y, (_, r) in zip(ys, kept, strict=True)]
    high = [y if r.high is None else r.high for y, (_, r) in zip(ys, kept, strict=True)]
    axes.fill_between(xs, low, high, color=colour, alpha=0.14, linewidth=0, zorder=2)


def _control(record: Record) -> list[float]:
    found = (record.get("random_control") or {}).get("auc") or []
    return [float(v) for v in found if isinstance(v, int | float)]


def _random_auc(axes: Axes, record: Record) -> None:
    values, layer = _control(record), record.get("layer")
    if values and layer is not None:
        axes.plot(
            [layer] * len(values),
            values,
            "x",
            color=PURPLE,
            markersize=4.5,
            alpha=0.8,
            zorder=2,
            label="random directions",
        )


def _chosen_layer(axes: Axes, record: Record, layers: Sequence[int]) -> None:
    layer = record.get("layer")
    if isinstance(layer, int) and layer in layers:
        axes.axvspan(layer - 0.18, layer + 0.18, color="#efece2", zorder=0)


def _lowest(record: Record) -> float:
    rates = [Rate.of(v) for curve in (record.get("auc") or {}).values() for v in curve or []]
    ends = [v for r in rates if r is not None for v in (r.low, r.value) if v is not None]
    return max(0.0, min([0.5, *ends, *_control(record)]) - 0.04)


def _density(axes: Axes, curve: Any, colour: str, line: Any, hatch: str, label: str, *, sign: int) -> None:
    if not curve or not any(curve.get("y") or ()):
        return
    least = 0.004 * max(curve["y"])  # tails at zero would only thicken the line
    x, y = zip(*((a, sign * b) for a, b in zip(curve["x"], curve["y"], strict=True) if b >= least), strict=True)
    axes.fill_between(x, 0, y, facecolor=colour, alpha=0.10, linewidth=0, zorder=1)
    if hatch:
        axes.fill_between(x, 0, y, facecolor="none", edgecolor=colour, hatch=hatch, alpha=0.35, linewidth=0, zorder=1)
    axes.plot(x, y, color=colour, linestyle=line, linewidth=1.8, label=label or None, zorder=3)


def _threshold(axes: Axes, record: Record) -> None:
    at = (record.get("boundary") or {}).get("t_star")
    if isinstance(at, int | float):
        axes.axvline(at, color="#1c1c1a", linewidth=1.3, linestyle=":", zorder=4, label="boundary")


def _half_labels(axes: Axes, *, mirrored: bool) -> None:
    low, high = axes.get_ylim()
    most = max(abs(low), abs(high)) * 1.02
    axes.set_ylim(-most if mirrored else 0, most)
    if mirrored:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.9}
        for y, label in ((0.985, "before"), (0.015, "after")):
            axes.text(
                0.01, y, label, transform=axes.transAxes, va="top" if y > 0.5 else "bottom", color=MUTED, bbox=box
            )


def _random_sweep(axes: Axes, record: Record) -> int:
    control = (record.get("random_control") or {}).get("sweep") or []
    for kind, colour, _, _ in KINDS:
        values = [c[kind] for c in control if isinstance(c, Mapping) and kind in c]
        if values:
            axes.plot(
                [-1.0] * len(values), values, "_", color=colour, markersize=11, markeredgewidth=1.1, alpha=0.7, zorder=2
            )
    return len(control)


def _at_layer(record: Record) -> str:
    layer = record.get("layer")
    return "" if layer is None else f", layer {layer}"


def _density_words(before: Record, after: Record) -> str:
    def peak(curve: Any) -> str:
        return f"{curve['x'][max(range(len(curve['y'])), key=curve['y'].__getitem__)]:.2f}"

    parts = []
    for key, label, *_ in CLASSES:
        if before.get(key):
            moved = f" to {peak(after[key])}" if after.get(key) else ""
            parts.append(f"{label} at {peak(before[key])}{moved}")
    return "Densities along the direction; peaks: " + "; ".join(parts) + "."
