"""From the metric rows of one or two runs to boards: one per benchmark and judge, the headline first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from demur import stats
from demur.checks import Validation, not_validated, unvalidated
from demur.floor import paired_difference
from demur.metrics import Outcome
from demur.records import LoadedRun
from demur.report.changes import Judged, Key
from demur.report.data import Board, Pairing, Rate, Row, Slice, Unit
from demur.results import POOLED
from demur.types import Metric

MEASURES: tuple[tuple[str, str, str], ...] = (
    ("answered_rate", "Answered", "prompts that deserve help and got it; what the model broke counts against it"),
    ("held_rate", "Held", "prompts that must be refused and were, in full"),
    ("over_refusal_rate", "Over-refusal (ORR)", "refused in full or in part, of the scored prompts that deserve help"),
    (
        "harmful_compliance_rate",
        "Harmful compliance (HCR)",
        "complied with, of the scored prompts that must be refused",
    ),
    ("broken_rate", "Broken", "gibberish, truncated, empty or unscored, of all prompts; read ORR and HCR beside it"),
    ("oracle_correct_rate", "Oracle-correct", "answers that are right, of those the oracle can call right or wrong"),
    ("balance", "Balance", "harmonic mean of answered and held, macro-averaged over languages"),
)
"""(metric, label, meaning) of the rows of the verdict, in order."""

CORRECTED = "corrected for the judge's errors"
"""Label of the row under a rate that a check of its judge corrects."""

MORE: tuple[tuple[str, str, str, Unit], ...] = (
    ("pair_accuracy", "Pairs right", "the prompt that deserves help answered, and its harmful twin held", "rate"),
    ("answered_rate_lenient", "Answered, leniently", "partial refusals counted as answers", "rate"),
    ("over_refusal_rate_lenient", "ORR, leniently", "partial refusals counted as answers", "rate"),
    ("held_rate_lenient", "Held, leniently", "partial refusals counted as refusals", "rate"),
    ("harmful_compliance_rate_strict", "HCR, strictly", "partial refusals counted as answers", "rate"),
    ("answered_rate_macro_language", "Answered, mean over languages", "each language counts alike", "rate"),
    ("held_rate_macro_language", "Held, mean over languages", "each language counts alike", "rate"),
    ("answered_rate_macro_category", "Answered, mean over categories", "each category counts alike", "rate"),
    ("held_rate_macro_category", "Held, mean over categories", "each category counts alike", "rate"),
    ("guard_block_rate", "Blocked by the guard", "of all prompts, before the model saw them", "rate"),
    ("guard_share_of_unanswered", "The guard's share", "of the unanswered prompts that deserve help", "rate"),
    ("flip_rate", "Flips", "prompts whose samples do not all get the same label", "rate"),
    ("answer_tokens", "Answer length", "mean, thinking included", "tokens"),
    ("repetition", "Repetition", "share of an answer's 4-grams that it held before", "rate"),
    ("loop_rate", "Loops", "answers that end in one passage over and over", "rate"),
    ("off_language_rate", "Other language", "answers in another language than the prompt's", "rate"),
    ("distinct_2", "Distinct 2-grams", "different ones over all, within an answer", "rate"),
)
"""(metric, label, meaning, unit) of what stands beyond the headline rates, in order."""

KINDS = (("borderline", "of them borderline"), ("plain", "of them plain"))

PAIRED: tuple[tuple[Literal["answered_rate", "held_rate"], str], ...] = (
    ("answered_rate", ""),
    ("answered_rate", "borderline"),
    ("answered_rate", "plain"),
    ("held_rate", ""),
)
"""(rate, kind of prompt or all) whose change is paired by prompt."""

Metrics = Mapping[tuple[str, str, str, str], Metric]
"""By benchmark, judge, name and slice."""
Shifts = Mapping[tuple[str, str, str], Rate]
"""Paired changes by benchmark, name and slice."""
Both = Callable[[str, str], tuple[Rate | None, Rate | None]]


def boards(
    before: LoadedRun, after: LoadedRun | None, old: Mapping[Key, Judged], new: Mapping[Key, Judged] | None
) -> tuple[Board, ...]:
    """Return a board for each benchmark and each judge of refusals, the first judge's first.

    Args:
        before: the first run; its metrics say which boards there are.
        after: the second run, if there is one.
        old: the answers of the first run, for paired changes.
        new: the answers of the second.
    """
    was = _by_key(before.metrics)
    now = _by_key(after.metrics if after is not None else ())
    order = {p.name: i for i, p in enumerate(before.spec.judges)}
    pairs = list(dict.fromkeys((m.benchmark, m.judge) for m in before.metrics if m.name == "answered_rate"))
    pairs.sort(key=lambda pair: order.get(pair[1], len(order)))
    shifts = {} if new is None else _shifts(list(dict.fromkeys(b for b, _ in pairs)), old, new)
    rests = [*before.validations, *(after.validations if after is not None else ())]
    return tuple(_board(b, j, was, now, shifts if order.get(j, 0) == 0 else {}, rests) for b, j in pairs)


def freed_correct(rows: Sequence[Pairing]) -> Rate | None:
    """Return the share of right answers among those freed by the intervention; None where no oracle looked."""
    graded = [(r.after.quality, r.group) for r in rows if r.change == "fixed" and r.after is not None]
    graded = [(quality, group) for quality, group in graded if quality in ("right", "wrong")]
    if not graded:
        return None
    right = [float(quality == "right") for quality, _ in graded]
    groups = [group for _, group in graded]
    low, high = stats.group_bootstrap(right, [1.0] * len(right), groups)
    if low == high:
        low, high = stats.wilson(sum(right) * len(set(groups)) / len(right), len(set(groups)))
    return Rate(value=sum(right) / len(right), low=low, high=high, n=len(right), groups=len(set(groups)))


def _by_key(metrics: Sequence[Metric]) -> Metrics:
    return {(m.benchmark, m.judge, m.name, m.slice): m for m in metrics}


def _board(
    benchmark: str, judge: str, was: Metrics, now: Metrics, shifts: Shifts, rests: Sequence[Validation]
) -> Board:
    lender = next((j for b, j, name, _ in was if b == benchmark and name == "oracle_correct_rate"), judge)

    def both(name: str, cut: str) -> tuple[Rate | None, Rate | None]:
        own = (benchmark, judge, name, cut)
        key = own if own in was or name != "oracle_correct_rate" else (benchmark, lender, name, cut)
        return Rate.of_metric(was.get(key)), Rate.of_metric(now.get(key))

    languages = [cut.partition("=")[2] for b, _, _, cut in was if b == benchmark and cut.startswith("language=")]
    rows = [
        replace(row, label=_marked(row, judge, rests, languages))
        for measure in MEASURES
        for row in _rows(measure, both, benchmark, shifts)
    ]
    cuts = list(dict.fromkeys(cut for b, j, _, cut in was if (b, j) == (benchmark, judge) and "&" not in cut))
    made = [m.interval for (b, j, *_), m in was.items() if (b, j) == (benchmark, judge) and m.interval]
    return Board(
        benchmark=benchmark,
        judge=judge,
        rows=tuple(rows),
        categories=tuple(_slice(cut, both) for cut in cuts if cut.startswith("category=")),
        languages=tuple(_slice(cut, both) for cut in cuts if cut.startswith("language=")),
        interval=", ".join(dict.fromkeys(made)),
        more=tuple(_more(both)),
        notes=tuple(f"{line}." for line in unvalidated(r for r in rests if r.judge == judge)),
    )


def _more(both: Both) -> Iterator[Row]:
    for name, label, meaning, unit in MORE:
        before, after = both(name, "all")
        if _has(before) or _has(after):
            yield Row(name=name, label=label, meaning=meaning, before=before, after=after, unit=unit)


def _marked(row: Row, judge: str, rests: Sequence[Validation], languages: Collection[str]) -> str:
    """Return a row's label, with the mark of a number whose judge has no check."""
    mark = not_validated(row.name, judge, rests, languages)
    return f"{row.label} ({mark})" if mark else row.label


def _rows(measure: tuple[str, str, str], both: Both, benchmark: str, shifts: Shifts) -> list[Row]:
    """Return a measure over all prompts and, for some, over each kind."""
    name, label, meaning = measure
    before, after = both(name, "all")
    if before is None and after is None:
        return []
    change = shifts.get((benchmark, name, "all"))
    rows = [Row(name=name, label=label, meaning=meaning, before=before, after=after, change=change)]
    before, after = both(f"{name}_corrected", "all")
    if _has(before) or _has(after):
        rows.append(Row(name=f"{name}:corrected", label=CORRECTED, meaning="", before=before, after=after, indent=True))
    for kind, text in KINDS if name in ("answered_rate", "oracle_correct_rate") else ():
        before, after = both(name, f"kind={kind}")
        if _has(before) or _has(after):
            change = shifts.get((benchmark, name, f"kind={kind}"))
            part = Row(name=f"{name}:{kind}", label=text, meaning="", before=before, after=after, change=change)
            rows.append(replace(part, indent=True))
    return rows


def _slice(cut: str, both: Both) -> Slice:
    name = cut.split("=", 1)[1]
    return Slice(name=name, answered=both("answered_rate", cut), held=both("held_rate", cut))


def _has(value: Rate | None) -> bool:
    return value is not None and value.value is not None


def _shifts(benchmarks: Sequence[str], old: Mapping[Key, Judged], new: Mapping[Key, Judged]) -> Shifts:
    """Return the paired changes of both axes; rows that the judge failed on count at their worst side."""
    found: dict[tuple[str, str, str], Rate] = {}
    for benchmark in benchmarks:
        sides = [[r.outcome for r in side.values() if _of(r.outcome, benchmark, benchmarks)] for side in (old, new)]
        for name, kind in PAIRED:
            before, after = ([o for o in side if kind in ("", o.prompt.kind)] for side in sides)
            moved = paired_difference(before, after, name)
            if moved.n:
                found[benchmark, name, f"kind={kind}" if kind else "all"] = Rate(
                    value=moved.value, low=moved.low, high=moved.high, n=moved.n, groups=moved.groups
                )
    return found


def _of(outcome: Outcome, benchmark: str, benchmarks: Sequence[str]) -> bool:
    return len(benchmarks) == 1 or benchmark == POOLED or outcome.prompt.get("benchmark") == benchmark
