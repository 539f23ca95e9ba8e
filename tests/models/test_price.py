"""The price by position: the curve of an independent computation, one prompt at a time."""

from __future__ import annotations

import pytest
import torch

from demur.interventions.steer import Steer
from demur.lm import attach
from demur.price import POSITIONS, curve, kl, price
from demur.types import Prompt, Response, to_json
from tests.models.families import lm
from tests.models.test_decoding import direction

pytestmark = pytest.mark.torch

TEXTS = ("ab cd", "efgh ij ab cd ef gh", "", "jihg " * 20)


def test_the_curve_is_that_of_single_prompts() -> None:
    model = lm("llama")
    some = [Prompt(id=f"p/{i}", text=f"abc {i}.", expected=None, source="p") for i in range(len(TEXTS))]
    replies = [Response(prompt_id=p.id, text=text, finish="stop") for p, text in zip(some, TEXTS, strict=True)]
    steer = Steer(direction=direction(), strength=2.0)
    found = price(model, some, replies, steer)
    rows = []
    for prompt, text in zip(some, TEXTS, strict=True):
        head = model.encode(prompt).ids
        answer = model.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        ids = torch.tensor([[*head, *answer[: POSITIONS - 1]]])
        with torch.no_grad():
            before = model.module(input_ids=ids).logits[0, len(head) - 1 :].float()
        with attach(model, steer):
            tokens, batch, _ = model.batch(model.encode_all([ids[0].tolist()]))
            batch.prompt[:] = len(head)
            after = model.head(model.forward(tokens, batch))[0, len(head) - 1 :]
        rows.append(kl(before, after).tolist())
    longest = max(map(len, rows))
    assert [at.position for at in found.by_position] == list(range(1, longest + 1))
    for at in found.by_position:
        here = [row[at.position - 1] for row in rows if len(row) >= at.position]
        assert (at.n, at.groups) == (len(here), len(here))
        assert at.value == pytest.approx(sum(here) / len(here), rel=1e-3)
        if at.low is not None and at.high is not None:
            assert at.low <= at.value <= at.high
        assert (at.low is None) == (len(here) == 1)
    assert found.by_position[0].value == pytest.approx(found.price_kl_first)
    assert sum(at.n for at in found.by_position) == found.positions
    assert set(to_json(found)["by_position"][0]) == {"position", "value", "low", "high", "n", "groups"}


def test_groups_are_resampled_together() -> None:
    rows = [[1.0, 2.0], [3.0], [1.0, 2.0], [3.0]]
    first, second = curve(rows, ["a", "a", "b", "b"])
    assert (first.value, first.low, first.high, first.n, first.groups) == (2.0, 2.0, 2.0, 4, 2)
    assert (second.value, second.n, second.groups) == (2.0, 2, 2)
    alone, _ = curve(rows, ["a", "b", "c", "d"])
    assert alone.low is not None
    assert alone.low < 2.0
    assert curve([[1.0]], ["a"])[0].low is None
    assert curve([], []) == ()


def test_forbidden_tokens_do_not_make_the_price_infinite() -> None:
    base, other = torch.tensor([5.0, 3.0, 2.0]).log(), torch.tensor([1.0, 1.0, -torch.inf])
    left = torch.tensor([0.625, 0.375], dtype=torch.float64)
    assert kl(base, other).item() == pytest.approx(float((left * (left / 0.5).log()).sum()), rel=1e-6)
    assert kl(base, base).item() == 0.0
