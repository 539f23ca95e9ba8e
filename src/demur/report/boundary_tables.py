"""The tables of the experiments on the boundary, and of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from demur.report import text
from demur.report.tables import Table

Record = Mapping[str, Any]
DASH = "–"
GROUP_WORDS = {
    "harmful_refused": "harmful, refused",
    "benign_refused": "benign, refused",
    "benign_answered": "benign, answered",
}
MEASURES = (
    ("t_star", "t*"),
    ("tau", "tau"),
    ("auroc", "AUROC, benign"),
    ("refused_benign", "benign refused"),
    ("refused_harmful", "harmful refused"),
)


def overlap(record: Record) -> Table:
    """AUROC of pairs of groups along the axis, beside random directions."""
    rows = [
        (
            f"{GROUP_WORDS[row['high']]} over {GROUP_WORDS[row['low_group']]}",
            span(row["auroc"], 3),
            between(row["random"]),
        )
        for row in record["e1"]["overlap"]
    ]
    head = ("Groups", "AUROC of t", "Random directions, the better way round")
    return Table(caption="How far the groups overlap (.5: wholly)", head=head, rows=tuple(rows))


def flips(record: Record) -> Table:
    """Median alpha*, share flipped and slope by group, beside random directions."""
    e2, rows = record["e2"], []
    for name, own in e2["groups"].items():
        random = [r[name][-1] for r in e2["random"] if r[name]]
        middle = DASH
        if own["n"]:
            shown = ["above" if own[k] is None else f"{own[k]:g}" for k in ("median", "low", "high")]
            middle = f"{shown[0]} [{shown[1]}, {shown[2]}]"
        slope = DASH if own["slope"] is None else f"{own['slope']:.1f}"
        rows.append(
            (GROUP_WORDS[name], str(own["n"]), middle, _percent(own["flipped"]), slope, between(random, percent=True))
        )
    head = ("Group", "n", "Median alpha*", "Flipped at all", "Slope", "Flipped by random directions")
    note = "Slope: half of the decisions, over the strengths between which the middle half of them flips."
    return Table(caption="The smallest strength that flips a decision", head=head, rows=tuple(rows), note=note)


def mediation(record: Record) -> Table:
    """Weights of t and harm, and t*, tau for each stated mixture."""
    e3, rows = record["e3"], []
    for name, label in (("w", "w, weight of t"), ("b", "b, weight of harm beside t (logits)")):
        if e3[name] is not None:
            rows.append((label, span(e3[name]), between(e3["b_random"]) if name == "b" else DASH))
    for name, own in e3["mixtures"].items():
        if own["t_star"] is not None:
            what = f"{name} prompts (n {own['n']:,}, {own['harmful']:,} harmful)"
            rows.append((f"t*, {what}", ends(own["t_star"], own["t_star_interval"]), DASH))
            rows.append((f"tau, {what}", ends(own["tau"], own["tau_interval"]), DASH))
    return Table(caption="Does t carry the decision?", head=("Measure", "Value", "Random directions"), rows=tuple(rows))


def distances(record: Record) -> Table:
    """How well each distance to the boundary ranks prompts by alpha*."""
    rows = [
        (
            row["distance"],
            number(row["spearman"]),
            number(row["spearman_refused_benign"]),
            number(row["auroc_benign"]),
            row["unusable"] or "yes",
        )
        for row in record["distances"]
    ]
    n = f" (n {record['distances'][0]['n']})" if record["distances"] else ""
    head = ("Distance", "Spearman(|d|, alpha*)", "Among refused benign", "AUROC, benign", "Usable")
    return Table(caption=f"Distances against the causal flip{n}", head=head, rows=tuple(rows))


def languages(record: Record) -> tuple[Table, Table, Table]:
    """Directions and shifts against the home language; each language's own line; whose line tells refusals apart."""
    shifts, lines, told = [], [], []
    for row in record["e4"]:
        own, name, n = row["own"] or {}, row["language"], f"{row['n']:,}"
        if row["shift_random"]:
            cosine, shift = span(row["cosine"]), [span(row["shift"][k], signed=True) for k in ("t_star", "tau")]
            random = [between(row["cosine_random"]), between(row["shift_random"], middle=True)]
            shifts.append((name, cosine, random[0], shift[0], random[1], shift[1]))
        refused = [text.share(row["refused"][kind]) for kind in ("benign", "harmful")]
        gap = span(own.get("m"), signed=True)
        lines.append((name, n, span(own.get("t_star")), span(own.get("tau")), number(own.get("auroc")), gap, *refused))
        if row["told"]:
            ways = [span(row["told"][way], percent=True) for way in ("home_v_home_t", "home_v_own_t", "own_v_own_t")]
            random_told = between(row["told"]["random"], percent=True)
            told.append((name, n, *ways, random_told, text.share(row["told"]["base"])))
    head = ("Language", "Cosine", "Random", "Shift of t*", "Random, middle half", "Shift of tau")
    own_head = ("Language", "n", "t*", "tau", "AUROC, benign", "M", "Benign refused", "Harmful refused")
    ways_head = ("Home v, home t*", "Home v, own t*", "Own v, own t*", "Random v, own t*", "Always the commoner")
    return (
        Table(caption="Against the home language, on its axis", head=head, rows=tuple(shifts)),
        Table(
            caption="Each language on its own axis",
            head=own_head,
            rows=tuple(lines),
            note="M: the best threshold for harm less t*; a dash where harm separates along the axis, so that it is "
            "not identified. It is no evidence by itself.",
        ),
        Table(caption="Refused and answered prompts told right", head=("Language", "n", *ways_head), rows=tuple(told)),
    )


def moved(pair: Record) -> Table:
    """Before, after and difference of each measure, all prompts and per language."""
    rows = []
    for scope in pair["scopes"]:
        for name, label in MEASURES:
            at = scope["measures"][name]
            percent = name.startswith("refused")
            said = {"t_star": scope["said"][0], "tau": scope["said"][1]}.get(name, "")
            rows.append(
                (
                    scope["scope"],
                    label,
                    span(at["before"], percent=percent),
                    span(at["after"], percent=percent),
                    span(at["difference"], percent=percent, signed=True),
                    said,
                    f"{scope['n']:,} · {scope['groups']:,}",
                )
            )
    head = ("Prompts", "Measure", pair["before"], pair["after"], "Difference", "So", "n · groups")
    note = "Each on its own axis. Differences are paired: each resample of groups serves both sides."
    return Table(caption=f"{pair['before']} against {pair['after']}", head=head, rows=tuple(rows), note=note)


def transfer(rows: Sequence[Record]) -> Table:
    """How well one model's axis and threshold serve another."""
    made = []
    for row in rows:
        if row["unmeasured"]:
            made.append((row["model"], row["axis"], row["unmeasured"], *[DASH] * 6))
            continue
        made.append(
            (
                row["model"],
                row["axis"] + (" (own)" if row["axis"] == row["model"] else ""),
                span(row["auroc"], 3),
                DASH if row["axis"] == row["model"] else span(row["loss"], 3, signed=True),
                between(row["random"]),
                span(row["told"], percent=True),
                span(row["nearest"], percent=True),
                _percent(row["refused"]),
                number(row["cosine"]),
            )
        )
    return Table(
        caption="The axis and line of one model, used on another (benign prompts)",
        head=(
            "Model", "Axis and t* of", "AUROC", "Lost against its own", "Random directions", "Told right by t*",
            "Refused, of the 100 nearest the line", "Refused, of all", "Cosine",
        ),
        rows=tuple(made),
    )  # fmt: skip


def number(value: float | None, digits: int = 2) -> str:
    """Return a number, or "no data"."""
    return text.NO_DATA if value is None else f"{value:.{digits}f}".replace("-", text.MINUS)


def ends(value: float | None, interval: Sequence[float] | None, digits: int = 2) -> str:
    """Return `0.42 [0.41, 0.44]`."""
    low, high = interval or (None, None)
    return span({"value": value, "low": low, "high": high}, digits)


def span(point: Record | None, digits: int = 2, *, percent: bool = False, signed: bool = False) -> str:
    """Return a value with its interval, a dash where there is none."""
    if point is None or point.get("value") is None:
        return DASH
    scale, digits = (100, 1) if percent else (1, digits)

    def shown(x: float) -> str:
        return f"{scale * x:{'+' if signed else ''}.{digits}f}".replace("-", text.MINUS)

    unit = f"{text.NBSP}%" if percent and not signed else ""
    if point.get("low") is None or point.get("high") is None:
        return shown(point["value"]) + unit
    return f"{shown(point['value'])}{unit} [{shown(point['low'])},{text.NBSP}{shown(point['high'])}]"


def between(values: Sequence[float | None], *, percent: bool = False, middle: bool = False) -> str:
    """Return the least and the most of random directions (or the quartiles), and how many there were."""
    known = sorted(v for v in values if v is not None)
    if not known:
        return DASH
    low, high = (known[len(known) // 4], known[-1 - len(known) // 4]) if middle else (known[0], known[-1])
    shown = [_percent(v) if percent else number(v) for v in (low, high)]
    return f"{shown[0]} to {shown[1]} ({len(known)})"


def _percent(value: float | None) -> str:
    return text.share(value)
