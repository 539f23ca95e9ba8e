"""Directions in the residual stream and their estimators: pure functions on tensors.

A direction points TOWARDS REFUSAL: mean(refused) - mean(complied). Less refusal is a negative coefficient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from demur.errors import ConfigError, DataError
from demur.files import read_json, write_json
from demur.plan import load_tensors, save_tensors
from demur.types import ModelRef, from_json, to_json

if TYPE_CHECKING:
    from jaxtyping import Float

DIRECTION, TENSORS = "direction.json", "direction.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Direction:
    """One vector per layer, pointing towards refusal."""

    vectors: Float[Tensor, "layer d_model"]
    """float32, one row for each of `layers`, in the units of the stream."""
    layers: tuple[int, ...]
    site: str = "resid_post"
    """The point of the block it was measured at."""
    position: str = "last_prompt"
    model: ModelRef
    estimator: str
    data_sha: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)
    """Counts, norms and what else the estimator tells."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.layers):
            raise ConfigError(
                f"a direction for {len(self.layers)} layers needs as many rows; got shape {tuple(self.vectors.shape)}"
            )
        if not bool(torch.isfinite(self.vectors).all()):
            raise DataError("a direction holds a number that is not finite")
        object.__setattr__(self, "vectors", self.vectors.detach().float().cpu())

    def at(self, layer: int) -> Direction:
        """Return the direction of one layer alone.

        Raises:
            ConfigError: when it was not estimated at that layer.
        """
        if layer not in self.layers:
            have = ", ".join(map(str, self.layers))
            raise ConfigError(f"the direction has no layer {layer}; it was estimated at layers {have}")
        index = self.layers.index(layer)
        return dataclasses.replace(self, vectors=self.vectors[index : index + 1], layers=(layer,))

    def record(self) -> dict[str, Any]:
        """Return everything but the vectors, as JSON values."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "vectors"]
        return {name: to_json(getattr(self, name)) for name in names}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], vectors: Tensor) -> Direction:
        """Build a direction from what `record` gave and its vectors."""
        rest = {k: v for k, v in record.items() if k not in ("model", "layers")}
        model = from_json(ModelRef, record["model"], where="direction")
        return cls(vectors=vectors, layers=tuple(record["layers"]), model=model, **rest)

    def save(self, folder: Path) -> None:
        """Write `direction.json` and `direction.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / TENSORS, {"vectors": self.vectors})
        write_json(folder / DIRECTION, self.record())

    @classmethod
    def load(cls, folder: Path) -> Direction:
        """Read what `save` wrote.

        Raises:
            DataError: for a missing or broken file.
        """
        return cls.of_record(read_json(folder / DIRECTION), load_tensors(folder / TENSORS)["vectors"])


def mean_difference(
    refused: Float[Tensor, "refused layer d_model"],
    complied: Float[Tensor, "complied layer d_model"],
    *,
    layers: Sequence[int],
    model: ModelRef,
    data_sha: str = "",
    site: str = "resid_post",
    position: str = "last_prompt",
) -> Direction:
    """Return mean(refused) - mean(complied) at each layer (Arditi et al., arXiv 2406.11717); sums in float64.

    Args:
        refused: states of refused prompts.
        complied: states of answered prompts.
        layers: the layers that the states were captured at.
        model: whose states they are.
        data_sha: fingerprint of the prompts.
        site: the point they were captured at.
        position: the position they were captured at.

    Raises:
        DataError: for an empty class or states that do not fit each other.
    """
    _check(refused, complied)
    vectors = (refused.double().mean(0) - complied.double().mean(0)).float()
    stats = {"refused": len(refused), "complied": len(complied), "norms": _norms(vectors)}
    return Direction(
        vectors=vectors,
        layers=tuple(layers),
        site=site,
        position=position,
        model=model,
        estimator="mean_difference",
        data_sha=data_sha,
        stats=stats,
    )


def pca(
    refused: Float[Tensor, "refused layer d_model"],
    complied: Float[Tensor, "complied layer d_model"],
    *,
    layers: Sequence[int],
    model: ModelRef,
    data_sha: str = "",
) -> Direction:
    """Return the first principal component of both classes together, pointing towards the refused mean.

    The component is scaled to the distance of the class means along it, so that a strength of 1 moves as far as
    with `mean_difference` where the two agree. The share of variance it explains is in `stats`.

    Raises:
        DataError: for an empty class or states that do not fit each other.
    """
    _check(refused, complied)
    both = torch.cat([refused, complied]).double().transpose(0, 1)
    centred = both - both.mean(1, keepdim=True)
    _, values, components = torch.linalg.svd(centred, full_matrices=False)
    axis = components[:, 0]
    gap = ((refused.double().mean(0) - complied.double().mean(0)) * axis).sum(-1, keepdim=True)
    share = values[:, 0].square() / values.square().sum(-1).clamp(min=1e-300)
    stats = {"refused": len(refused), "complied": len(complied), "explained": share.tolist()}
    vectors = (axis * gap).float()
    return Direction(
        vectors=vectors, layers=tuple(layers), model=model, estimator="pca", data_sha=data_sha, stats=stats
    )


def logistic(
    refused: Float[Tensor, "refused layer d_model"],
    complied: Float[Tensor, "complied layer d_model"],
    *,
    layers: Sequence[int],
    model: ModelRef,
    data_sha: str = "",
    c: float = 0.1,
) -> Direction:
    """Return the normal of a logistic regression of refused against complied, on standardised states.

    The normal is put back into the units of the stream and scaled to the distance of the class means along it.

    Args:
        refused: states of refused prompts.
        complied: states of answered prompts.
        layers: the layers that the states were captured at.
        model: whose states they are.
        data_sha: fingerprint of the prompts.
        c: inverse strength of the L2 penalty, as in scikit-learn.

    Raises:
        DataError: for an empty class or states that do not fit each other.
    """
    from sklearn.linear_model import LogisticRegression

    _check(refused, complied)
    labels = [1] * len(refused) + [0] * len(complied)
    rows, scores = [], []
    for index in range(refused.shape[1]):
        x = torch.cat([refused[:, index], complied[:, index]]).double()
        spread = x.std(0) + 1e-6
        scaled = ((x - x.mean(0)) / spread).numpy()
        probe = LogisticRegression(C=c, class_weight="balanced", max_iter=2000).fit(scaled, labels)
        normal = torch.nn.functional.normalize(torch.from_numpy(probe.coef_[0]).double() / spread, dim=0)
        gap = (refused[:, index].double().mean(0) - complied[:, index].double().mean(0)) @ normal
        rows.append((normal * gap.abs()).float())
        scores.append(float(probe.score(scaled, labels)))
    stats = {"refused": len(refused), "complied": len(complied), "accuracy": scores, "c": c}
    return Direction(
        vectors=torch.stack(rows),
        layers=tuple(layers),
        model=model,
        estimator="logistic",
        data_sha=data_sha,
        stats=stats,
    )


def random_like(direction: Direction, n: int, *, seed: int = 0) -> list[Direction]:
    """Return `n` random directions of the same norm at each layer: the control of every effect."""
    made = []
    for index in range(n):
        draws = torch.Generator().manual_seed(seed * 100_003 + index)
        noise = torch.randn(direction.vectors.shape, generator=draws, dtype=torch.float64)
        scale = direction.vectors.double().norm(dim=-1, keepdim=True)
        vectors = (torch.nn.functional.normalize(noise, dim=-1) * scale).float()
        made.append(
            dataclasses.replace(direction, vectors=vectors, estimator="random", stats={"seed": seed, "draw": index})
        )
    return made


def _check(refused: Tensor, complied: Tensor) -> None:
    if refused.ndim != 3 or refused.shape[1:] != complied.shape[1:]:
        raise DataError(
            f"states do not fit: {tuple(refused.shape)} and {tuple(complied.shape)}; "
            "both must be (prompt, layer, d_model)"
        )
    if not len(refused) or not len(complied):
        raise DataError(f"{len(refused)} refused and {len(complied)} complied prompts; both classes are needed")


def _norms(vectors: Tensor) -> list[float]:
    return [float(n) for n in vectors.double().norm(dim=-1)]
