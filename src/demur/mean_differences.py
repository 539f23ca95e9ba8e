"""Differences between the means of refused and answered prompts: plain, weighted, and shaped by a ridge covariance.

Pure functions on tensors, in float64. States are (prompt, layer, d_model); every layer is treated by itself. The four
estimators are those of Refusal Steering (arXiv 2512.16602); `orthogonal` is that of Surgical (arXiv 2410.03415).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from demur.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jaxtyping import Float

Estimator = Literal["md", "wmd", "rmd", "wrmd"]
ESTIMATORS = ("md", "wmd", "rmd", "wrmd")
LEAST_WEIGHT = 0.01
"""No prompt weighs less than this."""


def weights(scores: Float[Tensor, " prompt"]) -> Float[Tensor, " prompt"]:
    """Return a weight for each prompt from its refusal score in [-1, 1]: |c|, at least 0.01."""
    return scores.double().abs().clamp(min=LEAST_WEIGHT)


def mean(
    states: Float[Tensor, "prompt layer d_model"], weight: Float[Tensor, " prompt"] | None = None
) -> Float[Tensor, "layer d_model"]:
    """Return the mean of the states, weighted where weights are given.

    Raises:
        DataError: without prompts, or for weights that are not one per prompt, are negative, or are all 0.
    """
    if states.ndim != 3 or not len(states):
        raise DataError(f"a mean needs states of (prompt, layer, d_model); got shape {tuple(states.shape)}")
    given = torch.ones(len(states), dtype=torch.float64) if weight is None else weight.double()
    if given.shape != (len(states),) or bool((given < 0).any()) or not float(given.sum()) > 0:
        raise DataError(
            f"{tuple(given.shape)} weights for {len(states)} prompts: one each, none below 0 and not all 0, are needed"
        )
    return torch.einsum("p,pld->ld", given / given.sum(), states.double())


def difference(
    refused: Float[Tensor, "refused layer d_model"],
    answered: Float[Tensor, "answered layer d_model"],
    estimator: Estimator = "md",
    *,
    weight: tuple[Float[Tensor, " refused"], Float[Tensor, " answered"]] | None = None,
    origin: Float[Tensor, "layer d_model"] | None = None,
    ridge: float = 1e-2,
    relative: bool = False,
) -> Float[Tensor, "layer d_model"]:
    """Return a unit vector per layer that points from answered to refused prompts.

    With P the refused, N the answered, m their (weighted) means and S the (weighted) covariance of N:

    | estimator | before it is scaled to length 1 |
    |---|---|
    | `md` | m_P - m_N |
    | `wmd` | u(m_P - o) - u(m_N - o), u(x) = x / |x|, weighted |
    | `rmd` | (S + ridge I)^-1 (m_P - m_N) |
    | `wrmd` | the same, weighted |

    The origin o cancels in all but `wmd`. The ridge of the paper is 0.01 whatever the scale of the states; with
    `relative` it is `ridge` times the mean variance tr(S) / d_model, so that scaling the states changes nothing.

    Args:
        refused: states of refused prompts.
        answered: states of answered prompts.
        estimator: one of `ESTIMATORS`.
        weight: weights of the two, for `wmd` and `wrmd`; equal by default.
        origin: o of `wmd`; zero by default.
        ridge: what is added to the diagonal.
        relative: whether the ridge is a share of the mean variance.

    Raises:
        ConfigError: for an unknown estimator, or a ridge that is not above 0.
        DataError: for states or weights that do not fit.
    """
    if estimator not in ESTIMATORS:
        raise ConfigError(f"estimator {estimator!r} is not understood; allowed: {', '.join(ESTIMATORS)}")
    if estimator in ("rmd", "wrmd") and not ridge > 0:
        raise ConfigError(f"ridge is {ridge}; it must be above 0, else the covariance may have no inverse")
    own, other = weight if weight is not None and estimator in ("wmd", "wrmd") else (None, None)
    high, low = mean(refused, own), mean(answered, other)
    if estimator == "md":
        return _unit(high - low)
    if estimator == "wmd":
        start = torch.zeros_like(high) if origin is None else origin.double()
        return _unit(_unit(high - start) - _unit(low - start))
    return _unit(
        torch.stack([_ridged(high[i] - low[i], answered[:, i], other, ridge, relative) for i in range(len(high))])
    )


def orthogonal(
    vectors: Float[Tensor, "... d_model"], to: Float[Tensor, "... d_model"], share: float = 1.0
) -> Float[Tensor, "... d_model"]:
    """Return w - share <w, r> r / |r|^2: `vectors` without (that share of) what they have along `to`."""
    w, r = vectors.double(), to.double()
    along = (w * r).sum(-1, keepdim=True) / r.square().sum(-1, keepdim=True).clamp(min=1e-300)
    return w - share * along * r


def covariance(
    states: Float[Tensor, "prompt d_model"], weight: Float[Tensor, " prompt"] | None = None
) -> Float[Tensor, "d_model d_model"]:
    """Return sum_i w_i (h_i - m)(h_i - m)^T / sum_i w_i with m the weighted mean, in float64."""
    given = torch.ones(len(states), dtype=torch.float64) if weight is None else weight.double()
    share = given / given.sum()
    wide = states.double()
    centred = wide - share @ wide
    return (centred * share[:, None]).T @ centred


def _ridged(gap: Tensor, answered: Tensor, weight: Tensor | None, ridge: float, relative: bool) -> Tensor:
    spread = covariance(answered, weight)
    scale = float(spread.diagonal().mean()) if relative else 1.0
    if scale == 0:  # the answered prompts have one state: every ridge gives the plain difference
        return gap
    solved: torch.Tensor = torch.linalg.solve(spread + ridge * scale * torch.eye(len(gap), dtype=torch.float64), gap)
    return solved


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1, eps=1e-300)
