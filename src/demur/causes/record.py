"""The diagnosis as JSON values: classes with intervals, examples and remedies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from demur.causes.evidence import CAUSES, METHODS, REMEDIES, Cause, Sorted, Thresholds, sort
from demur.counted import mean
from demur.types import to_json

EXAMPLES = 5


def record(found: Sequence[Sorted], at: Thresholds, *, languages: bool = True) -> dict[str, Any]:
    """Return counts and shares of the classes with 95 % intervals that resample groups, examples and remedies.

    Args:
        found: the sorted refusals.
        at: the thresholds they were sorted at.
        languages: whether to repeat the shares for each language.
    """
    made: dict[str, Any] = {
        "n_refused": len(found),
        "thresholds": to_json(at),
        "classes": [_class(name, found) for name in CAUSES],
        "dominant": dominant(found),
        "agreement": agreement(found, at),
        "by_belief": by_belief(found, at),
        "carriers": carriers(found),
        "notes": notes(found),
    }
    spoken = sorted({row.evidence.language for row in found})
    if languages and len(spoken) > 1:
        parts = {language: [row for row in found if row.evidence.language == language] for language in spoken}
        made["languages"] = {language: {name: _share(name, own) for name in CAUSES} for language, own in parts.items()}
    return made


def _share(name: str, found: Sequence[Sorted]) -> dict[str, Any]:
    hits = np.array([row.cause == name for row in found], dtype=bool)
    groups = np.unique([row.evidence.group for row in found], return_inverse=True)[1] if found else hits.astype(int)
    number = mean(hits, np.ones(len(hits), dtype=bool), groups, n_unscored=0)
    return {"count": int(hits.sum()), **{k: v for k, v in number._asdict().items() if k != "n_unscored"}}


def _class(name: Any, found: Sequence[Sorted]) -> dict[str, Any]:
    own = [row for row in found if row.cause == name]
    step = max(1, len(own) // EXAMPLES)
    examples = [
        {"prompt_id": row.evidence.prompt_id, "text": row.evidence.text, "reason": row.reason, "span": row.trigger}
        for row in own[::step][:EXAMPLES]
    ]
    return {
        "name": name,
        **_share(name, found),
        "remedy": REMEDIES[name],
        "method": METHODS[name],
        "examples": examples,
    }


def dominant(found: Sequence[Sorted]) -> dict[str, Any] | None:
    """Return the largest class with its share and remedy, and whether it is more than half; None without refusals."""
    counts = Counter(row.cause for row in found)
    if not counts:
        return None
    name: Cause = max(CAUSES, key=lambda cause: counts[cause])
    part = _share(name, found)
    return {"name": name, **part, "most": part["low"] > 0.5, "remedy": REMEDIES[name], "method": METHODS[name]}


def carriers(found: Sequence[Sorted], most: int = 10) -> list[dict[str, Any]]:
    """Return the spans that policy refusals hang on, the most frequent first: the words of a topic, if it is one."""
    counts: Counter[str] = Counter()
    for row in found:
        span = row.evidence.strongest() if row.cause == "policy" else None
        if span is not None:
            counts[span.text.casefold()] += 1
    return [{"span": span, "refusals": count} for span, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))][
        :most
    ]


def agreement(found: Sequence[Sorted], at: Thresholds) -> dict[str, Any]:
    """Return how often the model's word and the harm probe say the same of a request."""
    both = [
        (row.evidence.asked > at.harm, row.evidence.probe > at.probe)
        for row in found
        if row.evidence.asked is not None and row.evidence.probe is not None
    ]
    counts: Mapping[tuple[bool, bool], int] = Counter(both)
    return {
        "n": len(both),
        "same": sum(a == b for a, b in both) / len(both) if both else None,
        "both_harmful": counts.get((True, True), 0),
        "both_harmless": counts.get((False, False), 0),
        "words_only": counts.get((True, False), 0),
        "probe_only": counts.get((False, True), 0),
    }


BELIEFS: tuple[Literal["both", "words", "probe"], ...] = ("both", "words", "probe")
"""Whose word on a prompt's harm counts."""


def by_belief(found: Sequence[Sorted], at: Thresholds) -> dict[str, dict[str, int]]:
    """Return the counts of the classes under each rule for whose word counts: how much hangs on it."""
    counts: dict[str, dict[str, int]] = {}
    for rule in BELIEFS:
        own = Counter(sort(row.evidence, replace(at, belief=rule)).cause for row in found)
        counts[rule] = {name: own.get(name, 0) for name in CAUSES}
    return counts


def notes(found: Sequence[Sorted]) -> list[str]:
    """Say what was not measured."""
    said = []
    rows = [row.evidence for row in found if not row.evidence.filtered]
    for name, what in (
        ("asked", "were not understood when the model was asked in words"),
        ("probe", "have no harm probe (it needs the model, and must tell harm on held-out prompts)"),
        ("saturation", "have no P(refuse): give samples above 1, or an open model"),
    ):
        missing = sum(getattr(row, name) is None for row in rows)
        if missing:
            said.append(f"{missing} of {len(rows)} refusals {what}.")
    spans = [s for row in rows for s in row.spans]
    if spans and all(s.looks is None for s in spans):
        said.append(
            "No harmful and plain prompts were at hand to tell which spans look harmful, so triggered and policy are "
            "not told apart where one word decides: a banned topic that hangs on a word looks triggered. Measure "
            "harmful and plain prompts in the same run."
        )
    return [*said, *LIMITS]


LIMITS: tuple[str, ...] = (
    "Taking out a span changes what is asked: a flip shows that the span matters, not that it is the cause.",
    "On small models made to refuse for one cause each (seeds held out from the thresholds) misjudged was right in "
    "98 %, triggered in 95 %, hesitant in 70 % (16 % of those were called triggered), policy in 68 % (15 % called "
    "triggered). A banned topic whose words look harmful themselves looks triggered.",
)
"""What the classes cannot tell apart, with what was measured (`training/causes.py`)."""
