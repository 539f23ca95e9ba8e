"""What every finding is held against: random directions of equal norm, and resampled groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from demur import stats
from demur.boundary import Array, Axis, group_weights, weighted_auroc

RANDOM_DIRECTIONS = 20
N_BOOT = 300


def random_axes(axis: Axis, n: int = RANDOM_DIRECTIONS, *, seed: int = 0) -> list[Axis]:
    """Return axes from the same harmless mean along random directions of the same norm.

    Args:
        axis: the fitted one.
        n: how many.
        seed: the same seed gives the same directions.
    """
    made = []
    for index in range(n):
        draws = torch.Generator().manual_seed(seed * 100_003 + index)
        noise = torch.randn(axis.v.shape, generator=draws, dtype=torch.float64)
        made.append(Axis(mu_minus=axis.mu_minus, v=noise / noise.norm() * axis.v.norm()))
    return made


def area(
    score: Array, positive: npt.NDArray[np.bool_], negative: npt.NDArray[np.bool_], groups: Sequence[str], seed: int
) -> dict[str, float | None]:
    """Return the AUROC of `positive` over `negative` prompts with a 95 % interval that resamples groups.

    Args:
        score: shape (prompt,).
        positive: which prompts should score higher, shape (prompt,).
        negative: which should score lower; a prompt may be in neither.
        groups: shape (prompt,).
        seed: of the resampling.
    """
    if not positive.any() or not negative.any():
        return {"value": None, "low": None, "high": None}
    used = positive | negative
    weights = group_weights([g for g, own in zip(groups, used, strict=True) if own], N_BOOT, seed)
    drawn = weighted_auroc(score[used], positive[used], weights)
    return {"value": stats.auroc(score[used], positive[used]), **ends(drawn)}


def either_way(score: Array, positive: npt.NDArray[np.bool_], negative: npt.NDArray[np.bool_]) -> float | None:
    """Return the AUROC along a direction that has no sign of its own: the better way round."""
    used = positive | negative
    found = stats.auroc(score[used], positive[used])
    return None if found is None else max(found, 1 - found)


def ends(drawn: Any) -> dict[str, float | None]:
    """Return the 95 % percentile interval of resampled values; None where under half of them are numbers."""
    values = np.asarray(drawn, dtype=np.float64)
    known = values[np.isfinite(values)]
    if not len(known) or 2 * len(known) < len(values):
        return {"low": None, "high": None}
    low, high = np.quantile(known, (0.025, 0.975)).tolist()
    return {"low": low, "high": high}


def share(flags: Any, groups: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Return a share with a 95 % interval that resamples groups, and n."""
    own = np.asarray(flags, dtype=np.float64)
    if not len(own):
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = stats.group_bootstrap(own, np.ones(len(own)), list(groups), n_boot=N_BOOT, seed=seed)
    return {"value": float(own.mean()), "low": low, "high": high, "n": len(own)}
