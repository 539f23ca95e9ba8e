"""Steer along a learned mix of refusal directions of several categories, towards or away as a probe says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from demur.directions import Direction
from demur.errors import ConfigError, DataError
from demur.interventions.gated import Gated
from demur.interventions.steer import Steer
from demur.methods._choice import choose
from demur.methods._contrast import GROUPS, Contrast, Positions
from demur.types import FitData

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

EXTRA = "local"
SPACE = {
    "layer": "layer",
    "rank": [1, 2, 4],
    "quantiles": (0.0005, 0.03, "log"),
    "towards": [False, True],
    "strengths": [1.0],
    "scale": (0.25, 1.5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryDirections:
    """Category-wise refusal directions with a learned mix and a gate, after Alagharu et al. (arXiv 2603.13359).

    Each category of refused prompts has a direction, its mean less that of answered plain prompts. In the whitened
    stream these span a space; `rank` orthonormal axes of it are mixed by learned coefficients to one vector. A probe
    of the same states says where to: prompts that it calls harmful go towards refusal, all others away from it.

    From the paper's abstract, which is all that we follow: directions by category, a whitened and orthonormal basis of
    low rank, a learned mix, and a light probe for the sign. Ours is everything else: categories of the prompts (the
    paper: those of a model that was trained to write a token for each); whitening by the covariance within groups,
    shrunk; axes by the singular values of the unit directions; coefficients by logistic regression of refused
    borderline against answered prompts; the vector scaled so that a strength of 1 moves as far along the mix as the
    two means are apart; the probe and its threshold, as in `gated_steering`; one layer, the last prompt token.
    Strength and threshold are chosen on the dev split under the floor.
    """

    layer: int = 2
    """The block after which it reads and acts."""
    rank: int = 4
    """Axes of the basis, at most; never more than categories."""
    least: int = 8
    """Refused prompts that a category needs to have a direction."""
    shrinkage: float = 0.1
    """Share of the covariance that is replaced by its mean variance."""
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5)
    """To choose from."""
    quantiles: tuple[float, ...] = (0.005, 0.02)
    """Shares of unseen harmful prompts on the benign side of the gate, to choose from."""
    towards: bool = True
    """Whether harmful prompts are steered towards refusal; else they are left as they are."""
    positions: Positions = "last_prompt"
    """Every token, or the last of the prompt alone."""
    max_new_tokens: int = 512
    """Longest answer while choosing."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.shrinkage <= 1 or not self.strengths or not self.quantiles:
            raise ConfigError(
                f"category_directions: rank is {self.rank} (1 or more), shrinkage {self.shrinkage} (0 to 1), and "
                "strengths and quantiles need one value or more"
            )

    def fit(self, lm: LM, data: FitData) -> Gated:
        """Fit directions, mix and probe on the `fit` split; choose strength and threshold on `dev`.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when a group of prompts is missing, or no category has prompts enough.
        """
        contrast = Contrast.of(lm, data, layers=(self.layer,))
        direction = self.direction(contrast, _categories(data))
        tried = {}
        for quantile in self.quantiles:
            gate = contrast.gate(self.layer, quantile)
            for strength in self.strengths:
                inner = Steer(direction=direction, strength=-strength, positions=self.positions)
                if self.towards:
                    inner = replace(inner, strength=strength)
                made = Gated(inner=inner, gate=replace(gate, rule="sign") if self.towards else gate)
                tried[f"quantile {quantile:g}, strength {strength:g}"] = made
        return choose(lm, data, tried, max_new_tokens=self.max_new_tokens)

    def direction(self, contrast: Contrast, categories: Sequence[str]) -> Direction:
        """Return the mixed direction, pointing towards refusal.

        Args:
            contrast: states of the groups at the layer.
            categories: that of each refused harmful prompt, then of each refused borderline one.
        """
        borderline, answered = contrast.at(self.layer, "refused_borderline"), contrast.at(self.layer, "answered_plain")
        if len(contrast.states.get(("answered_borderline", "fit"), ())) >= 2:
            answered = torch.cat([answered, contrast.at(self.layer, "answered_borderline")])
        refused = contrast.at(self.layer, "refused_harmful", "refused_borderline")
        rows, used = by_category(refused, contrast.at(self.layer, "answered_plain"), categories, self.least)
        vector, weights = mixed(rows, borderline, answered, rank=self.rank, shrinkage=self.shrinkage)
        return Direction(
            vectors=vector[None].float(),
            layers=(self.layer,),
            model=contrast.lm.ref,
            estimator="category_mix",
            data_sha=contrast.data_sha,
            stats={"categories": used, "weights": weights.tolist()},
        )


def _categories(data: FitData) -> list[str]:
    """Return the categories of the refused prompts in the order in which `Contrast` holds them."""
    groups = [GROUPS["refused_harmful"], GROUPS["refused_borderline"]]
    rows = [
        e.prompt
        for kind, label in groups
        for e in data.examples
        if e.split == "fit" and (e.prompt.kind, e.label) == (kind, label)
    ]
    return [p.get("category") or p.category for p in rows]  # an attacked prompt keeps its own in its meta


def by_category(
    refused: Float[Tensor, "refused d_model"],
    answered: Float[Tensor, "answered d_model"],
    categories: Sequence[str],
    least: int,
) -> tuple[Float[Tensor, "category d_model"], list[str]]:
    """Return mean(refused in the category) - mean(answered) of each category with at least `least` prompts.

    Raises:
        DataError: where there is none.
    """
    counts = Counter(categories)
    used = sorted(c for c, n in counts.items() if n >= least)
    if not used:
        have = ", ".join(f"{c or 'no category'}: {n}" for c, n in counts.most_common(8))
        raise DataError(f"category_directions: no category has {least} refused prompts; there are {have}. Lower least")
    middle = answered.double().mean(0)
    rows = [refused.double()[[own == c for own in categories]].mean(0) - middle for c in used]
    return torch.stack(rows), used


def mixed(
    rows: Float[Tensor, "category d_model"],
    refused: Float[Tensor, "refused d_model"],
    answered: Float[Tensor, "answered d_model"],
    *,
    rank: int,
    shrinkage: float,
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " axis"]]:
    """Return the learned mix of directions in the units of the stream, and its coefficients on the axes.

    With S the shrunk covariance within the two groups and U the first `rank` left-singular vectors of the unit columns
    S^(-1/2) r_c, a is the unit normal of a logistic regression of refused against answered on U^T S^(-1/2) h. The mix
    is g S^(1/2) U a, with g the distance of the two means along a.
    """
    groups = [x.double() for x in (refused, answered)]
    root, inverse = _roots(torch.cat([x - x.mean(0) for x in groups]), shrinkage)
    columns = torch.nn.functional.normalize(rows.double() @ inverse, dim=1).T
    basis, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    basis = basis[:, : min(rank, int((sizes > 1e-9 * sizes[0]).sum()))]
    z = [x @ inverse @ basis for x in groups]
    labels = np.r_[np.ones(len(refused)), np.zeros(len(answered))]
    probe = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000).fit(torch.cat(z).numpy(), labels)
    a = torch.nn.functional.normalize(torch.from_numpy(probe.coef_[0]).double(), dim=0)
    gap = (z[0].mean(0) - z[1].mean(0)) @ a
    return gap * (root @ (basis @ a)), a


def _roots(centred: Float[Tensor, "prompt d_model"], shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return the square root of the shrunk covariance, and its inverse."""
    size = centred.shape[1]
    covariance = centred.T @ centred / len(centred)
    mean = covariance.trace() / size
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean * torch.eye(size, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(shrunk)
    values = values.clamp(min=1e-9 * float(values[-1]))
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
