"""Capturing the stream: against the models' own hidden states, in flat memory, without leaving a hook."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from demur.directions import Direction
from demur.errors import ConfigError, DataError
from demur.interventions.steer import Steer
from demur.lm import attach
from demur.residuals import Moments, batches, capture, edit, moments, stream
from demur.types import ModelRef, Prompt
from tests.models.families import FAMILIES, lm

pytestmark = pytest.mark.torch


def mixed(n: int, seed: int = 0) -> list[list[int]]:
    draws = random.Random(seed)
    return [[draws.randrange(258) for _ in range(draws.randint(1, 20))] for _ in range(n)]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_models_own_hidden_states(family: str) -> None:
    """`hidden_states[l]` is the stream before block l; the last one is normed, so it is left out."""
    model, prompts = lm(family), mixed(7)
    pre = capture(model, prompts, points="resid_pre")
    post = capture(model, prompts, points="resid_post")
    for row_pre, row_post, prompt in zip(pre, post, prompts, strict=True):
        own = model.module(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states
        for layer in range(model.n_layers):
            torch.testing.assert_close(row_pre[layer], own[layer][0, -1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(row_post[0], own[1][0, -1], rtol=1e-4, atol=1e-5)
        normed = model.head(_final_norm(model, row_post[-1]))
        torch.testing.assert_close(normed, model.head(own[-1][0, -1]), rtol=1e-4, atol=1e-4)


def _final_norm(model: Any, state: torch.Tensor) -> torch.Tensor:
    body = model.frame.body
    for name in ("norm", "final_layer_norm", "ln_f"):
        if hasattr(body, name):
            return getattr(body, name)(state)
    raise AssertionError("no final norm")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_added_makes_up_the_difference(family: str) -> None:
    model, prompts = lm(family), mixed(5)
    points = ("resid_pre", "attn_out", "mlp_out", "resid_post", "norm_in", "attn_write")
    states = capture(model, prompts, points=points, positions="all")
    assert states.shape == (sum(map(len, prompts)), 2, 6, 32)
    pre, attention, mlp, post = (states[:, :, i] for i in range(4))
    torch.testing.assert_close(pre + attention + mlp, post, rtol=1e-4, atol=1e-5)
    same = torch.equal(states[:, :, 1], states[:, :, 5])
    assert same == (family not in ("gemma2", "gemma3", "olmo2"))


def test_rows_are_in_the_order_of_the_prompts_whatever_the_batches() -> None:
    model, prompts = lm(), mixed(40)
    one = torch.cat([capture(model, [p], layers=(1, 0)) for p in prompts])
    for batch_tokens in (1, 64, 10_000):
        torch.testing.assert_close(
            capture(model, prompts, layers=(1, 0), batch_tokens=batch_tokens), one, rtol=1e-5, atol=1e-5
        )
    assert one.dtype == torch.float32
    assert torch.equal(one[:, 0], capture(model, prompts, layers=(1,), batch_tokens=1)[:, 0])


def test_positions_keep_exactly_the_tokens_asked_for() -> None:
    model = lm()
    prompts = [Prompt(id=str(i), text="x" * (i + 1), expected=None, source="t") for i in range(5)]
    encoded = model.encode_all(prompts)
    whole = capture(model, prompts, layers=(0,), positions="all")[:, 0]
    parts = list(torch.split(whole, [len(e.ids) for e in encoded]))
    last = capture(model, prompts, layers=(0,))[:, 0]
    torch.testing.assert_close(last, torch.stack([p[-1] for p in parts]), rtol=1e-5, atol=1e-6)
    tail = capture(model, prompts, layers=(0,), positions="from_instruction_end")[:, 0]
    expected = torch.cat([p[e.instruction :] for p, e in zip(parts, encoded, strict=True)])
    torch.testing.assert_close(tail, expected, rtol=1e-5, atol=1e-6)
    filled = [Prompt(id="a", text="hi", expected=None, source="t", meta=(("prefill", "Sure"),))]
    assert len(capture(model, filled, positions="generated")) == 4


def test_only_blocks_up_to_the_last_one_asked_for_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = lm(), []
    for index, block in enumerate(model.blocks):
        monkeypatch.setattr(block, "forward", _noting(block.forward, ran, index))
    capture(model, mixed(3), layers=(0,))
    assert set(ran) == {0}
    assert len(model.frame.body.layers) == 2


def _noting(forward: Any, ran: list[int], index: int) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        ran.append(index)
        return forward(*args, **kwargs)

    return run


def test_the_head_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm("qwen2")

    def never(*args: Any) -> Any:
        raise AssertionError("the head ran")

    monkeypatch.setattr(model.module.get_output_embeddings(), "forward", never)
    capture(model, mixed(3))


def test_an_iterator_is_read_as_it_comes() -> None:
    model, taken = lm(), []

    def source() -> Iterator[list[int]]:
        for i in range(9000):
            taken.append(i)
            yield [1 + i % 200, 2]

    first = next(iter(stream(model, source(), layers=(0,))))
    assert len(first.prompt) > 0
    assert len(taken) < 9000


def test_moments_are_mean_and_covariance_of_all_states() -> None:
    model, prompts = lm(), mixed(300)
    found = moments(model, iter(prompts), layers=(0, 1))
    states = capture(model, prompts).double()
    assert found.count == 300
    torch.testing.assert_close(found.mean, states.mean(0))
    for layer in range(2):
        torch.testing.assert_close(found.covariance[layer], torch.cov(states[:, layer].T))


def test_moments_do_not_cancel_far_from_the_origin() -> None:
    draws = torch.Generator().manual_seed(0)
    states = torch.randn(1000, 1, 3, generator=draws, dtype=torch.float64) + 1e7
    found = Moments()
    for part in states.split(7):
        found.update(part)
    torch.testing.assert_close(found.covariance[0], torch.cov(states[:, 0].T), rtol=1e-6, atol=1e-6)


def test_no_covariance_where_there_is_none() -> None:
    found = Moments()
    found.update(torch.ones(1, 1, 2))
    with pytest.raises(DataError, match="1 states seen"):
        _ = found.covariance
    plain = moments(lm(), mixed(5), covariance=False)
    with pytest.raises(DataError, match="asked for: False"):
        _ = plain.covariance


def test_an_edit_shows_in_what_is_captured_at_the_same_place() -> None:
    model = lm()
    vector = torch.randn(1, 32)
    before = capture(model, mixed(4), layers=(0,))
    direction = Direction(vectors=vector, layers=(0,), model=ModelRef(id="t"), estimator="drawn")
    with attach(model, Steer(direction=direction, strength=2.0)):
        after = capture(model, mixed(4), layers=(0,))
    torch.testing.assert_close(after - before, (2 * vector).expand(4, 1, 32), rtol=1e-4, atol=1e-4)


def test_edit_taps_any_place_and_leaves_no_hook() -> None:
    model = lm("mixtral")
    before = capture(model, mixed(4))
    with edit(model, [(0, "attn_out"), (1, "resid_pre")]) as actions:
        assert torch.equal(capture(model, mixed(4)), before)
        actions[0, "attn_out"] = torch.zeros_like
        assert not torch.equal(capture(model, mixed(4)), before)
    with pytest.raises(RuntimeError, match="stop"):
        _stopped(model)
    assert torch.equal(capture(model, mixed(4)), before)


def _stopped(model: Any) -> None:
    with edit(model, [(0, "attn_out")]) as actions:
        actions[0, "attn_out"] = _stop
        capture(model, mixed(4))


def _stop(h: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("stop")


def test_batches_hold_at_most_their_tokens() -> None:
    lengths = sorted(random.Random(0).randint(1, 90) for _ in range(500))
    cut = list(batches(lengths, 512))
    assert [i for run in cut for i in run] == list(range(500))
    assert all(len(run) * lengths[run[-1]] <= 512 for run in cut)
    assert [list(r) for r in batches([5, 700, 800], 512)] == [[0], [1], [2]]
    assert list(batches([], 512)) == []


def test_what_is_not_there_is_named() -> None:
    model = lm()
    with pytest.raises(ConfigError, match="layer 2 is out of range; this model has layers 0 to 1"):
        capture(model, mixed(1), layers=(2,))
    with pytest.raises(ConfigError, match="point 'resid' is not understood"):
        capture(model, mixed(1), points="resid")
    with pytest.raises(ConfigError, match="positions 'first'"):
        capture(model, mixed(1), positions="first")
    with pytest.raises(DataError, match="no prompts"):
        capture(model, [])
    with pytest.raises(ConfigError, match="row of token ids is empty"):
        capture(model, [[]])
