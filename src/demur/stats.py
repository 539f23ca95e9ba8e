"""Intervals and tests for rates, paired rates and clustered rows. numpy only.

Rows that share a group (translations, templates, rewrites of one item) are not independent. Whatever rests on such
rows resamples whole groups; `wilson`, `tango` and `mcnemar` are for rows that are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_NORMAL = NormalDist()
_CELLS = 4_000_000
"""Most cells (resamples × kinds of group) held in memory at once while resampling."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def wilson(k: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion of independent rows.

    E. B. Wilson (1927), JASA 22:209-212. With n = 0 nothing is known and the interval is (0, 1).

    Args:
        k: number of successes, 0 ≤ k ≤ n; may be fractional (effective counts).
        n: number of rows.
        level: two-sided confidence.

    Raises:
        ValueError: if k is outside 0 … n, or level outside (0, 1).
    """
    z = _quantile(level, sides=2)
    if not 0 <= k <= n:
        raise ValueError(f"wilson: k = {k} is not within 0 … n = {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    p, z2 = k / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return Interval(low, high)


def tango_score(b: float, c: float, n: float, delta: float) -> float:
    """Tango's score statistic for the hypothesis p_after − p_before = `delta`.

    T. Tango (1998), Statistics in Medicine 17:891-908: (b − c − nδ) / √(n(2q + δ(1 − δ))), with q the maximum-
    likelihood estimate of P(1 → 0) under the hypothesis. Falls monotonically in `delta`.
    """
    excess = b - c - n * delta
    quadratic = 2 * n
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    root = math.sqrt(max(0.0, linear * linear - 4 * quadratic * constant))
    q = (root - linear) / (2 * quadratic)
    variance = n * (2 * q + delta * (1 - delta))
    if variance <= 1e-12 * n:
        return math.copysign(math.inf, excess) if abs(excess) > 1e-12 * n else 0.0
    return excess / math.sqrt(variance)


def tango(b: float, c: float, n: float, level: float = 0.95) -> Interval:
    """Tango's two-sided score interval for p_after − p_before on independent pairs.

    Args:
        b: pairs that went 0 → 1 (gains); may be fractional (effective counts).
        c: pairs that went 1 → 0 (losses).
        n: all pairs, b + c ≤ n. With n = 0 nothing is known and the interval is (−1, 1).
        level: two-sided confidence.

    Raises:
        ValueError: if b or c is negative, b + c exceeds n, or level is outside (0, 1).
    """
    z = _quantile(level, sides=2)
    return Interval(_tango_bound(b, c, n, z), -_tango_bound(c, b, n, z))


def tango_lower(b: float, c: float, n: float, level: float = 0.95) -> float:
    """Tango's one-sided lower bound for p_after − p_before; arguments as in `tango`.

    With no changes it is −z² / (n + z²): −2.7 / (n + 2.7) at 95 %.
    """
    return _tango_bound(b, c, n, _quantile(level, sides=1))


def _tango_bound(b: float, c: float, n: float, z: float) -> float:
    """The delta below (b − c) / n at which the score statistic equals z, by bisection."""
    if b < 0 or c < 0 or b + c > n * (1 + 1e-12):
        raise ValueError(f"tango: gains {b} and losses {c} do not fit {n} pairs")
    if n == 0:
        return -1.0
    low, high = -1.0, (b - c) / n
    for _ in range(60):
        middle = (low + high) / 2
        if tango_score(b, c, n, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def mcnemar(b: int, c: int) -> float:
    """McNemar's exact two-sided p-value (binomial on the discordant pairs); 1 without discordant pairs."""
    if b < 0 or c < 0:
        raise ValueError(f"mcnemar: counts must not be negative, got {b} and {c}")
    total, term, tail = b + c, 1, 0
    for i in range(min(b, c) + 1):
        tail += term
        term = term * (total - i) // (i + 1)
    return min(1.0, 2 * tail / (1 << total))


def group_totals(columns: ArrayLike, groups: Sequence[Hashable] | NDArray[Any]) -> Floats:
    """Sum columns over the rows of each group.

    `columns` has shape (rows, k), `groups` one hashable label per row. Returns shape (groups, k); the order of groups
    has no meaning. Raises ValueError if there are more or fewer labels than rows.
    """
    table = np.asarray(columns, dtype=np.float64)
    codes = _codes(groups)
    if len(codes) != len(table):
        raise ValueError(f"{len(table)} rows but {len(codes)} group labels")
    n_groups = int(codes.max()) + 1 if len(codes) else 0
    sums = [np.bincount(codes, weights=column, minlength=n_groups) for column in table.T]
    return np.stack(sums, axis=1) if sums else np.zeros((n_groups, 0))


def resample_totals(totals: Floats, *, n_boot: int = 2000, seed: int = 0) -> Floats:
    """Draw as many groups as there are, with replacement, and add their totals up; do so `n_boot` times.

    Groups with equal totals are exchangeable, so the draw is a multinomial over the distinct rows of `totals`: exact,
    independent of the order of groups, and quick where rows are small counts.

    Args:
        totals: shape (groups, k), as `group_totals` makes it.
        n_boot: number of resamples.
        seed: the same seed gives the same draws.

    Returns:
        The sums, shape (n_boot, k).
    """
    distinct, counts = _distinct(totals)
    rng = np.random.default_rng(seed)
    n_groups = int(counts.sum())
    step = max(1, _CELLS // max(1, len(distinct)))
    blocks = []
    for start in range(0, n_boot, step):
        drawn = rng.multinomial(n_groups, counts / n_groups, size=min(step, n_boot - start))
        blocks.append(drawn @ distinct)
    return np.concatenate(blocks)


def bootstrap_interval(
    totals: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    sides: int = 2,
) -> Interval:
    """Percentile interval of a function of summed totals, resampling whole groups.

    The percentiles are widened for few groups as in T. C. Hesterberg (2015), The American Statistician 69:371-386
    ("expanded percentile": Student's quantile times √(G / (G − 1))). Resamples on which the statistic is not a number
    (an empty denominator) are left out.

    Args:
        totals: shape (groups, k).
        statistic: takes (resamples, k) sums, gives (resamples,) values, NaN where it has none.
        n_boot: number of resamples.
        seed: seed of the draws.
        level: confidence.
        sides: 2, or 1 for bounds that each hold at `level`.

    Raises:
        ValueError: if there are no groups or no resample has a value.
    """
    if not len(totals):
        raise ValueError("a bootstrap needs at least one group")
    values = statistic(resample_totals(totals, n_boot=n_boot, seed=seed))
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError("no resample has a value: every denominator is 0")
    tail = expanded_tail(_quantile(level, sides=sides), len(totals))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def group_bootstrap(
    numerator: ArrayLike,
    denominator: ArrayLike,
    groups: Sequence[Hashable] | NDArray[Any],
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval for Σ numerator / Σ denominator, resampling whole groups.

    Pass differences after − before as `numerator` and ones as `denominator` for a paired difference of rates.
    Where every group has the same ratio the interval has no width and says nothing: see `metrics` for what to do then.
    Numerator, denominator and (hashable) groups hold one value per row.

    Raises:
        ValueError: if there is no row or the denominators sum to 0.
    """
    totals = group_totals(_columns(numerator, denominator), groups)
    return bootstrap_interval(totals, ratio, n_boot=n_boot, seed=seed, level=level)


def group_bootstrap_lower(
    numerator: ArrayLike,
    denominator: ArrayLike,
    groups: Sequence[Hashable] | NDArray[Any],
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> float:
    """One-sided lower bound for Σ numerator / Σ denominator; arguments as in `group_bootstrap`."""
    totals = group_totals(_columns(numerator, denominator), groups)
    return bootstrap_interval(totals, ratio, n_boot=n_boot, seed=seed, level=level, sides=1).low


def design_effect(values: ArrayLike, groups: Sequence[Hashable] | NDArray[Any]) -> float:
    """How much grouping inflates the variance of a mean: clustered variance over that of independent rows.

    At least 1, so that it never makes a bound better. 1 where the values do not vary or there is one group. J. N. K.
    Rao and A. J. Scott (1992), Biometrics 48:577-585: dividing counts by it makes them usable as if independent.
    """
    row = np.asarray(values, dtype=np.float64)
    if not len(row):
        return 1.0
    centred = row - row.mean()
    spread = float(centred @ centred)
    totals = group_totals(centred[:, None], groups)[:, 0]
    if spread <= 1e-12 or len(totals) < 2:
        return 1.0
    return max(1.0, len(totals) / (len(totals) - 1) * float(totals @ totals) / spread)


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable], labels: Sequence[Hashable] = ()) -> float | None:
    """Cohen's kappa of two raters of the same items; None where it is undefined (both always give one same label).

    `labels` is the closed set; items with another label are left out. Empty means all labels seen.
    """
    kappa = float(kappas(_confusion(a, b, labels)[None])[0])
    return None if math.isnan(kappa) else kappa


def kappas(tables: Floats) -> Floats:
    """Cohen's kappa of each confusion, shape (tables, k, k) to (tables,); NaN where it is empty or chance agrees fully.

    Labels that one side alone may give (as *unscored*) are rows or columns of zeros on the other.
    """
    total = tables.sum(axis=(1, 2))
    p = tables / np.where(total > 0, total, 1.0)[:, None, None]
    chance = (p.sum(axis=2) * p.sum(axis=1)).sum(axis=1)
    known = (total > 0) & (chance < 1 - 1e-12)
    observed = np.trace(p, axis1=1, axis2=2)
    return ratio(np.stack([observed - chance, np.where(known, 1 - chance, 0.0)], axis=1))


def auroc(score: ArrayLike, label: ArrayLike) -> float | None:
    """Area under the ROC curve, ties counted half; None where a class is missing. Label true = higher scores."""
    positive = np.asarray(label).astype(bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    rank_sum = float(ranks(score)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rank correlation, mean ranks for ties; None for fewer than 2 rows or a constant side."""
    x, y = ranks(a), ranks(b)
    if len(x) != len(y):
        raise ValueError(f"spearman: {len(x)} and {len(y)} values")
    if len(x) < 2:
        return None
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else None


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, the mean rank for ties; shape (rows,)."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: Floats = last - (counts - 1) / 2
    return mean_rank[inverse.ravel()]


def ratio(sums: Floats) -> Floats:
    """First column over second, NaN where the second is 0; (resamples, 2) to (resamples,)."""
    out = np.full(len(sums), np.nan)
    np.divide(sums[:, 0], sums[:, 1], out=out, where=sums[:, 1] != 0)
    return out


def _columns(*columns: ArrayLike) -> Floats:
    arrays = [np.asarray(c, dtype=np.float64) for c in columns]
    if len({a.shape for a in arrays}) > 1 or arrays[0].ndim != 1:
        raise ValueError(f"columns must be one-dimensional and equally long, got {[a.shape for a in arrays]}")
    return np.stack(arrays, axis=1)


def _codes(groups: Sequence[Hashable] | NDArray[Any]) -> NDArray[np.intp]:
    """Integer codes 0 … n_groups − 1 for hashable labels."""
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "iu":
        return np.unique(groups, return_inverse=True)[1].ravel()
    seen: dict[Hashable, int] = {}
    return np.fromiter((seen.setdefault(g, len(seen)) for g in groups), dtype=np.intp, count=len(groups))


def _distinct(totals: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Distinct rows in a fixed order, and how often each occurs."""
    order = np.lexsort(totals.T[::-1])
    rows = totals[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    return rows[starts], np.diff(np.append(starts, len(rows)))


def _quantile(level: float, *, sides: int) -> float:
    """The normal quantile of a `level` interval with one or two tails."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return _NORMAL.inv_cdf(1 - (1 - level) / sides)


def expanded_tail(z: float, n_groups: int) -> float:
    """Tail probability of the percentile widened for `n_groups` (Cornish-Fisher expansion of Student's quantile)."""
    freedom = max(1, n_groups - 1)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return _NORMAL.cdf(-t * math.sqrt((freedom + 1) / freedom))


def _confusion(a: Sequence[Hashable], b: Sequence[Hashable], labels: Sequence[Hashable]) -> Floats:
    if len(a) != len(b):
        raise ValueError(f"kappa: {len(a)} and {len(b)} labels")
    place = {label: i for i, label in enumerate(labels or dict.fromkeys([*a, *b]))}
    table = np.zeros((len(place), len(place)))
    for x, y in zip(a, b, strict=True):
        if x in place and y in place:
            table[place[x], place[y]] += 1
    return table
