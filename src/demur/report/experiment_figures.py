"""Pictures of the experiments on the boundary: map, flip curves, reliability, sufficiency, languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from demur.report import drawing
from demur.report.data import Rate
from demur.report.drawing import BLACK, BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILLION
from demur.report.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
GROUPS = (
    ("benign_answered", "benign, answered", SKY, "o", "--"),
    ("benign_refused", "benign, refused", BLUE, "s", "-"),
    ("harmful_refused", "harmful, refused", VERMILLION, "^", "-."),
)
ZONE = "#efece2"
INTERVALS = "95 % intervals that resample groups"


def experiments(record: Record) -> dict[str, list[Picture]]:
    """Draw what an explanation holds of E1 to E4 and of its calibration, by section; absent parts give nothing."""
    return {
        "line": _some(reliability(record)),
        "E1": _some(group_map(record)),
        "E2": _some(flip_curves(record)),
        "E3": _some(sufficiency(record)),
        "E4": _some(language_lines(record), language_told(record)),
    }


def _some(*pictures: Picture | None) -> list[Picture]:
    return [p for p in pictures if p is not None]


def reliability(record: Record) -> Picture | None:
    """Draw the share refused against the P(refuse) that the calibration gives, in bins of equal n."""
    bins = (record.get("calibration") or {}).get("reliability") or []
    if not bins:
        return None
    with drawing.canvas(3.4) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":", label="perfect")
        xs, ys = [b["predicted"] for b in bins], [b["refused"] for b in bins]
        below = [max(0.0, b["refused"] - b["low"]) for b in bins]
        above = [max(0.0, b["high"] - b["refused"]) for b in bins]
        axes.errorbar(
            xs, ys, yerr=[below, above], color=BLUE, marker="o", markersize=5, linewidth=1.4, elinewidth=1.4,
            capsize=2.5, label="ten bins of equal n",
        )  # fmt: skip
        axes.set_xlabel("P(refuse) from the coordinate")
        axes.set_ylabel("share refused")
        for axis in (axes.xaxis, axes.yaxis):
            drawing.percent_axis(axis)
        drawing.legend_above(figure, axes)
        svg = drawing.svg(figure, "reliability", "Share refused against the calibrated probability of refusal.")
    n = sum(int(b["n"]) for b in bins)
    caption = f"n {n:,}. Bars: {INTERVALS}. Fit and bins are on the same prompts."
    return Picture(name="reliability", title="Is the calibration right?", svg=svg, caption=caption)


def group_map(record: Record) -> Picture | None:
    """Draw some prompts of each group, and the groups' means, on (coordinate, first component of the rest)."""
    e1, line = record.get("e1") or {}, record.get("boundary") or {}
    shown = [row for row in GROUPS if (e1.get("points") or {}).get(row[0])]
    if not shown:
        return None
    with drawing.canvas(4.2) as (figure, axes):
        _zone(axes, line)
        for x in (0, 1):
            axes.axvline(x, color=MUTED, linewidth=0.9, zorder=1)
        for name, label, colour, marker, _ in shown:
            xs, ys = zip(*e1["points"][name], strict=True)
            axes.plot(xs, ys, marker, color=colour, markersize=3, alpha=0.35, linestyle="none", zorder=2)
            at = e1["groups"][name]
            axes.plot([at["low"], at["high"]], [at["pc"]] * 2, color="white", linewidth=4.5, zorder=4)
            axes.plot([at["low"], at["high"]], [at["pc"]] * 2, color=colour, linewidth=2.4, zorder=5)
            axes.plot(
                [at["t"]], [at["pc"]], marker, color=colour, markersize=9, markeredgecolor="white", zorder=6,
                markeredgewidth=1.2, label=f"{label} (n {at['n']:,})",
            )  # fmt: skip
        axes.set_xlabel("coordinate t: 0 harmless mean, 1 harmful mean")
        axes.set_ylabel("first component of the rest")
        drawing.legend_above(figure, axes, columns=1)
        svg = drawing.svg(figure, "map", _map_words(e1))
    points = max(len(p) for p in e1["points"].values())
    caption = (
        f"Small marks are prompts, at most {points} of a group; large ones the groups' means, with the 95 % interval "
        "of t. " + ("Dotted: t*; shaded: where P(refuse) lies between 10 and 90 %. " if _known(line) else "")
    )
    random = [x for name, *_ in shown for x in e1["groups"][name]["random"]]
    if random:
        many = len(e1["groups"][shown[0][0]]["random"])
        caption += (
            f"Along {many} random directions of equal length the means lie from {min(random):.2f} to {max(random):.2f}."
        )
    return Picture(name="map", title=f"E1: where the groups lie{_at(record)}", svg=svg, caption=caption)


def flip_curves(record: Record) -> Picture | None:
    """Draw the share of each group whose decision has flipped, by strength, beside random directions."""
    e2 = record.get("e2") or {}
    groups = e2.get("groups") or {}
    shown = [row for row in GROUPS if (groups.get(row[0]) or {}).get("curve")]
    if not shown:
        return None
    with drawing.canvas(3.9) as (figure, axes):
        for name, label, colour, marker, style in shown:
            curve = groups[name]["curve"]
            xs = [p["alpha"] for p in curve]
            own = [r[name] for r in e2.get("random") or [] if r.get(name)]
            if own:
                ends = [(min(v), max(v)) for v in zip(*own, strict=True)]
                axes.fill_between(
                    xs, [a for a, _ in ends], [b for _, b in ends], facecolor="none", edgecolor=colour, alpha=0.45,
                    hatch="////", linewidth=0.4, zorder=1,
                )  # fmt: skip
            axes.fill_between(
                xs,
                [p["low"] for p in curve],
                [p["high"] for p in curve],
                color=colour,
                alpha=0.16,
                linewidth=0,
                zorder=2,
            )
            axes.plot(
                xs, [p["value"] for p in curve], color=colour, marker=marker, markersize=4.5, linestyle=style,
                label=f"{label} (n {groups[name]['n']:,})", zorder=3,
            )  # fmt: skip
        axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=":", zorder=1)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("strength, in gaps between the two means")
        axes.set_ylabel("decision flipped by then")
        drawing.percent_axis(axes.yaxis)
        drawing.legend_above(figure, axes, columns=1)
        svg = drawing.svg(figure, "flips", "Share of decisions flipped, by strength of steering.")
    caption = f"Refused prompts are steered away from refusal, answered ones towards it. Bands: {INTERVALS}."
    if e2.get("random"):
        caption += (
            f" Hatched: from the least to the most that {len(e2['random'])} random directions of equal length flip."
        )
    return Picture(name="flips", title=f"E2: what it takes to flip a decision{_at(record)}", svg=svg, caption=caption)


def sufficiency(record: Record) -> Picture | None:
    """Draw how well t, the words and random directions tell benign refusals from benign answers."""
    e3 = record.get("e3") or {}
    words = e3.get("words") or {}
    if words.get("t") is None:
        return None
    random = [a for a in e3.get("random_auroc") or [] if a is not None]
    rows = [
        ("t", words["t"], words["t_interval"], BLUE, "s"),
        ("words", words["words"], words["words_interval"], ORANGE, "D"),
    ]
    with drawing.canvas(2.3) as (figure, axes):
        axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=":", zorder=1)
        for place, (_, value, ends, colour, marker) in enumerate(rows):
            _point(axes, value, ends, -place, colour, marker)
        if random:
            axes.plot(random, [-2] * len(random), "x", color=PURPLE, markersize=6, alpha=0.8, zorder=3)
        names = ["coordinate t", "words alone", "random directions"][: 2 + bool(random)]
        axes.set_yticks([-i for i in range(len(names))], names)
        axes.set_ylim(-len(names) + 0.5, 0.5)
        axes.set_xlabel("AUROC, benign: refused against answered")
        svg = drawing.svg(figure, "sufficiency", "AUROC of t, of the words alone, and of random directions.")
    caption = f"n {words['n']:,}. Words: character n-grams, out of fold. Bars: {INTERVALS}."
    if random:
        caption += f" {len(random)} random directions of equal length, each the better way round."
    return Picture(name="sufficiency", title="E3: does t add to the words?", svg=svg, caption=caption)


def language_lines(record: Record) -> Picture | None:
    """Draw t* of every language, on its own axis and on the home language's, with the zone around it."""
    rows = [r for r in record.get("e4") or [] if _line_of(r, "own") or _line_of(r, "home_v")]
    if not rows:
        return None
    with drawing.canvas(1.4 + 0.5 * len(rows)) as (figure, axes):
        for place, row in enumerate(rows):
            for key, label, colour, marker, up in (
                ("home_v", "on the home axis", ORANGE, "D", 0.14),
                ("own", "on its own axis", BLUE, "s", -0.14),
            ):
                found = _line_of(row, key)
                if found:
                    _line(axes, found, -place + up, colour, marker, label="" if place else label)
        _names(axes, [r["language"] for r in rows])
        axes.set_xlabel("t*, where refusal becomes more likely than not")
        drawing.legend_above(figure, axes)
        svg = drawing.svg(figure, "languages", "The boundary of every language.")
    caption = f"Thin bars: {INTERVALS}. Broad bars: t* ± tau, P(refuse) between 10 and 90 %."
    return Picture(name="languages", title=f"E4: the line of every language{_at(record)}", svg=svg, caption=caption)


WAYS = (
    ("home_v_home_t", "home v, home t*", ORANGE, "D"),
    ("home_v_own_t", "home v, own t*", GREEN, "o"),
    ("own_v_own_t", "own v, own t*", BLUE, "s"),
)


def language_told(record: Record) -> Picture | None:
    """Draw how often refused and answered prompts are told apart, per language and way."""
    rows = [r for r in record.get("e4") or [] if r.get("told")]
    if not rows:
        return None
    with drawing.canvas(1.5 + 0.62 * len(rows)) as (figure, axes):
        for place, row in enumerate(rows):
            for k, (key, label, colour, marker) in enumerate(WAYS):
                rate = Rate.of(row["told"].get(key))
                if rate is not None and rate.value is not None:
                    y, first = -place + 0.26 - 0.2 * k, "" if place else label
                    _point(axes, rate.value, (rate.low, rate.high), y, colour, marker, label=first)
            _told_controls(axes, row["told"], place)
        _names(axes, [r["language"] for r in rows])
        axes.set_xlabel("refused and answered prompts told right")
        drawing.percent_axis(axes.xaxis)
        drawing.legend_above(figure, axes)
        svg = drawing.svg(figure, "told", "How often refused and answered prompts are told apart, per language.")
    caption = (
        "All prompts of the language. Own thresholds come from other groups than they are applied to. "
        f"Bars: {INTERVALS}."
    )
    return Picture(name="told", title="E4: whose line tells refusals apart?", svg=svg, caption=caption)


def moved(pairs: Sequence[Record]) -> Picture | None:
    """Draw t* and the zone around it per side, all prompts and each language.

    Args:
        pairs: rows of `moved`, which share their first side.
    """
    scopes = [s["scope"] for s in pairs[0]["scopes"]] if pairs else []
    if not scopes:
        return None
    colours = ((MUTED, "o"), (BLUE, "s"), (VERMILLION, "^"), (GREEN, "D"), (ORANGE, "v"), (PURPLE, "P"))
    step = 0.8 / (len(pairs) + 1)
    with drawing.canvas(1.2 + 0.17 * len(pairs) + len(scopes) * (0.2 + 0.2 * (len(pairs) + 1))) as (figure, axes):
        for place, scope in enumerate(scopes):
            sides = [(pairs[0]["before"], _of(pairs[0], scope, "before"))]
            sides += [(pair["after"], _of(pair, scope, "after")) for pair in pairs]
            for k, (label, found) in enumerate(sides):
                colour, marker = colours[k % len(colours)]
                y = -place + 0.4 - step * (k + 0.5)
                if found:
                    _line(axes, found, y, colour, marker, label="" if place else label)
        _names(axes, scopes)
        axes.set_xlabel("t*, each on its own axis")
        drawing.legend_above(figure, axes, columns=1)
        svg = drawing.svg(figure, "moved", "The boundary of each side; the numbers are in the table.")
    caption = f"Thin bars: {INTERVALS}. Broad bars: t* ± tau; a shorter one is a sharper line."
    return Picture(name="moved", title="Did the line move or sharpen?", svg=svg, caption=caption)


def _of(pair: Record, scope: str, side: str) -> dict[str, Any] | None:
    for row in pair["scopes"]:
        if row["scope"] == scope:
            return _line_of({side: {name: measure[side] for name, measure in row["measures"].items()}}, side)
    return None


def _line_of(row: Record, key: str) -> dict[str, Any] | None:
    """Return a line's t* and tau, None where there is no t*."""
    found = row.get(key) or {}
    return {k: found[k] for k in ("t_star", "tau")} if (found.get("t_star") or {}).get("value") is not None else None


def _line(axes: Axes, found: Record, y: float, colour: str, marker: str, label: str) -> None:
    """Draw t* with its interval, over the zone of ± tau."""
    at, tau = found["t_star"], found["tau"]["value"]
    if tau is not None:
        ends = [at["value"] - tau, at["value"] + tau]
        axes.plot(ends, [y, y], color=colour, linewidth=6, alpha=0.22, solid_capstyle="butt", zorder=2)
    _point(axes, at["value"], (at["low"], at["high"]), y, colour, marker, label=label)


def _told_controls(axes: Axes, told: Record, place: int) -> None:
    """Draw what random directions tell, and what always saying the commoner of the two would."""
    names = ("random v, own t*", "always the commoner") if not place else (None, None)
    if told["random"]:
        ys = [-place - 0.34] * len(told["random"])
        axes.plot(told["random"], ys, "x", color=PURPLE, markersize=4.5, alpha=0.7, label=names[0])
    ends = [-place - 0.42, -place + 0.36]
    axes.plot([told["base"]] * 2, ends, color=BLACK, linewidth=1.1, linestyle=":", label=names[1])


def _point(
    axes: Axes, value: float, ends: Sequence[float | None], y: float, colour: str, marker: str, label: str = ""
) -> None:
    low, high = (value if end is None else end for end in ends)
    axes.plot([low, high], [y, y], color=colour, linewidth=1.8, zorder=3)
    axes.plot([value], [y], marker, color=colour, markersize=6, zorder=4, label=label or None, linestyle="none")


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks([-i for i in range(len(names))], list(names))
    axes.set_ylim(-len(names) + 0.45, 0.55)
    axes.grid(visible=False, axis="y")


def _known(line: Record) -> bool:
    return isinstance(line.get("t_star"), int | float)


def _zone(axes: Axes, line: Record) -> None:
    if _known(line):
        at, tau = line["t_star"], line["tau"]
        axes.axvspan(at - tau, at + tau, color=ZONE, zorder=0)
        axes.axvline(at, color=INK, linewidth=1.3, linestyle=":", zorder=4)


def _map_words(e1: Record) -> str:
    parts = [f"{label} at {e1['groups'][n]['t']:.2f}" for n, label, *_ in GROUPS if e1["groups"][n]["n"]]
    return "Mean coordinate of each group: " + ", ".join(parts) + "."


def _at(record: Record) -> str:
    return "" if record.get("layer") is None else f", layer {record['layer']}"
