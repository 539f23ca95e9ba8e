"""Estimators find a planted direction, with its sign and its size; controls have its norm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from demur.directions import Direction, logistic, mean_difference, pca, random_like
from demur.errors import ConfigError, DataError
from demur.types import ModelRef

pytestmark = pytest.mark.torch

MODEL = ModelRef(id="planted")
WIDTH = 24


def planted(gap: float = 3.0, n: int = 400, *, loud: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Refused and complied states that differ along a known unit vector per layer, in anisotropic noise."""
    draws = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(2, WIDTH, generator=draws), dim=-1)
    noise = torch.randn(2 * n, 2, WIDTH, generator=draws)
    noise[:, :, 0] *= loud
    return noise[:n] + gap * axis + 5, noise[n:] + 5, axis


def cosine(direction: Direction, axis: torch.Tensor) -> list[float]:
    return torch.nn.functional.cosine_similarity(direction.vectors, axis, dim=-1).tolist()


@pytest.mark.parametrize("estimator", [mean_difference, pca, logistic])
def test_a_planted_direction_is_found_with_its_sign_and_size(estimator: Callable[..., Direction]) -> None:
    refused, complied, axis = planted(6.0)
    found = estimator(refused, complied, layers=(3, 5), model=MODEL, data_sha="ab")
    assert min(cosine(found, axis)) > 0.97
    assert found.vectors.norm(dim=-1).tolist() == pytest.approx([6.0, 6.0], rel=0.05)
    flipped = estimator(complied, refused, layers=(3, 5), model=MODEL)
    torch.testing.assert_close(flipped.vectors, -found.vectors, rtol=1e-3, atol=1e-3)
    assert (found.layers, found.data_sha, found.estimator) == ((3, 5), "ab", estimator.__name__)


def test_the_logistic_normal_ignores_loud_coordinates_that_mean_nothing() -> None:
    refused, complied, axis = planted(2.0, loud=30.0)
    axis[:, 0] = 0
    strict = cosine(logistic(refused, complied, layers=(0, 1), model=MODEL), axis)
    loose = cosine(mean_difference(refused, complied, layers=(0, 1), model=MODEL), axis)
    principal = cosine(pca(refused, complied, layers=(0, 1), model=MODEL), axis)
    assert min(strict) > 0.9
    assert min(strict) > max(principal)
    assert min(strict) > min(loose)


def test_mean_difference_is_the_difference_of_means() -> None:
    refused = torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]]])
    complied = torch.tensor([[[0.0, 1.0]]])
    found = mean_difference(refused, complied, layers=(0,), model=MODEL)
    assert found.vectors.tolist() == [[2.0, 3.0]]
    assert found.stats["refused"] == 2
    assert found.stats["norms"] == pytest.approx([13**0.5])


def test_sums_are_exact_enough_far_from_the_origin() -> None:
    refused = torch.full((10_000, 1, 1), 1000.125)
    complied = torch.full((10_000, 1, 1), 1000.0)
    assert mean_difference(refused, complied, layers=(0,), model=MODEL).vectors.item() == 0.125


def test_random_controls_have_the_norm_and_nothing_else() -> None:
    refused, complied, _ = planted()
    found = mean_difference(refused, complied, layers=(0, 1), model=MODEL)
    controls = random_like(found, 20, seed=1)
    norms = torch.stack([c.vectors.norm(dim=-1) for c in controls])
    torch.testing.assert_close(norms, found.vectors.norm(dim=-1).expand(20, 2))
    cosines = [cosine(c, found.vectors)[0] for c in controls]
    assert max(map(abs, cosines)) < 0.7
    assert len({round(c, 6) for c in cosines}) == 20
    again = random_like(found, 20, seed=1)
    assert all(torch.equal(a.vectors, b.vectors) for a, b in zip(controls, again, strict=True))
    assert not torch.equal(random_like(found, 1, seed=2)[0].vectors, controls[0].vectors)


def test_one_layer_can_be_taken() -> None:
    refused, complied, _ = planted()
    found = mean_difference(refused, complied, layers=(3, 5), model=MODEL)
    assert found.at(5).layers == (5,)
    assert torch.equal(found.at(5).vectors[0], found.vectors[1])
    with pytest.raises(ConfigError, match="no layer 4; it was estimated at layers 3, 5"):
        found.at(4)


def test_a_saved_direction_comes_back_equal(tmp_path: Path) -> None:
    refused, complied, _ = planted()
    found = pca(refused, complied, layers=(3, 5), model=MODEL, data_sha="ab")
    found.save(tmp_path / "d")
    again = Direction.load(tmp_path / "d")
    assert torch.equal(again.vectors, found.vectors)
    assert again.record() == found.record()
    with pytest.raises(DataError):
        Direction.load(tmp_path)


@pytest.mark.parametrize(
    ("refused", "complied", "message"),
    [
        (torch.ones(0, 1, 2), torch.ones(3, 1, 2), "0 refused and 3 complied"),
        (torch.ones(2, 1, 2), torch.ones(3, 1, 4), "states do not fit"),
        (torch.ones(2, 2), torch.ones(3, 2), "states do not fit"),
    ],
)
@pytest.mark.parametrize("estimator", [mean_difference, pca, logistic])
def test_what_does_not_fit_is_named(
    estimator: Callable[..., Direction], refused: torch.Tensor, complied: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        estimator(refused, complied, layers=(0,), model=MODEL)


@pytest.mark.parametrize(
    ("values", "error"),
    [({"layers": (0, 1)}, ConfigError), ({"vectors": torch.full((1, 2), torch.nan)}, DataError)],
)
def test_a_broken_direction_is_refused(values: dict[str, Any], error: type[Exception]) -> None:
    settings = {"vectors": torch.ones(1, 2), "layers": (0,), "model": MODEL, "estimator": "drawn"}
    with pytest.raises(error):
        Direction(**{**settings, **values})
