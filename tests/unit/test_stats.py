from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from demur import stats


def _binomial_tail_two_sided(b: int, c: int) -> float:
    n, k = b + c, min(b, c)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def _tango_by_likelihood(b: int, c: int, n: int, z: float) -> float:
    """A second implementation: profile the trinomial likelihood on a grid, halve the range of hypotheses."""
    losses = np.linspace(0, 1, 100_001)
    low, high = -0.9999, (b - c) / n
    for _ in range(14):
        delta = (low + high) / 2
        q = losses[(losses + delta >= 0) & (2 * losses + delta <= 1)]
        p = q + delta
        with np.errstate(divide="ignore"):
            parts = [k * np.log(share) for k, share in ((b, p), (c, q), (n - b - c, 1 - p - q)) if k]
        best = np.argmax(sum(parts))
        score = (b - c - n * delta) / math.sqrt(n * (p[best] + q[best] - delta**2))
        low, high = (delta, high) if score > z else (low, delta)
    return (low + high) / 2


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (81, 263), (1, 1), (499, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_bounds_solve_the_score_equation(k: int, n: int, level: float) -> None:
    z = NormalDist().inv_cdf((1 + level) / 2)
    for p in stats.wilson(k, n, level):
        if 0 < p < 1:
            assert abs(k - n * p) == pytest.approx(z * math.sqrt(n * p * (1 - p)), rel=1e-9)
        else:
            assert p == k / n


@pytest.mark.slow
@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (81, 263), (1, 1), (499, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_equals_statsmodels(k: int, n: int, level: float) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    low, high = proportion.proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert stats.wilson(k, n, level) == pytest.approx((low, high), abs=1e-12)


def test_wilson_of_nothing_is_everything() -> None:
    assert stats.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    "call", [lambda: stats.wilson(3, 2), lambda: stats.wilson(-1, 2), lambda: stats.wilson(1, 2, 1)]
)
def test_wilson_refuses_impossible_counts(call) -> None:
    with pytest.raises(ValueError, match=r"wilson|level"):
        call()


def test_tango_equals_the_published_example() -> None:
    """Crossover trial of two lens disinfectants in Tango (1998): 44 pairs, one of them lost."""
    assert stats.tango_score(0, 1, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert stats.tango(0, 1, 44, level=0.90) == pytest.approx((-0.096, 0.037), abs=5e-4)


@pytest.mark.parametrize(
    ("b", "c", "n"), [(0, 1, 44), (3, 9, 60), (0, 0, 133), (12, 2, 30), (5, 5, 10), (86, 150, 1600)]
)
def test_tango_equals_a_search_of_the_likelihood(b: int, c: int, n: int) -> None:
    assert stats.tango_lower(b, c, n) == pytest.approx(_tango_by_likelihood(b, c, n, 1.6448536), abs=3e-4)


def test_tango_score_at_the_bounds_is_the_quantile() -> None:
    low, high = stats.tango(4, 11, 90)
    assert stats.tango_score(4, 11, 90, low) == pytest.approx(1.959964, abs=1e-6)
    assert stats.tango_score(4, 11, 90, high) == pytest.approx(-1.959964, abs=1e-6)


def test_tango_is_antisymmetric_and_ordered() -> None:
    low, high = stats.tango(3, 8, 50)
    assert stats.tango(8, 3, 50) == pytest.approx((-high, -low))
    assert low < stats.tango_lower(3, 8, 50) < -5 / 50 < high


@pytest.mark.parametrize("n", [5, 132, 133, 1000])
def test_tango_without_changes_is_known_in_closed_form(n: int) -> None:
    z2 = 1.6448536269514722**2
    assert stats.tango_lower(0, 0, n) == pytest.approx(-z2 / (n + z2), abs=1e-12)


def test_tango_at_the_edges() -> None:
    assert stats.tango(0, 0, 0) == (-1.0, 1.0)
    assert stats.tango(10, 0, 10).high == pytest.approx(1.0)
    assert stats.tango(0, 10, 10).low == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="tango"):
        stats.tango(6, 5, 10)


@pytest.mark.parametrize(("gain", "loss", "n"), [(0.02, 0.04, 200), (0.1, 0.15, 60), (0.0, 0.02, 150)])
def test_tango_covers(gain: float, loss: float, n: int) -> None:
    """Coverage summed exactly over the trinomial, where it matters."""
    covered = total = 0.0
    low_b, high_b, high_c = 0, int(n * gain + 6 * math.sqrt(n * gain) + 1), int(n * loss + 6 * math.sqrt(n * loss) + 1)
    for b, c in itertools.product(range(low_b, high_b + 1), range(high_c + 1)):
        if b + c > n or (gain == 0 and b):
            continue
        weight = math.comb(n, b) * math.comb(n - b, c) * gain**b * loss**c * (1 - gain - loss) ** (n - b - c)
        if weight < 1e-7:
            continue
        low, high = stats.tango(b, c, n)
        total += weight
        covered += weight * (low <= gain - loss <= high)
    assert total > 0.999
    assert covered == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (10, 2), (2, 10), (7, 7), (300, 250)])
def test_mcnemar_is_the_binomial_test_on_discordant_pairs(b: int, c: int) -> None:
    assert stats.mcnemar(b, c) == pytest.approx(_binomial_tail_two_sided(b, c), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("b", "c"), [(1, 0), (10, 2), (2, 10), (7, 7), (300, 250)])
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    assert stats.mcnemar(b, c) == pytest.approx(tables.mcnemar([[5, b], [c, 9]], exact=True).pvalue, rel=1e-9)


def test_mcnemar_is_exact_where_floats_underflow() -> None:
    assert stats.mcnemar(3000, 2900) == pytest.approx(0.1975, abs=5e-3)
    with pytest.raises(ValueError, match="negative"):
        stats.mcnemar(-1, 2)


def test_bootstrap_does_not_depend_on_order_or_names_of_groups() -> None:
    rng = np.random.default_rng(3)
    group, hit = rng.integers(0, 40, 300), rng.random(300) < 0.4
    base = stats.group_bootstrap(hit, np.ones(300), group, seed=7)
    order = rng.permutation(300)
    named = [f"item {g * 31 % 101}" for g in group[order]]
    assert stats.group_bootstrap(hit[order], np.ones(300), named, seed=7) == base
    assert stats.group_bootstrap(hit, np.ones(300), group, seed=8) != base


def test_bootstrap_equals_a_plain_resampling_of_groups() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(60), rng.integers(1, 8, 60))
    hit = (rng.random(60) < 0.5)[group] & (rng.random(len(group)) < 0.8)
    num, den = np.bincount(group, hit), np.bincount(group)
    drawn = rng.integers(0, 60, (20_000, 60))
    low, high = np.quantile(num[drawn].sum(1) / den[drawn].sum(1), [0.025, 0.975])
    ours = stats.group_bootstrap(hit, np.ones(len(hit)), group, n_boot=20_000)
    assert ours == pytest.approx((low, high), abs=0.006)
    assert ours.low < low  # widened for few groups
    assert ours.high > high


def test_bootstrap_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = np.random.default_rng(0).random((50, 2))
    whole = stats.resample_totals(totals, n_boot=100)
    monkeypatch.setattr(stats, "_CELLS", 700)
    np.testing.assert_allclose(stats.resample_totals(totals, n_boot=100), whole)
    assert whole.shape == (100, 2)


def test_bootstrap_covers_clustered_rows_where_wilson_does_not() -> None:
    rng = np.random.default_rng(11)
    truth, runs, groups, size = 0.3, 120, 50, 8
    group = np.repeat(np.arange(groups), size)
    hits = {"bootstrap": 0, "wilson": 0, "lower": 0}
    for _ in range(runs):
        chance = rng.beta(truth, 1 - truth, groups)  # rows of a group correlate by 0.5
        row = rng.random(groups * size) < chance[group]
        totals = stats.group_totals(np.stack([row, np.ones(len(row))], axis=1), group)
        low, high = stats.bootstrap_interval(totals, stats.ratio, n_boot=300)
        hits["bootstrap"] += low <= truth <= high
        hits["lower"] += stats.bootstrap_interval(totals, stats.ratio, n_boot=300, sides=1).low <= truth
        low, high = stats.wilson(int(row.sum()), len(row))
        hits["wilson"] += low <= truth <= high
    assert hits["wilson"] / runs < 0.75
    assert hits["bootstrap"] / runs == pytest.approx(0.945, abs=0.035)
    assert hits["lower"] / runs == pytest.approx(0.95, abs=0.04)


def test_one_sided_bound_is_the_end_of_the_wider_level() -> None:
    rng = np.random.default_rng(2)
    group, change = rng.integers(0, 80, 400), rng.choice([-1, 0, 1], 400, p=[0.1, 0.85, 0.05])
    lower = stats.group_bootstrap_lower(change, np.ones(400), group, level=0.95)
    assert lower == stats.group_bootstrap(change, np.ones(400), group, level=0.90).low


def test_bootstrap_leaves_out_resamples_without_a_denominator_and_says_when_none_is_left() -> None:
    low, high = stats.group_bootstrap([1, 0, 0], [1, 0, 0], ["a", "b", "c"])
    assert (low, high) == (1.0, 1.0)
    with pytest.raises(ValueError, match="denominator"):
        stats.group_bootstrap([0.0], [0.0], ["a"])
    with pytest.raises(ValueError, match="one group"):
        stats.group_bootstrap([], [], [])
    with pytest.raises(ValueError, match="equally long"):
        stats.group_bootstrap([1.0], [1.0, 1.0], ["a"])
    with pytest.raises(ValueError, match="labels"):
        stats.group_bootstrap([1.0], [1.0], ["a", "b"])


def test_design_effect() -> None:
    group = np.repeat(np.arange(100), 5)
    rng = np.random.default_rng(0)
    together = np.repeat(rng.random(100) < 0.3, 5).astype(float)
    assert stats.design_effect(together, group) == pytest.approx(5, rel=0.02)
    apart = (np.arange(500) % 5 == 0).astype(float)
    assert stats.design_effect(apart, group) == 1.0
    assert stats.design_effect(np.zeros(500), group) == 1.0
    assert stats.design_effect([], []) == 1.0
    assert stats.design_effect([0, 1], ["a", "a"]) == 1.0


LABELS = ("yes", "no", "perhaps")


def _ratings(n: int, agreement: float) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(5)
    a = rng.choice(LABELS, n, p=[0.5, 0.3, 0.2])
    b = np.where(rng.random(n) < agreement, a, rng.choice(LABELS, n))
    return list(a), list(b)


@pytest.mark.slow
@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.9])
def test_kappa_equals_statsmodels(agreement: float) -> None:
    raters = pytest.importorskip("statsmodels.stats.inter_rater")
    a, b = _ratings(200, agreement)
    table = [[sum(x == i and y == j for x, y in zip(a, b, strict=True)) for j in LABELS] for i in LABELS]
    expected = raters.cohens_kappa(table)
    assert stats.cohen_kappa(a, b, LABELS) == pytest.approx(expected.kappa, abs=1e-12)


def test_kappa_by_hand_and_where_it_is_undefined() -> None:
    a, b = ["y"] * 25 + ["n"] * 25, ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert stats.cohen_kappa(a, b, ("y", "n")) == pytest.approx(0.4)  # observed .7, by chance .5
    assert stats.cohen_kappa([*a, "?"], [*b, "y"], ("y", "n")) == pytest.approx(0.4)
    assert stats.cohen_kappa(["y", "y"], ["y", "y"], ("y", "n")) is None
    assert stats.cohen_kappa([], []) is None
    with pytest.raises(ValueError, match="kappa"):
        stats.cohen_kappa(["y"], [])


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(6)
    score, label = rng.integers(0, 12, 120), rng.random(120) < 0.4
    pairs = [(p > q) + 0.5 * (p == q) for p in score[label] for q in score[~label]]
    assert stats.auroc(score, label) == pytest.approx(np.mean(pairs))
    assert stats.auroc([0.1, 0.9], [0, 1]) == 1.0
    assert stats.auroc([1, 2], [1, 1]) is None


def test_ranks_and_spearman_by_definition() -> None:
    rng = np.random.default_rng(7)
    a = rng.integers(0, 10, 80)
    b = a + rng.integers(0, 10, 80)
    by_count = [sum(y < x for y in b) + (sum(y == x for y in b) + 1) / 2 for x in b]
    np.testing.assert_allclose(stats.ranks(b), by_count)
    assert stats.spearman(a, b) == pytest.approx(np.corrcoef(stats.ranks(a), by_count)[0, 1])
    assert stats.spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert stats.spearman([1, 1, 1], [1, 2, 3]) is None
    assert stats.spearman([1], [2]) is None
    with pytest.raises(ValueError, match="spearman"):
        stats.spearman([1, 2], [1, 2, 3])


@pytest.mark.slow
def test_spearman_equals_scipy() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(9)
    a = rng.integers(0, 10, 80)
    b = a - rng.integers(0, 10, 80)
    assert stats.spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic)
    np.testing.assert_allclose(stats.ranks(b), scipy_stats.rankdata(b))
