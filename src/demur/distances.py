"""Distances to the boundary behind one interface: a raw score that should rise with refusal, then one calibration.

Each score is calibrated alike (`boundary.calibrate`), so d = (score - score*) / tau means the same for all: |d| <= 1
is the zone in which P(refuse) lies between 10 and 90 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from demur import stats
from demur.boundary import Array, Axis, Calibration, calibrate

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What the scores are made from: two groups of the fit split at one layer."""

    harmful: Float[torch.Tensor, "harmful d_model"]
    harmless: Float[torch.Tensor, "harmless d_model"]

    @property
    def axis(self) -> Axis:
        """The difference of means."""
        return Axis.between(self.harmful, self.harmless)


def projection(fitted: Fitted, states: torch.Tensor, p_refuse: Array) -> Array:
    """Return the coordinate t = <h - mu_minus, v> / |v|^2."""
    del p_refuse
    return fitted.axis.coordinate(states)


def cosine(fitted: Fitted, states: torch.Tensor, p_refuse: Array) -> Array:
    """Return the cosine of h - mu_minus and v."""
    del p_refuse
    axis = fitted.axis
    own = torch.nn.functional.cosine_similarity(states.double() - axis.mu_minus, axis.v[None], dim=-1)
    return np.asarray(own.numpy(), dtype=np.float64)


def centroids(fitted: Fitted, states: torch.Tensor, p_refuse: Array) -> Array:
    """Return the distance to the harmless mean less the distance to the harmful mean, in gaps |v|."""
    del p_refuse
    axis = fitted.axis
    to_minus = (states.double() - axis.mu_minus).norm(dim=-1)
    to_plus = (states.double() - axis.mu_minus - axis.v).norm(dim=-1)
    gap = float(axis.v.norm()) or 1.0
    return np.asarray(((to_minus - to_plus) / gap).numpy(), dtype=np.float64)


def probe(fitted: Fitted, states: torch.Tensor, p_refuse: Array) -> Array:
    """Return the margin of a logistic probe of harmful against harmless prompts of the fit split."""
    del p_refuse
    x = torch.cat([fitted.harmful, fitted.harmless]).double().numpy()
    y = np.r_[np.ones(len(fitted.harmful)), np.zeros(len(fitted.harmless))]
    made = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(x, y)
    return np.asarray(made.decision_function(states.double().numpy()), dtype=np.float64)


def readout(fitted: Fitted, states: torch.Tensor, p_refuse: Array) -> Array:
    """Return the behavioural readout r = log p_R / (1 - p_R)."""
    del fitted, states
    p = np.clip(p_refuse, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)), dtype=np.float64)


Score = Callable[[Fitted, torch.Tensor, Array], Array]
DISTANCES: Mapping[str, Score] = {
    "projection": projection,
    "cosine": cosine,
    "centroids": centroids,
    "probe": probe,
    "readout": readout,
}


def distance(
    name: str, fitted: Fitted, states: torch.Tensor, p_refuse: Array, refused: Any, benign: Any
) -> tuple[Array, Calibration]:
    """Return d of each prompt by one of `DISTANCES`, and its calibration.

    Args:
        name: which.
        fitted: the fit split's states.
        states: of the prompts, at the same layer, shape (prompt, d_model).
        p_refuse: P(refuse) at the first answer token, shape (prompt,).
        refused: whether each prompt was refused.
        benign: which prompts deserve an answer.
    """
    score = DISTANCES[name](fitted, states, p_refuse)
    fit = calibrate(score, refused, benign)
    return fit.distance(score), fit


def compare(
    fitted: Fitted, states: torch.Tensor, p_refuse: Array, refused: Any, benign: Any, alpha: Array
) -> list[dict[str, Any]]:
    """Compare all distances on the same prompts with the causal flip.

    `alpha` may be infinite (nothing on the grid flipped): such prompts count as farther than all others, tied.

    Returns:
        one row for each distance: Spearman of |d| and alpha* over all prompts and over refused benign ones alone,
        AUROC of d for refusal among benign prompts, and why it is unusable, if it is.
    """
    finite = alpha[np.isfinite(alpha)]
    ranked = np.where(np.isfinite(alpha), alpha, (finite.max() if len(finite) else 1.0) * 2)
    rows = []
    for name in DISTANCES:
        d, fit = distance(name, fitted, states, p_refuse, refused, benign)
        own = refused & benign
        known = bool(np.isfinite(d).all())
        rows.append(
            {
                "distance": name,
                "spearman": stats.spearman(np.abs(d), ranked) if known else None,
                "spearman_refused_benign": stats.spearman(d[own], ranked[own]) if known and own.sum() > 2 else None,
                "auroc_benign": fit.auroc,
                "n": len(d),
                "n_refused_benign": int(own.sum()),
                "unusable": fit.unusable,
            }
        )
    return rows
