"""Paired differences of a rate on the same rows: an interval, an exact test, and Holm's correction of many tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur import stats

LEAST_P = 1e-12
"""The test is exact to about this; no smaller p-value is given."""


def interval(
    change: NDArray[Any], groups: Sequence[str] | NDArray[np.intp], level: float = 0.95
) -> tuple[stats.Interval | None, str]:
    """Return a two-sided interval of the mean change, and how it was made; None without rows.

    Tango's score interval where no two rows share a group, else the group bootstrap, else (every group changed alike)
    Tango's with groups for pairs.

    Args:
        change: -1, 0 or 1 for each row, shape (rows,).
        groups: each row's group.
        level: confidence.
    """
    n, count = len(change), len(set(np.asarray(groups).tolist()))
    gains, losses = int((change > 0).sum()), int((change < 0).sum())
    if not n:
        return None, ""
    if count == n:
        return stats.tango(gains, losses, n, level), "tango"
    bounds = stats.group_bootstrap(change, np.ones(n), groups, level=level)
    if bounds.low < bounds.high:
        return bounds, "group-bootstrap"
    return stats.tango(gains * count / n, losses * count / n, count, level), "tango-groups"


def sign_flip(totals: ArrayLike) -> float:
    """Exact two-sided p-value of no difference, by exchanging the two runs within whole groups.

    Under the hypothesis each group's total change d_g could as well be -d_g, so that T = sum of ±d_g has the
    characteristic function prod cos(d_g t), which is inverted on the lattice of its values (the randomisation test of
    R. A. Fisher, 1935). Where every group has one row this is McNemar's exact test. 1 where nothing changed.

    Args:
        totals: the sum of changes of each group, whole numbers, shape (groups,).
    """
    sizes, counts = np.unique(np.abs(np.asarray(totals)).round().astype(np.intp), return_counts=True)
    seen = abs(int(np.asarray(totals).sum().round()))
    sizes, counts = sizes[sizes > 0], counts[sizes > 0]
    if not len(sizes) or not seen:
        return 1.0
    widest = int(sizes @ counts)
    angles = 2 * np.pi * np.arange(widest + 1) / (2 * widest + 1)
    wave = np.prod(np.cos(np.outer(sizes, angles)) ** counts[:, None], axis=0)
    chance = np.fft.irfft(wave, 2 * widest + 1)
    return float(min(1.0, max(LEAST_P, 2 * chance[seen : widest + 1].sum())))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted by Holm's step-down: those at most a are significant with a family-wise error of a.

    S. Holm (1979), Scandinavian Journal of Statistics 6:65-70. It holds however the tests depend on each other. None
    (no data) stays None and does not count.
    """
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    found: list[float | None] = [None] * len(values)
    highest = 0.0
    for place, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - place)))
        found[i] = highest
    return found
