"""Losses on representations: against hand-computed figures and against the formulas, written with loops."""

from __future__ import annotations

import math

import pytest
import torch

from demur import losses

pytestmark = pytest.mark.torch
ONES = torch.ones(1, 2)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rerouting_is_the_mean_positive_cosine_of_the_masked_tokens() -> None:
    before = torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]]]])
    now = torch.tensor([[[[1.0, 1.0], [-1.0, 0.0], [3.0, 4.0]]]])
    assert losses.rerouting(now, before, torch.ones(1, 3)).item() == pytest.approx((math.sqrt(0.5) + 0 + 1) / 3)
    assert losses.rerouting(now, before, torch.tensor([[1, 1, 0]])).item() == pytest.approx(math.sqrt(0.5) / 2)
    assert losses.rerouting(before, before, torch.ones(1, 3)).item() == pytest.approx(1.0)
    assert losses.rerouting(now, before, torch.zeros(1, 3)).item() == 0


def test_drift_is_the_mean_distance_and_has_no_gradient_where_nothing_changed() -> None:
    before = torch.zeros(2, 1, 2, 2)
    now = before.clone()
    now[0, 0, 0] = torch.tensor([3.0, 4.0])
    assert losses.drift(now, before, ONES).item() == pytest.approx(5 / 4)
    same = before.clone().requires_grad_()
    found = losses.drift(same, before, ONES)
    found.sum().backward()
    assert found.item() == 0
    assert same.grad is not None
    assert torch.equal(same.grad, before)


def test_a_distance_can_be_relative_to_the_length_of_the_state_and_squared() -> None:
    before = torch.tensor([[[[6.0, 8.0], [0.0, 2.0]]]])
    now = torch.tensor([[[[9.0, 12.0], [0.0, 2.0]]]], requires_grad=True)
    assert losses.drift(now, before, ONES).item() == pytest.approx(5 / 2)
    assert losses.drift(now, before, ONES, distance="relative").item() == pytest.approx(0.5 / 2)
    found = losses.drift(now, before, ONES, distance="squared")
    assert found.item() == pytest.approx(0.25 / 2)
    found.sum().backward()
    assert now.grad is not None
    assert now.grad[0, 0].tolist() == [pytest.approx([0.03, 0.04]), [0, 0]]  # (h - h') / ||h'||^2; 0 where it is kept
    longer = losses.drift(7 * now, 7 * before, ONES, distance="squared")
    assert longer.item() == pytest.approx(found.item())


def test_rows_that_are_given_the_mean_count_average_to_the_mean_over_tokens() -> None:
    now, before = draw(2, 3, 5, 4), draw(2, 3, 5, 4, seed=1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]]).float()
    tokens = torch.full((3,), 10 / 3)
    values = torch.cosine_similarity(now, before, dim=-1).relu()
    wanted = (values * mask).sum() / (2 * mask.sum())
    assert losses.rerouting(now, before, mask, tokens=tokens).mean().item() == pytest.approx(wanted.item())


def test_away_uses_the_target_as_it_is() -> None:
    now = torch.tensor([[[[2.0, 0.0], [0.0, 5.0]]]])
    target = torch.tensor([[[0.5, -0.5]]])
    assert losses.away(now, target, ONES).item() == pytest.approx(0.25)


def test_spread_is_the_mean_distance_in_angle_to_the_other_rows() -> None:
    states = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]])
    assert losses.spread(states).tolist() == pytest.approx([1.5, 1.0, 1.5])
    assert losses.spread(states[:, :1]).tolist() == [0]


def test_actors_target_moves_the_component_along_the_direction() -> None:
    states, direction = torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([2.0, 0.0])
    target = losses.shifted(states, direction, torch.tensor([0.5, -0.5]))
    assert target.tolist() == [[4.5, 4.0], [1.5, 4.0]]
    wanted = 1 - (13.5 + 16) / (5 * math.hypot(4.5, 4.0))
    assert losses.apart(states, target)[0].item() == pytest.approx(wanted, abs=1e-6)


def test_kl_is_summed_over_tokens_and_scaled_by_the_square_of_the_temperature() -> None:
    now = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]]])
    before = torch.tensor([[[2 * math.log(3.0), 0.0], [0.0, 0.0], [0.0, 0.0]]])
    one = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = losses.kl(now, before, torch.tensor([[1.0, 1.0, 0.0]]), temperature=2.0)
    assert found.item() == pytest.approx(4 * one, rel=1e-5)


def circle_by_loops(states: torch.Tensor, labels: list[int], m: float, gamma: float) -> list[float]:
    made = []
    for i, anchor in enumerate(states):
        pull = push = 0.0
        for j, other in enumerate(states):
            s = float(torch.cosine_similarity(anchor.double(), other.double(), dim=0))
            if j != i and labels[i] == labels[j]:
                pull += math.exp(-gamma * max(0.0, 1 + m - s) * (s - (1 - m)))
            elif labels[i] != labels[j]:
                push += math.exp(gamma * max(0.0, s + m) * (s - m))
        made.append(math.log(1 + pull * push))
    return made


@pytest.mark.parametrize(("m", "gamma"), [(0.25, 64.0), (0.4, 80.0), (0.25, 2.0)])
def test_circle_is_its_formula(m: float, gamma: float) -> None:
    states, labels = draw(9, 6), [0, 0, 1, 1, 2, 2, 0, 1, 2]
    found = losses.circle(states, torch.tensor(labels), margin=m, gamma=gamma)
    assert found.tolist() == pytest.approx(circle_by_loops(states, labels, m, gamma), rel=1e-4)


def test_circle_is_0_at_its_optimum_and_where_a_kind_is_missing() -> None:
    states = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    best = math.log(1 + 2 * math.exp(-64 * 0.25 * 0.25))  # a_p = m, s_p - (1 - m) = m, a_n = 0, for two negatives
    assert losses.circle(states, torch.tensor([0, 0, 1, 1])).tolist() == pytest.approx([best] * 4, rel=1e-4)
    for labels in ([0, 0, 0, 0], [0, 1, 2, 3]):
        now = draw(4, 2).requires_grad_()
        for found in (losses.circle(now, torch.tensor(labels)), losses.info_nce(now, torch.tensor(labels))):
            assert found.tolist() == [0] * 4
            found.sum().backward()
        assert now.grad is not None
        assert now.grad.isfinite().all()


def test_circle_takes_no_gradient_through_its_own_weights() -> None:
    # two rows of one label and one of another: by hand, d/ds_n of softplus(lp + ln) with a_n held fixed
    states = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.6, 0.8]], requires_grad=True)
    m, gamma = 0.25, 4.0
    found = losses.circle(states, torch.tensor([0, 0, 1]), margin=m, gamma=gamma)[0]
    found.backward()
    with torch.no_grad():
        unit = torch.nn.functional.normalize(states, dim=1)
        p, n = float(unit[0] @ unit[1]), float(unit[0] @ unit[2])
        a_p, a_n = 1 + m - p, n + m
        total = -gamma * a_p * (p - 1 + m) + gamma * a_n * (n - m)
        share = 1 / (1 + math.exp(-total))
        along = share * gamma * a_n * (unit[0] - n * unit[2])  # d s_n / d states[2], which has length 1
    assert states.grad is not None
    assert states.grad[2].tolist() == pytest.approx(along.tolist(), rel=1e-4)


def test_info_nce_by_hand() -> None:
    states = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = losses.info_nce(states, torch.tensor([0, 0, 1]), temperature=0.5)
    one = -math.log(math.exp(2) / (math.exp(2) + math.exp(0)))
    assert found.tolist() == pytest.approx([one, one, 0.0])
