"""The tables of a report, once: both writers render the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from demur.report import text
from demur.report.data import Board, Rate, ReportData, Row, Slice, Sweep, Trial

OUTCOME_WORDS = {"compliance": "answered", "partial_refusal": "partial refusal", "refusal": "refused"}
KIND_WORDS = {"steer": "steered", "ablate": "ablated", "gated": "steered under a gate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A caption, column heads, and rows of text; the first cell of a row is its head."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    indented: frozenset[int] = frozenset()
    """Rows that belong to the row above them."""
    meanings: tuple[str, ...] = ()
    """What each row means, where that is said."""


def outcome(name: str) -> str:
    """Return an outcome in plain words."""
    return OUTCOME_WORDS.get(name, name.replace("_", " "))


def verdict(data: ReportData, board: Board) -> Table:
    """Both axes and everything that must stand beside them, before and after."""
    rows = list(board.rows)
    if board is data.headline:
        if data.freed_correct is not None:
            rows.append(
                Row(
                    name="freed_correct",
                    label="Oracle-correct, freed answers",
                    meaning="the same, among prompts that were unanswered before and answered after",
                    before=None,
                    after=data.freed_correct,
                )
            )
        rows += data.price
    values = ("Before", "After", "Change, points") if data.compared else ("Value",)
    return Table(
        caption=f"{board.benchmark}, judged by {board.judge}",
        head=("Measure", *values, "Rests on"),
        rows=tuple(_compared(r) if data.compared else _single(r) for r in rows),
        note="A change with an interval is paired by prompt, rows that could not be judged at their worst side; "
        "one without is the difference of the two rates."
        if data.compared
        else "",
        indented=frozenset(i for i, r in enumerate(rows) if r.indent),
        meanings=tuple(r.meaning for r in rows),
    )


def more(data: ReportData, board: Board) -> Table | None:
    """What the headline rates do not show: pairs, partial refusals read either way, properties of the answers."""
    if not board.more:
        return None
    values = ("Before", "After", "Change, points") if data.compared else ("Value",)
    return Table(
        caption=f"Beyond the rates: {board.benchmark}, judged by {board.judge}",
        head=("Measure", *values, "Rests on"),
        rows=tuple(_compared(r) if data.compared else _single(r) for r in board.more),
        meanings=tuple(r.meaning for r in board.more),
    )


def slices(data: ReportData, cuts: Sequence[Slice], what: str) -> Table:
    """Both axes by category or by language."""
    head: tuple[str, ...]
    if data.compared:
        head = (what, "Answered before", "Answered after", "Held before", "Held after", "Rests on")
    else:
        head = (what, "Answered", "Held", "Rests on")

    def cells(cut: Slice) -> tuple[str, ...]:
        rates: list[Rate | None] = []
        for pair in (cut.answered, cut.held):
            rates += pair if data.compared else pair[:1]
        basis = [t for t in (_counted("to answer", cut.answered[0]), _counted("to hold", cut.held[0])) if t]
        return (cut.name, *(_or_dash(r) for r in rates), "; ".join(basis))

    return Table(caption=f"By {what.lower()}", head=head, rows=tuple(cells(c) for c in cuts))


def floor(data: ReportData) -> Table | None:
    """The safety floor by stratum, harmful compliance beside it."""
    if data.floor is None or not data.floor.strata:
        return None
    head = (
        "Stratum",
        "Held before",
        "Held after",
        "Difference",
        "Lower bound",
        "HCR before",
        "HCR after",
    )
    rows = []
    for s in data.floor.strata:
        rates = [_or_dash(Rate(value=v)) for v in (s.before, s.after)]
        moves = [text.points(Rate(value=v)) or "–" for v in (s.difference, s.bound)]
        complied = [_or_dash(Rate(value=v)) for v in s.hcr]
        verdict = s.status if s.passed else f"{s.status}: below the floor"
        rows.append((s.name, *rates, *moves, *complied, text.count(s.n), text.count(s.groups), verdict))
    return Table(
        caption="The safety floor, stratum by stratum",
        head=(*head, "n", "Groups", "Verdict"),
        rows=tuple(rows),
        note=f"The lower bound is one-sided, 95 %; it must not lie below {text.MINUS}{text.margin(data.floor.margin)}. "
        "Rows that could not be judged count as held before and as not held after.",
    )


def sweep(data: ReportData) -> Table | None:
    """Every trial of the sweep, the judged ones first."""
    if data.sweep is None:
        return None
    made = data.sweep
    order = sorted(made.trials, key=lambda t: (t.id != made.choice, not t.is_judged))
    return Table(
        caption=f"Every trial on the {made.split} split",
        head=(
            "Trial",
            "Answered",
            "Held",
            "Oracle-correct",
            "Answered, first token",
            "Held, first token",
            "Floor when choosing",
        ),
        rows=tuple(_trial(t, t.id == made.choice, t.id in made.front) for t in order),
        note="The first-token columns are a screen: the share of prompts whose first token opens no refusal, or one.",
    )


def trial_name(trial: Trial) -> str:
    """Return a trial in words: `steered under a gate, layer 2, strength -0.75`."""
    parts = [KIND_WORDS.get(trial.kind, trial.kind)]
    if trial.layer is not None:
        parts.append(f"layer {trial.layer}")
    if trial.strength is not None:
        parts.append(f"strength {trial.strength:g}".replace("-", text.MINUS))
    if trial.against:
        parts.append(f"against {trial.against.replace('_', ' ')}")
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in trial.more.items()]
    return ", ".join(p for p in parts if p) or trial.id


def chosen(sweep: Sweep) -> str:
    """Return the chosen trial in words, with its id."""
    trial = next((t for t in sweep.trials if t.id == sweep.choice), None)
    return str(sweep.choice) if trial is None else f"{trial_name(trial)} ({trial.id})"


AUC_NAMES = (
    ("harmful_vs_plain", "harmful against plain"),
    ("harmful_vs_refused_borderline", "harmful against refused borderline"),
    ("refused_vs_answered_borderline", "refused against answered borderline"),
)


def auc(boundary: Mapping[str, Any]) -> Table | None:
    """How well the coordinate tells classes apart, by layer."""
    curves = boundary.get("auc") or {}
    layers = boundary.get("layers") or []
    names = [(key, label) for key, label in AUC_NAMES if curves.get(key)]
    if not names or not layers:
        return None
    return Table(
        caption="Area under the ROC curve, by layer",
        head=("Layer", *(label for _, label in names)),
        rows=tuple(
            (str(layer), *(plain(Rate.of(curves[key][i]) if i < len(curves[key]) else None) for key, _ in names))
            for i, layer in enumerate(layers)
        ),
    )


def alpha(boundary: Mapping[str, Any]) -> Table | None:
    """Refusal by strength of steering along the direction."""
    points = boundary.get("alpha_sweep") or []
    if not points:
        return None
    return Table(
        caption="Refused at the first token, by strength α",
        head=("α", "plain", "borderline", "harmful"),
        rows=tuple(
            (
                f"{p.get('alpha', 0):+g}".replace("-", text.MINUS),
                *(_or_dash(Rate.of(p.get(k))) for k in ("plain", "borderline", "harmful")),
            )
            for p in points
        ),
    )


def coordinates(data: ReportData) -> Table | None:
    """Where each kind lies on the axis, and how much of it was refused, before and after."""
    if not data.coordinates:
        return None
    rows = []
    for kind in dict.fromkeys(c.kind for c in data.coordinates):
        own = [c for c in data.coordinates if c.kind == kind]
        rows.append(
            (
                kind or "(none)",
                text.count(len(own)),
                _middle([c.t_before for c in own]),
                _middle([c.t_after for c in own]),
                _share([c.refused_before for c in own]),
                _share([c.refused_after for c in own]),
            )
        )
    return Table(
        caption="Along the direction, by kind",
        head=("Kind", "Prompts", "Median before", "Median after", "Refused before", "Refused after"),
        rows=tuple(rows),
    )


def transitions(data: ReportData) -> tuple[Table, ...]:
    """From which outcome to which, for both expectations."""
    titles = {"comply": "Prompts that deserve help", "refuse": "Prompts that must be refused"}
    made = []
    for moved in data.transitions:
        rows = tuple(
            (outcome(a), *(text.count(moved.counts.get((a, b), 0)) for b in moved.outcomes)) for a in moved.outcomes
        )
        head = ("Before ↓ after →", *(outcome(o) for o in moved.outcomes))
        made.append(Table(caption=titles[moved.expected], head=head, rows=rows))
    return tuple(made)


def unscored(data: ReportData) -> Table:
    """Rows without a label, by reason and by whose fault they are."""
    faults = {
        "model": "the model: counts against answered and held",
        "judge": "judge or transport: left out of the rates",
    }
    rows = []
    for row in data.unscored:
        after = (text.count(row.after),) if data.compared else ()
        rows.append((row.reason, faults[row.fault], text.count(row.before), *after))
    head = ("Reason", "Charged to", "Before", "After") if data.compared else ("Reason", "Charged to", "Answers")
    return Table(caption=f"Of {text.plural(data.n_rows, 'answer')}", head=head, rows=tuple(rows))


def agreement(data: ReportData) -> Table | None:
    """How often every two judges gave the same label."""
    if not data.agreements:
        return None
    rows = tuple(
        (
            f"{a.one} and {a.other}",
            text.share(a.same / a.n if a.n else None),
            "–" if a.kappa is None else f"{a.kappa:.2f}".replace("-", text.MINUS),
            text.count(a.n),
        )
        for a in data.agreements
    )
    return Table(
        caption="Agreement of the judges of refusals",
        head=("Judges", "Same label", "Cohen's kappa", "Answers both labelled"),
        rows=rows,
        note="Agreement says nothing of who is right; a check against people does.",
    )


def by_position(data: ReportData) -> Table | None:
    """Price at each answer position."""
    if not data.price_by_position:
        return None
    rows = tuple((str(i), text.full(r, "nats"), text.count(r.n)) for i, r in enumerate(data.price_by_position, 1))
    return Table(caption="Price by answer position", head=("Position", "KL, nats", "Answers"), rows=rows)


def plain(value: Rate | None) -> str:
    """Return a figure that is no percentage as `0.91 [0.88, 0.94]`."""
    if value is None or value.value is None:
        return "–"
    bounds = "" if value.low is None or value.high is None else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.value:.2f}{bounds}"


def _compared(row: Row) -> tuple[str, ...]:
    only_after = row.before is None
    return (
        row.label,
        "–" if only_after else text.full(row.before, row.unit),
        text.full(row.after, row.unit),
        text.change(row).replace(f"{text.NBSP}points", "") or "–",
        text.basis(row.after if row.after is not None else row.before),
    )


def _single(row: Row) -> tuple[str, ...]:
    return row.label, text.full(row.before, row.unit), text.basis(row.before)


def _trial(trial: Trial, chosen: bool, on_front: bool) -> tuple[str, ...]:
    mark = " — chosen" if chosen else " — on the front" if on_front else ""
    floor = trial.floor or {True: "passed", False: "missed", None: "–"}[trial.floor_passed]
    return (
        f"{trial_name(trial)}{mark}",
        *(_or_dash(r) for r in (*trial.judged, trial.correct, *trial.screen)),
        floor,
    )


def _or_dash(value: Rate | None) -> str:
    return "–" if value is None or value.value is None else text.full(value)


def _counted(what: str, value: Rate | None) -> str:
    if value is None or not value.n:
        return ""
    groups = "" if value.groups is None else f" in {text.plural(value.groups, 'group')}"
    return f"{value.n:,} {what}{groups}"


def _middle(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{median(known):.2f}".replace("-", text.MINUS) if known else "–"


def _share(values: Sequence[bool | None]) -> str:
    known = [v for v in values if v is not None]
    return text.number(Rate(value=sum(known) / len(known))) if known else "–"
