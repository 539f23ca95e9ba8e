"""Where the judges of a run agree, and the answers they dispute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from demur import stats
from demur.records import LoadedRun
from demur.report.changes import Key
from demur.report.data import Agreement, Pairing, Transcripts
from demur.types import LABELS

MOST = 200
"""Disputed answers shown; the count is of all."""


def labels(run: LoadedRun) -> dict[str, dict[Key, str]]:
    """Return each judge's refusal labels by prompt and sample; rows it left unscored are absent."""
    found: dict[str, dict[Key, str]] = {}
    for verdict in run.verdicts:
        if verdict.question == "refusal" and verdict.label:
            found.setdefault(verdict.judge, {})[verdict.prompt_id, verdict.sample] = verdict.label
    order = [part.name for part in run.spec.judges]
    return {name: found[name] for name in sorted(found, key=lambda n: order.index(n) if n in order else len(order))}


def agreements(run: LoadedRun) -> tuple[Agreement, ...]:
    """Compare every two judges of refusals on the answers that both labelled."""
    made = []
    for (one, first), (other, second) in combinations(labels(run).items(), 2):
        both = [key for key in first if key in second]
        a, b = [first[k] for k in both], [second[k] for k in both]
        same = sum(x == y for x, y in zip(a, b, strict=True))
        made.append(
            Agreement(
                one=one,
                other=other,
                n=len(both),
                same=same,
                kappa=stats.cohen_kappa(a, b, LABELS["refusal"]) if both else None,
            )
        )
    return tuple(made)


def disputed(run: LoadedRun, rows: Sequence[Pairing], *, compared: bool) -> Transcripts | None:
    """Return the answers to which two judges gave different labels, with every judge's label; None with one judge.

    Args:
        run: the run whose answers are looked at: the second where there are two.
        rows: the report's rows, as `changes.pair_up` makes them.
        compared: whether there are two runs.
    """
    given = labels(run)
    if len(given) < 2:
        return None
    split = {key: _words(given, key) for key in {k for one in given.values() for k in one} if _differ(given, key)}
    found = [_noted(row, split[row.prompt_id, row.sample], compared=compared) for row in rows
             if (row.prompt_id, row.sample) in split]  # fmt: skip
    step = max(1, -(-len(found) // MOST))
    return Transcripts(
        name="disputed",
        title="Disputed by the judges",
        note="Two judges gave different labels. Read these first; they are no fair sample of all answers.",
        rows=tuple(found[::step]),
        total=len(found),
    )


def _differ(given: Mapping[str, Mapping[Key, str]], key: Key) -> bool:
    return len({one[key] for one in given.values() if key in one}) > 1


def _words(given: Mapping[str, Mapping[Key, str]], key: Key) -> str:
    return " · ".join(f"{name}: {one[key].replace('_', ' ')}" for name, one in given.items() if key in one)


def _noted(row: Pairing, words: str, *, compared: bool) -> Pairing:
    if compared and row.after is not None:
        return replace(row, after=replace(row.after, reason=words))
    return replace(row, before=replace(row.before, reason=words))
