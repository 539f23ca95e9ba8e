"""The safety decision boundary along a direction: coordinate, calibration, distance.

The coordinate of a state h at one layer is t = <h - mu_minus, v> / |v|², with v = mu_plus - mu_minus the
difference between the mean state of refused harmful prompts and that of answered harmless ones: 0 at the
harmless mean, 1 at the harmful mean, comparable over layers, models and languages. A logistic fit
P(refuse | t) = sigmoid(w (t - t*)) on held-out prompts gives the boundary t*, its width tau = ln 9 / w (the
10-90 % zone is t* ± tau) and the signed distance d = (t - t*) / tau.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

from demur import stats

Array = npt.NDArray[np.float64]
LEAST_AUROC = 0.6
"""Below this AUROC on benign prompts alone, an axis does not tell refusals from answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One layer's coordinate axis: the harmless mean and the difference of means (float64, shape (d_model,))."""

    mu_minus: torch.Tensor
    v: torch.Tensor

    @classmethod
    def between(cls, harmful: torch.Tensor, harmless: torch.Tensor) -> Axis:
        """Return the axis from the mean of `harmless` to that of `harmful`, each of shape (prompt, d_model)."""
        mu_plus, mu_minus = harmful.double().mean(0), harmless.double().mean(0)
        return cls(mu_minus=mu_minus, v=mu_plus - mu_minus)

    def coordinate(self, states: torch.Tensor) -> Array:
        """Return t for states of shape (prompt, d_model); all zero where the two means coincide."""
        gap = float(self.v @ self.v)
        if gap == 0.0:
            return np.zeros(len(states))
        t: Array = ((states.double() - self.mu_minus) @ self.v / gap).numpy()
        return t


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The logistic fit of refusal on the coordinate; `unusable` says why an axis must not be used."""

    w: float
    t_star: float
    tau: float
    auroc: float | None
    """AUROC of t for refusal among benign prompts; None when they were all refused or all answered."""
    n: int
    unusable: str = ""

    def distance(self, t: Array) -> Array:
        """Return d = (t - t*) / tau."""
        return (t - self.t_star) / self.tau


def calibrate(t: Array, refused: npt.NDArray[np.bool_], benign: npt.NDArray[np.bool_]) -> Calibration:
    """Fit P(refuse | t) = sigmoid(w (t - t*)).

    Args:
        t: coordinates, shape (prompt,).
        refused: whether each prompt was refused.
        benign: which prompts deserve an answer; the AUROC is taken over these alone.

    Returns:
        the fit; `unusable` is set when all prompts were treated alike, when w <= 0, or when the AUROC on the
        benign prompts is below `LEAST_AUROC`.
    """
    own = refused[benign]
    auroc = stats.auroc(t[benign], own) if own.any() and not own.all() else None
    if refused.all() or not refused.any():
        reason = "every prompt was refused" if refused.all() else "no prompt was refused"
        return Calibration(w=0.0, t_star=math.nan, tau=math.nan, auroc=auroc, n=len(t), unusable=reason)
    scale = float(t.std()) or 1.0
    fit = LogisticRegression(C=1e4, max_iter=1000).fit((t / scale)[:, None], refused)
    w = float(fit.coef_[0, 0]) / scale
    unusable = ""
    if w <= 0:
        unusable = f"refusal does not rise along the axis (w = {w:.3g})"
    elif auroc is None:
        unusable = "the benign prompts were all treated alike"
    elif auroc < LEAST_AUROC:
        unusable = f"AUROC on benign prompts is {auroc:.2f}, below {LEAST_AUROC}"
    t_star, tau = (-float(fit.intercept_[0]) / w, math.log(9) / w) if w else (math.nan, math.nan)
    return Calibration(w=w, t_star=t_star, tau=tau, auroc=auroc, n=len(t), unusable=unusable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """95 % intervals of a calibration, groups resampled; None where fewer than half of the resamples give a value."""

    t_star: stats.Interval | None
    tau: stats.Interval | None
    auroc: stats.Interval | None
    usable: float
    """Share of the resamples in which refusal rises along the axis."""
    n_boot: int


def intervals(
    t: Array,
    refused: npt.NDArray[np.bool_],
    benign: npt.NDArray[np.bool_],
    groups: Sequence[Hashable],
    *,
    n_boot: int = 500,
    seed: int = 0,
) -> Intervals:
    """Bootstrap t*, tau and the AUROC on benign prompts, groups resampled with replacement.

    Args:
        t: coordinates, shape (prompt,).
        refused: whether each prompt was refused.
        benign: which prompts deserve an answer.
        groups: what is resampled together.
        n_boot: resamples.
        seed: of the resampling.
    """
    weights = group_weights(groups, n_boot, seed)
    w, t_star = logistic_fits(t, refused, weights)
    rising = np.isfinite(t_star) & (w > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = np.where(rising, math.log(9) / w, np.nan)
    area = weighted_auroc(t[benign], refused[benign], weights[:, benign])
    return Intervals(
        t_star=_interval(np.where(rising, t_star, np.nan)),
        tau=_interval(tau),
        auroc=_interval(area),
        usable=float(rising.mean()),
        n_boot=n_boot,
    )


def group_weights(groups: Sequence[Hashable], n_boot: int, seed: int = 0) -> Array:
    """Return how often each row is drawn in each resample of whole groups, shape (resample, row)."""
    place: dict[Hashable, int] = {}
    codes = np.array([place.setdefault(g, len(place)) for g in groups])
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(place), np.full(len(place), 1 / len(place)), size=n_boot)
    weights: Array = drawn[:, codes].astype(np.float64)
    return weights


def logistic_fits(t: Array, refused: npt.NDArray[np.bool_], weights: Array) -> tuple[Array, Array]:
    """Fit P(refuse | t) = sigmoid(w (t - t*)) once per row of weights, all at once (Newton, slight ridge).

    Args:
        t: coordinates, shape (prompt,).
        refused: shape (prompt,).
        weights: shape (fit, prompt).

    Returns:
        w and t*, shape (fit,); t* is not a number where all weighted prompts were treated alike.
    """
    scale, centre = float(t.std()) or 1.0, float(t.mean())
    x, y = (t - centre) / scale, refused.astype(np.float64)
    slope, bias = np.zeros(len(weights)), np.zeros(len(weights))
    ridge = 1e-4
    for _ in range(40):
        p = 1 / (1 + np.exp(-np.clip(slope[:, None] * x + bias[:, None], -30, 30)))
        left = weights * (y - p)
        g0, g1 = left.sum(1), left @ x - ridge * slope
        v = weights * p * (1 - p)
        h00, h01, h11 = v.sum(1) + 1e-9, v @ x, v @ (x * x) + ridge
        det = h00 * h11 - h01 * h01
        step0, step1 = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        size = np.maximum(1.0, np.maximum(np.abs(step0), np.abs(step1)) / 4)
        bias, slope = bias + step0 / size, slope + step1 / size
        if max(float(np.abs(step0).max()), float(np.abs(step1).max())) < 1e-8:
            break
    both = (weights @ y > 0) & (weights @ (1 - y) > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_star = np.where(both, centre - bias / slope * scale, np.nan)
    return slope / scale, t_star


def weighted_auroc(score: Array, label: npt.NDArray[np.bool_], weights: Array) -> Array:
    """Return the AUROC under each row of weights, ties counted half; not a number where a class is absent."""
    values, code = np.unique(score, return_inverse=True)
    shape = (len(weights), max(len(values), 1))
    positive, negative = np.zeros(shape), np.zeros(shape)
    for out, rows in ((positive, np.flatnonzero(label)), (negative, np.flatnonzero(~label))):
        np.add.at(out.T, code[rows], weights[:, rows].T)
    below = negative.cumsum(1) - negative / 2
    total = positive.sum(1) * negative.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        area: Array = np.where(total > 0, (positive * below).sum(1) / total, np.nan)
    return area


def reliability(
    t: Array,
    refused: npt.NDArray[np.bool_],
    fit: Calibration,
    *,
    groups: Sequence[Hashable] | None = None,
    bins: int = 10,
) -> list[dict[str, float]]:
    """Return the calibration's reliability curve: mean predicted P(refuse), share refused and n, in bins of equal n.

    With `groups`, each bin also has `low` and `high`, the 95 % interval of the share that resamples them.
    """
    if not math.isfinite(fit.t_star):
        return []
    p = 1 / (1 + np.exp(-np.clip(fit.w * (t - fit.t_star), -30, 30)))
    rows = []
    for own in np.array_split(np.argsort(p, kind="stable"), bins):
        if not len(own):
            continue
        row = {"predicted": float(p[own].mean()), "refused": float(refused[own].mean()), "n": float(len(own))}
        if groups is not None:
            clusters = [groups[i] for i in own]
            low, high = stats.group_bootstrap(refused[own], np.ones(len(own)), clusters, n_boot=500)
            row |= {"low": low, "high": high}
        rows.append(row)
    return rows


def _interval(values: Array) -> stats.Interval | None:
    known = values[np.isfinite(values)]
    if len(known) * 2 < len(values) or not len(known):
        return None
    low, high = np.quantile(known, (0.025, 0.975)).tolist()
    return stats.Interval(low, high)
