"""Weighted and ridge-shaped mean differences, against sums written out by hand in numpy."""

import numpy as np
import pytest
import torch

from demur.errors import ConfigError, DataError
from demur.mean_differences import ESTIMATORS, covariance, difference, mean, orthogonal, weights

pytestmark = pytest.mark.torch

DRAW = torch.Generator().manual_seed(0)
SPREAD = torch.tensor([1.0, 3.0, 0.3, 2.0])
REFUSED = torch.randn(9, 2, 4, generator=DRAW) * SPREAD + torch.tensor([1.0, 0.5, 0.2, 0.0])
ANSWERED = torch.randn(12, 2, 4, generator=DRAW) * SPREAD
HIGH = torch.rand(9, generator=DRAW).double()
LOW = -torch.rand(12, generator=DRAW).double()
WEIGHT = (weights(HIGH), weights(LOW))


def unit(x):
    return x / np.linalg.norm(x)


def by_hand(estimator, layer, *, ridge=1e-2, origin=None):
    """The definitions, one prompt at a time."""
    weighted = estimator.startswith("w")
    w = [max(abs(float(c)), 0.01) if weighted else 1.0 for c in HIGH]
    u = [max(abs(float(c)), 0.01) if weighted else 1.0 for c in LOW]
    high, low = REFUSED[:, layer].double().numpy(), ANSWERED[:, layer].double().numpy()
    top = sum(a * h for a, h in zip(w, high, strict=True)) / sum(w)
    bottom = sum(a * h for a, h in zip(u, low, strict=True)) / sum(u)
    if estimator == "md":
        return unit(top - bottom)
    if estimator == "wmd":
        return unit(unit(top - origin) - unit(bottom - origin))
    s = sum(a * np.outer(h - bottom, h - bottom) for a, h in zip(u, low, strict=True)) / sum(u)
    return unit(np.linalg.inv(s + ridge * np.eye(4)) @ (top - bottom))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_are_what_is_written_by_hand(estimator):
    origin = torch.tensor([[0.5, -1.0, 0.1, 2.0], [0.0, 1.0, 0.3, -1.0]])
    found = difference(REFUSED, ANSWERED, estimator, weight=WEIGHT, origin=origin)
    for layer in range(2):
        wanted = by_hand(estimator, layer, origin=origin[layer].double().numpy())
        np.testing.assert_allclose(found[layer].numpy(), wanted, atol=1e-10)


def test_a_huge_ridge_gives_the_weighted_difference_of_means():
    wanted = torch.nn.functional.normalize(mean(REFUSED, WEIGHT[0]) - mean(ANSWERED, WEIGHT[1]), dim=-1)
    torch.testing.assert_close(difference(REFUSED, ANSWERED, "wrmd", weight=WEIGHT, ridge=1e12), wanted)


def test_equal_weights_make_the_weighted_form_the_plain_one():
    equal = (torch.full((9,), 0.3), torch.full((12,), 0.7))
    plain = difference(REFUSED, ANSWERED, "rmd")
    torch.testing.assert_close(difference(REFUSED, ANSWERED, "wrmd", weight=equal), plain)
    torch.testing.assert_close(difference(REFUSED, ANSWERED, "wrmd"), plain)


def test_fewer_prompts_than_dimensions_stay_finite_and_the_order_does_not_matter():
    few = ANSWERED[:2]
    found = difference(REFUSED, few, "wrmd", weight=(WEIGHT[0], WEIGHT[1][:2]))
    assert bool(torch.isfinite(found).all())
    order = torch.tensor([3, 1, 8, 0, 2, 7, 6, 5, 4])
    swapped = difference(REFUSED[order], few.flip(0), "wrmd", weight=(WEIGHT[0][order], WEIGHT[1][:2].flip(0)))
    torch.testing.assert_close(found, swapped)
    assert bool(torch.isfinite(difference(REFUSED, ANSWERED[:1], "rmd", relative=True)).all())


def test_the_relative_ridge_does_not_know_the_scale_and_the_fixed_one_does():
    for relative, same in ((True, True), (False, False)):
        small, large = (
            difference(REFUSED * by, ANSWERED * by, "rmd", ridge=0.1, relative=relative) for by in (0.01, 100.0)
        )
        assert torch.allclose(small, large, atol=1e-8) is same
    trace = covariance(ANSWERED[:, 0]).trace() / 4
    fixed = difference(REFUSED[:, :1], ANSWERED[:, :1], "rmd", ridge=0.1 * float(trace))
    torch.testing.assert_close(difference(REFUSED[:, :1], ANSWERED[:, :1], "rmd", ridge=0.1, relative=True), fixed)


def test_orthogonal_takes_out_the_share_it_is_told():
    w, r = torch.tensor([3.0, 4.0, 1.0]), torch.tensor([0.0, 2.0, 0.0])
    assert orthogonal(w, r).tolist() == [3.0, 0.0, 1.0]
    assert orthogonal(w, r, 0.25).tolist() == [3.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: difference(REFUSED, ANSWERED, "pca"), "allowed: md, wmd, rmd, wrmd"),
        (lambda: difference(REFUSED, ANSWERED, "rmd", ridge=0.0), "above 0"),
        (lambda: mean(REFUSED[:0]), "got shape"),
        (lambda: mean(REFUSED, torch.zeros(9)), "not all 0"),
        (lambda: mean(REFUSED, torch.ones(3)), "weights for 9 prompts"),
    ],
)
def test_what_cannot_be_estimated_is_said(call, said):
    with pytest.raises((ConfigError, DataError), match=said):
        call()
