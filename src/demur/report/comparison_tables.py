"""The tables of a comparison of runs: rates, the floor, every pair tested, and the slices."""

from __future__ import annotations

from collections.abc import Sequence

from demur.comparison import Comparison
from demur.pairwise import AXES, Contrast
from demur.report import text
from demur.report.data import Rate
from demur.report.tables import Table

HEADLINES = (
    ("answered_rate", "Answered"),
    ("held_rate", "Held"),
    ("over_refusal_rate", "ORR"),
    ("harmful_compliance_rate", "HCR"),
    ("broken_rate", "Broken"),
)
TEST = (
    "Each pair is tested on the same prompts: the two runs are exchanged within whole groups (an exact randomisation "
    "test; McNemar's where every group is one row). p is corrected by Holm's step-down over all {count:,} tests "
    "here. A row that could not be judged counts as a success of the earlier run and a failure of the later."
)
LEVEL = 0.05
LISTED = 50
"""Newly unsafe prompts of a run that are named; compare.json names all."""


def sections(made: Comparison) -> list[tuple[str, list[Table]]]:
    """Return (heading, tables) in the order they are shown."""
    whole = [c for c in made.contrasts if c.slice == "all"]
    found = [
        ("Every run", [_rates(made, benchmark) for benchmark in made.benchmarks]),
        ("The safety floor, against run 1", [_floor(made)]),
        ("Every pair", [_pairs(made, whole)]),
        ("Newly unsafe prompts", [_unsafe(made)]),
    ]
    for key, title in (("category", "By category"), ("language", "By language")):
        tables = _slices(made, key)
        if tables:
            found.append((title, tables))
    return found


def _rates(made: Comparison, benchmark: str) -> Table:
    rows = []
    for i in range(len(made.names)):
        cells = [text.full(Rate.of_metric(made.metric(i, benchmark, name))) for name, _ in HEADLINES]
        rests = "; ".join(text.basis(Rate.of_metric(made.metric(i, benchmark, name))) for name, _ in HEADLINES[:2])
        rows.append((f"{i + 1}", *cells, rests))
    head = ("Run", *(label for _, label in HEADLINES), "Answered and held rest on")
    return Table(caption=benchmark, head=head, rows=tuple(rows), note="Intervals are 95 %, by groups.")


def _floor(made: Comparison) -> Table:
    rows = tuple(
        (f"{i}", pair.floor.verdict, text.count(len(pair.floor.newly_unsafe))) for i, pair in enumerate(made.pairs, 2)
    )
    return Table(caption="No loss of the held rate", head=("Run", "Verdict", "Newly unsafe"), rows=rows)


def _unsafe(made: Comparison) -> Table:
    rows = []
    for i, pair in enumerate(made.pairs, 2):
        ids = pair.floor.newly_unsafe
        rest = f" and {len(ids) - LISTED:,} more, in compare.json" if len(ids) > LISTED else ""
        rows.append((f"{i}", text.count(len(ids)), (", ".join(ids[:LISTED]) + rest) or "–"))
    return Table(
        caption="Complied with, and not by run 1",
        head=("Run", "Prompts", "Ids"),
        rows=tuple(rows),
        note="In at least one sample, and by run 1 in none.",
    )


def _pairs(made: Comparison, whole: Sequence[Contrast]) -> Table:
    unsafe = {(one, other): count for one, other, count in made.newly_unsafe}
    by_pair: dict[tuple[int, int], dict[str, Contrast]] = {}
    for c in whole:
        by_pair.setdefault((c.one, c.other), {})[c.rate] = c
    rows = []
    for (one, other), found in by_pair.items():
        cells = [cell for rate, _ in AXES for cell in _change(found.get(rate))]
        counts = f"{unsafe.get((one, other), 0):,} / {unsafe.get((other, one), 0):,}"
        rows.append((f"{other + 1} − {one + 1}", *cells, counts))
    return Table(
        caption="Differences in points",
        head=("Pair", "Answered", "p, Holm", "Held", "p, Holm", "Newly unsafe, there / back"),
        rows=tuple(rows),
        note=TEST.format(count=len(whole))
        + " Intervals are 95 % each, not corrected. Newly unsafe: prompts the later run complies with and the earlier "
        "does not, and the other way.",
    )


def _slices(made: Comparison, key: str) -> list[Table]:
    """Return one table for each rate: a row for each value, a column for each run, stars against run 1."""
    family = sum(c.slice != "all" for c in made.contrasts)
    found = []
    for rate, label in (("answered_rate", "Answered"), ("held_rate", "Held")):
        own = [c for c in made.contrasts if c.rate == rate and c.one == 0 and c.slice.startswith(f"{key}=")]
        names = list(dict.fromkeys(c.slice for c in own))
        rows = []
        for name in names:
            moved = {c.other: c for c in own if c.slice == name}
            first = next(iter(moved.values()))
            cells = [_starred(c) for _, c in sorted(moved.items())]
            basis = f"n{text.NBSP}{first.n:,} · {text.plural(first.groups, 'group')}"
            rows.append((name.partition("=")[2], text.number(Rate(value=first.before)), *cells, basis))
        if rows:
            note = (
                f"* differs from run 1: p ≤ {LEVEL}, tested as every pair is, by Holm's step-down over all {family:,} "
            )
            note += "tests of slices (every pair, both rates)."
            head = (key.capitalize(), *(f"{i + 1}" for i in range(len(made.names))), "Rests on")
            found.append(Table(caption=f"{label}, by run", head=head, rows=tuple(rows), note=note))
    return found


def _starred(c: Contrast) -> str:
    star = "*" if c.p_holm is not None and c.p_holm <= LEVEL else ""
    return text.number(Rate(value=c.after)) + star


def _change(c: Contrast | None) -> tuple[str, str]:
    if c is None:
        return "–", "–"
    moved = text.points(Rate(value=c.value, low=c.low, high=c.high)).replace(f"{text.NBSP}points", "")
    return moved, p_value(c.p_holm)


def p_value(p: float | None) -> str:
    """Return `0.031`, `<0.001`, a dash for None."""
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
