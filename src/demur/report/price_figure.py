"""The price by position: how far the predictions move at each token of the answer."""

from __future__ import annotations

from demur.report import drawing, tables, text
from demur.report.data import ReportData
from demur.report.drawing import BLUE
from demur.report.picture import Picture


def by_position(data: ReportData) -> Picture | None:
    """Draw the KL at each answer position on neutral prompts; None where it was not measured."""
    table = tables.by_position(data)
    if table is None:
        return None
    found = [(i, r) for i, r in enumerate(data.price_by_position, 1) if r.value is not None]
    places, values = [i for i, _ in found], [float(r.value or 0) for _, r in found]
    low = [r.value if r.low is None else r.low for _, r in found]
    high = [r.value if r.high is None else r.high for _, r in found]
    with drawing.canvas(2.6) as (figure, axes):
        axes.fill_between(places, low, high, color=BLUE, alpha=0.2, linewidth=0)  # type: ignore[arg-type]
        axes.plot(places, values, color=BLUE, marker="o", markersize=3)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("position in the answer (tokens)")
        axes.set_ylabel("KL, nats")
        words = ", ".join(f"{i}: {text.number(r, 'nats')}" for i, r in found)
        svg = drawing.svg(figure, "price-by-position", f"Price by position in the answer: {words}.")
    caption = "KL from the untouched model on neutral prompts, along its own answers. The band is a 95 % interval."
    return Picture(name="price-by-position", title="Price, by position", svg=svg, caption=caption, table=table)
