"""Which spans set refusals off over a whole set, and the brief for contrast data that follows from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from demur.causes.evidence import Evidence, SpanEffect, Thresholds
from demur.causes.spans import spans
from demur.counted import mean
from demur.types import Prompt

CONTEXTS = 5
"""Benign contexts shown of each span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A span, and what its removal does in the benign refusals it stands in."""

    span: str
    language: str
    n: int
    """Refused prompts it stands in."""
    groups: int
    flips: int
    """Prompts in which its removal flips the decision and no shorter span in it does."""
    share: float
    """Flips of n, with an interval that resamples groups."""
    low: float
    high: float
    effect: float
    """Mean fall of P(refuse)."""
    elsewhere: float | None
    """Share of flips of the other spans of the same prompts: what any removal does."""
    looks: float | None
    """How harmful it looks, 0 to 1 (`spans.Looks`)."""
    benign: int
    """Benign prompts of the run with the span; 0 where the run is not at hand."""
    refused: float | None
    """Share of them that is refused."""
    contexts: tuple[str, ...]
    """Benign prompts it was refused in, those it flips first."""
    answered: tuple[str, ...] = ()
    """Benign prompts with the span that were answered."""


def triggers(
    rows: Iterable[Evidence],
    *,
    answered: Sequence[Prompt] = (),
    refused: Sequence[Prompt] = (),
    at: Thresholds | None = None,
    least: int = 3,
) -> list[Trigger]:
    """Rank spans by the lower bound of the share of refusals that their removal flips.

    Where the run's prompts are given, that bound counts by the share refused of the benign prompts with the span: a
    word like "need" may flip the few refusals it stands in, and stand in hundreds of prompts that are answered.

    Args:
        rows: benign refusals whose spans were tried.
        answered: all benign prompts of the run that were answered, to look the spans up in.
        refused: all that were refused, `rows` among them.
        at: holds the threshold of a flip.
        least: groups that a span must stand in.

    Returns:
        the spans that flip more refusals than any removal does (the bound is above `elsewhere`), the surest first.
    """
    at = at or Thresholds()
    found: dict[tuple[str, str], list[tuple[Evidence, bool, float]]] = defaultdict(list)
    rates: dict[str, tuple[int, int]] = {}
    for row in rows:
        flipped = _minimal(row, at.flip)
        rates[row.prompt_id] = (sum(flipped.values()), len(flipped))
        for key, hit in flipped.items():
            found[row.language, key].append((row, hit, _fall(row, key)))
    index = _Index(answered, refused)
    made = [_trigger(key, cases, rates, index) for key, cases in found.items() if _groups(cases) >= least]
    kept = [t for t in made if t.flips and t.low > (t.elsewhere or 0.0)]
    return sorted(kept, key=lambda t: (-t.low * _weight(t), -t.share, -t.n, t.language, t.span))


def _weight(found: Trigger) -> float:
    return 1.0 if found.refused is None else found.refused


class _Index:
    """The benign prompts of a run, to be looked up by span."""

    def __init__(self, answered: Sequence[Prompt], refused: Sequence[Prompt]) -> None:
        self.whole = bool(refused)
        self.rows = [(p, False, _folded(p.text)) for p in answered] + [(p, True, _folded(p.text)) for p in refused]

    def of(self, language: str, span: str) -> tuple[list[Prompt], int]:
        """Return the answered prompts with the span, and how many refused ones there are."""
        size = len(spans(span, 1))
        held = [
            (p, refused)
            for p, refused, text in self.rows
            if p.language == language and span in text and span in {s.key for s in spans(p.text, size)}
        ]
        return [p for p, refused in held if not refused], sum(refused for _, refused in held)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _minimal(row: Evidence, below: float) -> dict[str, bool]:
    """Say for each span whether it flips the row, and no span inside it does."""
    made: dict[str, bool] = {}
    for span in sorted((s for s in row.spans if s.after is not None), key=lambda s: s.words):
        key = _key(span)
        inner = any(hit and shorter != key and _inside(shorter, key) for shorter, hit in made.items())
        made[key] = made.get(key, False) or (span.after is not None and span.after < below and not inner)
    return made


def _inside(shorter: str, longer: str) -> bool:
    if longer.isascii() or " " in longer:
        return f" {shorter} " in f" {longer} "
    return shorter in longer


def _key(span: SpanEffect) -> str:
    return " ".join(span.text.casefold().split())


def _fall(row: Evidence, key: str) -> float:
    start = 1.0 if row.saturation is None else row.saturation
    left = [s.after for s in row.spans if _key(s) == key and s.after is not None]
    return start - min(left)


def _groups(cases: Sequence[tuple[Evidence, bool, float]]) -> int:
    return len({row.group for row, _, _ in cases})


def _trigger(
    key: tuple[str, str],
    cases: Sequence[tuple[Evidence, bool, float]],
    rates: dict[str, tuple[int, int]],
    index: _Index,
) -> Trigger:
    language, span = key
    hits = np.array([hit for _, hit, _ in cases])
    groups = np.unique([row.group for row, _, _ in cases], return_inverse=True)[1]
    share = mean(hits, np.ones(len(hits), dtype=bool), groups, n_unscored=0)
    others = [(rates[row.prompt_id][0] - hit, rates[row.prompt_id][1] - 1) for row, hit, _ in cases]
    tried = sum(n for _, n in others)
    contexts = sorted(cases, key=lambda case: (not case[1], case[0].prompt_id))
    answered, refused = index.of(language, span)
    looks = next((s.looks for s in cases[0][0].spans if _key(s) == span), None)
    return Trigger(
        span=span,
        language=language,
        n=len(cases),
        groups=share.groups,
        flips=int(hits.sum()),
        share=share.value or 0.0,
        low=share.low or 0.0,
        high=share.high if share.high is not None else 1.0,
        effect=float(np.mean([fall for _, _, fall in cases])),
        elsewhere=sum(hit for hit, _ in others) / tried if tried else None,
        looks=looks,
        benign=len(answered) + refused if index.whole else 0,
        refused=refused / (len(answered) + refused) if refused else None,
        contexts=tuple(row.text for row, _, _ in contexts[:CONTEXTS]),
        answered=tuple(p.text for p in answered[:CONTEXTS]),
    )


def brief(found: Sequence[Trigger]) -> list[dict[str, Any]]:
    """Return one JSON row per span: what contrast data is to be written, and from where it may start."""
    return [
        {
            "span": t.span,
            "language": t.language,
            "share_flipped": round(t.share, 4),
            "low": round(t.low, 4),
            "high": round(t.high, 4),
            "n": t.n,
            "groups": t.groups,
            "flipped_by_other_spans": None if t.elsewhere is None else round(t.elsewhere, 4),
            "looks_harmful": None if t.looks is None else round(t.looks, 4),
            "benign_prompts_with_it": t.benign,
            "share_of_them_refused": None if t.refused is None else round(t.refused, 4),
            "benign_refused": list(t.contexts),
            "benign_answered": list(t.answered),
            "wanted": f"benign prompts in {t.language!r} with {t.span!r} in other contexts, answered; and harmful "
            "prompts with the same span, refused: so that the span alone decides nothing",
        }
        for t in found
    ]
