"""How much each harmful text is to be erased: the less, the more it is like benign prompts that the model refuses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float

Weights = Literal["olw1", "olw0", "none", "uniform", "shuffled", "inverted"]
LEAST = 0.1
"""The smallest weight, before all are divided by their mean."""


def olw0(
    harmful: Float[torch.Tensor, "text layer d_model"], pseudo: Float[torch.Tensor, "prompt layer d_model"]
) -> Float[torch.Tensor, " text"]:
    """Return w_i = 1 - mean_l cos(u_il, mean_j p_jl): the shortest formula that fits MOSR's abstract."""
    return 1 - F.cosine_similarity(harmful.float(), pseudo.float().mean(0)[None], dim=-1).mean(1)


def overlap(
    harmful: Float[torch.Tensor, "text layer d_model"],
    pseudo: Float[torch.Tensor, "prompt layer d_model"],
    benign: Float[torch.Tensor, "prompt layer d_model"],
    *,
    nearest: int = 10,
) -> Float[torch.Tensor, " text"]:
    """Return s_i = mean of the `nearest` largest over j of mean_l cos(u_il - mu_l, p_jl - mu_l).

    mu_l is half the mean of the benign and half that of the harmful states: without it all cosines bunch near 1.
    """
    mu = (benign.float().mean(0) + harmful.float().mean(0)) / 2
    u, p = (F.normalize(x.float() - mu, dim=-1) for x in (harmful, pseudo))
    s = torch.einsum("nkd,qkd->nq", u, p) / harmful.shape[1]
    return s.topk(min(nearest, s.shape[1]), dim=1).values.mean(1)


def olw1(
    s: Float[torch.Tensor, " text"], *, least: float = LEAST, invert: bool = False
) -> Float[torch.Tensor, " text"]:
    """Return w = least + (1 - least)(1 - s'), s' being s between its 5 % and its 95 % quantile, cut to [0, 1].

    Args:
        s: as `overlap` gives it.
        least: the smallest weight.
        invert: weigh the other way round, with s' in place of 1 - s'.
    """
    low, high = torch.quantile(s, torch.tensor([0.05, 0.95], dtype=s.dtype))
    place = ((s - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    weight: torch.Tensor = least + (1 - least) * (place if invert else 1 - place)
    return weight


def weights(
    rule: Weights,
    harmful: Float[torch.Tensor, "text layer d_model"],
    pseudo: Float[torch.Tensor, "prompt layer d_model"],
    benign: Float[torch.Tensor, "prompt layer d_model"],
    *,
    nearest: int = 10,
    seed: int = 0,
) -> list[float]:
    """Return the weight of each harmful text under a rule.

    `olw1`, and its controls `shuffled` and `inverted`, have mean 1, so that as much is erased as without weights;
    `uniform` gives every text the mean of `olw1` before that, `none` gives 1, `olw0` its formula.
    """
    if rule == "none":
        return [1.0] * len(harmful)
    if rule == "olw0":
        return _list(olw0(harmful, pseudo))
    raw = olw1(overlap(harmful, pseudo, benign, nearest=nearest), invert=rule == "inverted")
    if rule == "uniform":
        return [float(raw.mean())] * len(raw)
    made = _list(raw / raw.mean())
    return random.Random(seed).sample(made, len(made)) if rule == "shuffled" else made


def _list(values: torch.Tensor) -> list[float]:
    return [float(v) for v in values]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return least, mean, largest and standard deviation."""
    found = torch.tensor(values, dtype=torch.float64)
    spread = float(found.std(correction=0))
    return {"least": min(values), "mean": float(found.mean()), "largest": max(values), "deviation": spread}
