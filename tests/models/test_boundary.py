"""The coordinate, its calibration and the readout, against values known by hand or planted."""

import math

import numpy as np
import pytest
import torch

from demur.boundary import Axis, calibrate
from demur.errors import DataError
from demur.readout import Openers, find_openers, p_refuse
from demur.types import Response, Verdict
from tests.models import families

pytestmark = pytest.mark.torch


def test_coordinate_is_0_and_1_at_the_means_and_linear_between():
    harmless = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    harmful = torch.tensor([[3.0, 5.0], [3.0, 3.0]])
    axis = Axis.between(harmful, harmless)
    points = torch.tensor([[1.0, 1.0], [3.0, 4.0], [2.0, 2.5], [-1.0, -2.0]])
    assert axis.coordinate(points) == pytest.approx([0.0, 1.0, 0.5, -1.0])


def test_coordinate_is_0_where_the_means_coincide():
    same = torch.ones(3, 2)
    assert Axis.between(same, same).coordinate(torch.randn(4, 2)) == pytest.approx([0.0] * 4)


def test_calibration_recovers_a_planted_boundary():
    rng = np.random.default_rng(0)
    t = rng.uniform(-1, 2, 20_000)
    refused = rng.random(len(t)) < 1 / (1 + np.exp(-6.0 * (t - 0.4)))
    fit = calibrate(t, refused, np.ones(len(t), dtype=bool))
    assert fit.t_star == pytest.approx(0.4, abs=0.02)
    assert fit.w == pytest.approx(6.0, rel=0.05)
    assert fit.tau == pytest.approx(math.log(9) / fit.w)
    assert fit.distance(np.array([fit.t_star + fit.tau])) == pytest.approx([1.0])
    assert fit.unusable == ""


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        (lambda t: t < 0, "does not rise"),
        (lambda t: t > -10, "every prompt was refused"),
        (lambda t: t > 10, "no prompt was refused"),
    ],
)
def test_an_unusable_axis_says_why(refused, says):
    t = np.linspace(-1, 1, 200)
    assert says in calibrate(t, refused(t), np.ones(200, dtype=bool)).unusable


def test_an_axis_that_tells_only_harmful_prompts_apart_is_unusable():
    rng = np.random.default_rng(1)
    t = np.r_[rng.normal(0, 0.1, 500), rng.normal(1, 0.1, 500)]
    refused = np.r_[rng.random(500) < 0.5, np.ones(500, dtype=bool)]
    benign = np.arange(1000) < 500
    assert "AUROC on benign prompts" in calibrate(t, refused, benign).unusable


def answers(lm, *texts_and_labels):
    responses, verdicts = [], []
    for i, (text, label) in enumerate(texts_and_labels):
        responses.append(Response(prompt_id=str(i), text=text, finish="stop"))
        verdicts.append(Verdict(prompt_id=str(i), judge="j", question="refusal", label=label))
    return find_openers(lm, responses, verdicts)


def test_openers_are_found_on_the_models_own_answers():
    lm = families.lm("llama")
    found = answers(lm, ("No.", "refusal"), ("No way", "refusal"), ("Yes", "compliance"), ("Now", "compliance"))
    assert found.ids == (lm.tokenizer("N", add_special_tokens=False)["input_ids"][0],)
    assert found.n == 4
    assert found.agreement == pytest.approx(0.75)


def test_openers_need_both_kinds_of_answer():
    with pytest.raises(DataError, match="0 refusals and 1 other"):
        answers(families.lm("llama"), ("Yes", "compliance"))


def test_p_refuse_is_the_probability_mass_of_the_openers():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]))
    mass = p_refuse(logits, Openers(ids=(0, 2), agreement=1.0, n=1))
    torch.testing.assert_close(mass, torch.tensor([0.4, 0.8]))
