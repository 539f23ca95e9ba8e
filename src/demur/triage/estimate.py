"""How many requests in a thousand are over-refused, from a stratified random sample that a person labelled.

The log is split into strata by what the judges said; within each, rows are drawn at random without replacement. With
stratum sizes N_h, labelled rows n_h and over-refusals x_h among them, the estimate is the Horvitz-Thompson one,
Σ N_h x_h / n_h per 1,000 rows. The judges only shape the strata: if they are poor the interval is wide, never wrong.

The interval combines those of the strata, [l_h, u_h], by the method of variance estimates recovery (G. Y. Zou, W. Huang
and X. Zhang (2009), Computational Statistics & Data Analysis 53:1080-1085): low = θ − √Σ w_h² (p_h − l_h)², high = θ +
√Σ w_h² (u_h − p_h)². A stratum without a hit still widens the upper end, where a normal interval would not. Within a
stratum the interval inverts the hypergeometric test with mid-P tails, exact for a finite log: Wilson's begins too
high where there are one or two hits among many rows. A row labelled unsure counts as no over-refusal at the low end and
as one at the high end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

PER = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """One stratum of the log and what its labels say."""

    name: str
    size: int
    """Rows of the log in it."""
    drawn: int
    """Rows of it in the review queue."""
    labelled: int = 0
    """Rows of these that a person labelled, `unsure` ones included."""
    unsure: int = 0
    hits: int = 0
    """Labelled rows that are over-refusals."""

    @property
    def inclusion(self) -> float:
        """The probability of each of its rows to be in the queue."""
        return self.drawn / self.size if self.size else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Over-refusals per 1,000 requests of the log."""

    value: float | None
    """None where it is not measured."""
    low: float | None
    high: float | None
    n: int
    """Labelled rows it rests on."""
    unsure: int
    rows: int
    """Rows of the log."""
    interval: str
    """`stratified`, or "" where there is none."""
    reason: str = ""
    """Why there is no estimate."""


def over_refusals(strata: Sequence[Stratum], *, level: float = LEVEL) -> Estimate:
    """Estimate over-refusals per 1,000 rows; None with the reason where a stratum has no labels.

    Raises:
        ValueError: where counts do not fit each other.
    """
    for s in strata:
        if not (0 <= s.hits <= s.labelled - s.unsure and s.labelled <= s.drawn <= s.size):
            raise ValueError(f"stratum {s.name}: {s} holds counts that do not fit each other")
    parts = [s for s in strata if s.size]
    rows, labelled, unsure = (sum(getattr(s, name) for s in parts) for name in ("size", "labelled", "unsure"))
    bare = [s.name for s in parts if s.labelled == s.unsure]
    if bare or not parts:
        reason = f"no label yet in: {', '.join(bare)}" if bare else "no rows"
        return Estimate(
            value=None, low=None, high=None, n=labelled, unsure=unsure, rows=rows, interval="", reason=reason
        )
    value = low = high = below = above = 0.0
    for s in parts:
        weight = s.size / rows
        least, most = s.hits / s.labelled, (s.hits + s.unsure) / s.labelled
        value += weight * s.hits / (s.labelled - s.unsure)
        low += weight * least
        high += weight * most
        below += (weight * (least - _low(s.hits, s.labelled, s.size, level))) ** 2
        above += (weight * (1 - _low(s.labelled - s.hits - s.unsure, s.labelled, s.size, level) - most)) ** 2
    known, cleared = (sum(x) / rows for x in ([s.hits for s in parts], [s.labelled - s.unsure - s.hits for s in parts]))
    return Estimate(
        value=PER * value,
        low=PER * max(known, low - math.sqrt(below)),
        high=PER * min(1 - cleared, high + math.sqrt(above)),
        n=labelled,
        unsure=unsure,
        rows=rows,
        interval="stratified",
    )


@functools.lru_cache(maxsize=4096)
def _low(hits: int, drawn: int, size: int, level: float) -> float:
    """Lower end of the mid-P interval for the share of hits in a finite stratum; the misses give the upper one."""
    tail = (1 - level) / 2
    below, above = hits - 1, size - drawn + hits  # `below` is excluded, `above` cannot be
    if hits == 0 or drawn == size:
        return hits / size
    while above - below > 1:
        middle = (below + above) // 2
        if _upper_tail(hits, drawn, size, middle) > tail:
            above = middle
        else:
            below = middle
    return above / size


def _upper_tail(hits: int, drawn: int, size: int, of: int) -> float:
    """P(X > hits) + P(X = hits) / 2, X hits among `drawn` of `size` rows of which `of` are hits."""
    if of < hits:
        return 0.0
    top = min(drawn, of)

    def choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    misses = size - of - drawn + hits
    if misses < 0:
        return 1.0
    term = math.exp(choose(of, hits) + choose(size - of, drawn - hits) - choose(size, drawn))
    total = term / 2
    for k in range(hits, top):
        term *= (of - k) * (drawn - k) / ((k + 1) * (size - of - drawn + k + 1))
        total += term
    return total
