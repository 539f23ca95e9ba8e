"""The causal flip against steering each prompt alone; intervals against known values."""

import numpy as np
import pytest
import torch

from demur import stats
from demur.boundary import calibrate, group_weights, intervals, logistic_fits, reliability, weighted_auroc
from demur.causal import flips
from demur.decoding import first_token_logits
from demur.directions import Direction
from demur.errors import ConfigError
from demur.interventions.steer import Steer
from demur.lm import attach
from demur.readout import Openers, p_refuse
from demur.types import Prompt
from tests.models import families

pytestmark = pytest.mark.torch
GRID = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def prompts(count):
    return [
        Prompt(id=str(i), text="abc " * (1 + i % 4) + chr(97 + i), expected="comply", source="t") for i in range(count)
    ]


def setting(lm, seed=0):
    torch.manual_seed(seed)
    asked = prompts(9)
    p = torch.softmax(first_token_logits(lm, asked), -1).mean(0)
    order = torch.argsort(p, descending=True)[::2]
    rest = torch.argsort(p, descending=True)[1::2]
    ids = order if p[order].sum() < 0.5 else rest
    short = rest if ids is order else order
    count = int((p[ids].sum() + p[short].cumsum(0) < 0.5).sum())
    ids = torch.cat([ids, short[:count]])
    return asked, Openers(ids=tuple(int(i) for i in ids), agreement=1.0, n=1), torch.randn(lm.d_model) * 3


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("attached", [False, True])
def test_the_flip_grid_gives_what_steering_one_by_one_gives(layer, attached):
    lm = families.lm("llama")
    asked, openers, v = setting(lm)
    other = Direction(vectors=torch.randn(1, lm.d_model), layers=(1,), model=lm.ref, estimator="x")
    with attach(lm, *([Steer(direction=other, strength=0.3)] if attached else [])):
        (found,) = flips(lm, asked, v, openers, layer=layer, grid=GRID, batch_tokens=150)
    assert np.isfinite(found.alpha).any()
    base = [Steer(direction=other, strength=0.3)] if attached else []
    for i, prompt in enumerate(asked):
        refused, expected = found.start[i] > 0.5, np.inf
        for alpha in GRID:
            direction = Direction(vectors=v[None], layers=(layer,), model=lm.ref, estimator="x")
            step = Steer(direction=direction, strength=-alpha if refused else alpha)
            with attach(lm, *base, step):
                p = float(p_refuse(first_token_logits(lm, [prompt]), openers))
            if (p > 0.5) != refused:
                expected = alpha
                break
        assert found.alpha[i] == expected


def test_several_vectors_share_batches_and_each_gives_what_it_gives_alone():
    lm = families.lm("llama")
    asked, openers, v = setting(lm)
    both = flips(lm, asked, [v, -v], openers, layer=0, grid=GRID)
    for vector, found in zip((v, -v), both, strict=True):
        np.testing.assert_array_equal(found.alpha, flips(lm, asked, vector, openers, layer=0, grid=GRID)[0].alpha)


@pytest.mark.parametrize("grid", [(), (0.0, 1.0), (1.0, 0.5)])
def test_a_grid_must_ascend_from_above_0(grid):
    lm = families.lm("llama")
    with pytest.raises(ConfigError, match="grid"):
        flips(lm, prompts(1), torch.zeros(lm.d_model), Openers(ids=(1,), agreement=1.0, n=1), layer=0, grid=grid)


def planted(n, rng, w=6.0, t_star=0.4):
    t = rng.uniform(-1, 2, n)
    return t, rng.random(n) < 1 / (1 + np.exp(-w * (t - t_star)))


def test_the_fast_fits_are_those_of_scikit_learn():
    t, refused = planted(400, np.random.default_rng(0))
    w, t_star = logistic_fits(t, refused, np.ones((1, 400)))
    fit = calibrate(t, refused, np.ones(400, dtype=bool))
    assert w[0] == pytest.approx(fit.w, rel=1e-2)
    assert t_star[0] == pytest.approx(fit.t_star, abs=1e-3)


def test_separated_classes_give_a_steep_fit_and_no_warning():
    t = np.linspace(0, 1, 50)
    w, t_star = logistic_fits(t, t > 0.6, np.ones((1, 50)))
    assert w[0] > 20
    assert t_star[0] == pytest.approx(0.6, abs=0.03)


def test_weighted_auroc_counts_ties_half_and_repeats_rows():
    score, label = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])
    weights = np.array([[1, 1, 1, 1], [2, 1, 3, 1], [1, 1, 0, 0]], dtype=float)
    found = weighted_auroc(score, label, weights)
    rows = np.repeat(np.arange(4), [2, 1, 3, 1])
    assert found[0] == pytest.approx(stats.auroc(score, label))
    assert found[1] == pytest.approx(stats.auroc(score[rows], label[rows]))
    assert np.isnan(found[2])


def test_intervals_hold_the_planted_values_about_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    for _ in range(60):
        t, refused = planted(200, rng)
        found = intervals(t, refused, np.ones(200, dtype=bool), list(range(200)), n_boot=200)
        held += found.t_star is not None and found.t_star.low <= 0.4 <= found.t_star.high
    assert 50 <= held <= 60


def test_groups_are_drawn_whole():
    weights = group_weights(["a", "a", "b"], 50)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()


def test_reliability_lies_on_the_diagonal_where_the_model_holds():
    t, refused = planted(20_000, np.random.default_rng(2))
    fit = calibrate(t, refused, np.ones(len(t), dtype=bool))
    for point in reliability(t, refused, fit):
        assert point["refused"] == pytest.approx(point["predicted"], abs=0.03)
