"""How a number over rows is counted: its slices, its value, and its interval by groups. The metrics share this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur import stats
from demur.types import Metric, Prompt

Mask = NDArray[np.bool_]


class Number(NamedTuple):
    """A value with its 95 % interval, and what it rests on."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    n_unscored: int
    interval: str

    def metric(self, name: str, slice: str, judge: str, benchmark: str) -> Metric:
        """Return the number as a metric row."""
        return Metric(name=name, slice=slice, judge=judge, benchmark=benchmark, **self._asdict())


def nothing(n_unscored: int) -> Number:
    """Return the number of an empty slice."""
    return Number(None, None, None, 0, 0, n_unscored, "")


def codes(prompts: Sequence[Prompt]) -> NDArray[np.intp]:
    """Return a whole number for each prompt's cluster, the first met being 0."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(p.cluster, len(seen)) for p in prompts], dtype=np.intp)


def slices(prompts: Sequence[Prompt], *, crossed: bool = True) -> Iterator[tuple[str, Mask]]:
    """Yield (label, mask) of `all`, each kind, category and language, and each kind in each language.

    Args:
        prompts: one for each row.
        crossed: whether to yield kinds by languages.
    """
    yield "all", np.ones(len(prompts), dtype=bool)
    columns = {
        key: np.array([getattr(p, key) for p in prompts], dtype=object) for key in ("kind", "category", "language")
    }
    for key, column in columns.items():
        for value in sorted(set(column.tolist()) - {""}):
            yield f"{key}={value}", np.asarray(column == value, dtype=bool)
    kinds, languages = columns["kind"], columns["language"]
    pairs = {(k, v) for k, v in zip(kinds.tolist(), languages.tolist(), strict=True) if k and v} if crossed else set()
    for kind, language in sorted(pairs):
        yield f"kind={kind}&language={language}", np.asarray((kinds == kind) & (languages == language), dtype=bool)


def mean(
    values: NDArray[Any], inside: Mask, groups: NDArray[np.intp], *, n_unscored: int, n_boot: int = 1000
) -> Number:
    """Return the mean of `values` over the rows `inside`, with an interval that resamples groups.

    The interval is `wilson` for a share (every value 0 or 1) of rows that are all groups of their own;
    `wilson-groups`, Wilson on the number of groups, where all groups have the same mean and the bootstrap would have
    no width; else `group-bootstrap`.

    Args:
        values: between 0 and 1, one for each row.
        inside: the rows that count.
        groups: a whole number from 0 for each row's group.
        n_unscored: rows that could not be judged, to be written beside.
        n_boot: resamples.
    """
    n = int(inside.sum())
    if not n:
        return nothing(n_unscored)
    own, at = np.asarray(values[inside], dtype=np.float64), groups[inside]
    size = int(at.max()) + 1
    sums = [np.bincount(at, weights=w, minlength=size) for w in (own, np.ones(n))]
    totals: stats.Floats = np.stack(sums, axis=1).astype(np.float64)
    totals = totals[totals[:, 1] > 0]
    hits, count = float(totals[:, 0].sum()), len(totals)
    if count == n and bool(((own == 0) | (own == 1)).all()):
        return Number(hits / n, *stats.wilson(hits, n), n, count, n_unscored, "wilson")
    if (totals[:, 0] * totals[0, 1] == totals[0, 0] * totals[:, 1]).all():
        return Number(hits / n, *stats.wilson(hits / n * count, count), n, count, n_unscored, "wilson-groups")
    bounds = stats.bootstrap_interval(totals, stats.ratio, n_boot=n_boot)
    return Number(hits / n, *bounds, n, count, n_unscored, "group-bootstrap")
