"""The safety decision boundary along a direction: coordinate, calibration, distance.

The coordinate of a state h at one layer is t = <h - mu_minus, v> / |v|², with v = mu_plus - mu_minus the
difference between the mean state of refused harmful prompts and that of answered harmless ones: 0 at the
harmless mean, 1 at the harmful mean, comparable over layers, models and languages. A logistic fit
P(refuse | t) = sigmoid(w (t - t*)) on held-out prompts gives the boundary t*, its width tau = ln 9 / w (the
10-90 % zone is t* ± tau) and the signed distance d = (t - t*) / tau.
"""

from __future__ import annotations

import math
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
