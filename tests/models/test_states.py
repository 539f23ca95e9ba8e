"""Kept states: equal to captured ones, and never those of another model, plan, place or prompt."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from demur import states as kept
from demur.cache import opened
from demur.interventions.steer import Steer
from demur.lm import LM, attach
from demur.residuals import capture
from demur.states import states
from demur.types import Prompt
from tests.models.families import lm
from tests.models.test_decoding import direction

pytestmark = pytest.mark.torch
PROMPTS = [Prompt(id=f"p/{i}", text=f"abc {i} def", expected=None, source="p") for i in range(5)]
WHERE: dict[str, Any] = {"layers": (0, 1), "points": ("resid_post",), "positions": "last_prompt"}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def counting(model: LM, prompts: list[Prompt], **where: Any) -> torch.Tensor:
        calls.append(len(prompts))
        return capture(model, prompts, **where)

    monkeypatch.setattr(kept, "capture", counting)
    return calls


def hashed(revision: str = "sha256:1") -> LM:
    model = copy.copy(lm("llama"))
    model.ref = dataclasses.replace(model.ref, revision=revision)
    return model


def test_states_are_captured_once_and_read_bit_for_bit(counted: list[int]) -> None:
    model = hashed()
    first, again = states(model, PROMPTS, **WHERE), states(model, PROMPTS, **WHERE)
    assert counted == [5]
    assert torch.equal(first, again)
    assert torch.equal(first, capture(model, PROMPTS, **WHERE))
    cache = opened()
    assert cache is not None
    assert cache.size() > first.nbytes
    cache.clear()
    states(model, PROMPTS, **WHERE)
    assert counted == [5, 5]


def test_whatever_decides_the_states_is_part_of_their_key(counted: list[int]) -> None:
    model = hashed()
    plain = states(model, PROMPTS, **WHERE)
    with attach(model, Steer(direction=direction(), strength=2.0)):
        moved = states(model, PROMPTS, **WHERE)
        assert torch.equal(moved, states(model, PROMPTS, **WHERE))
    assert not torch.equal(plain, moved)
    states(model, PROMPTS, **{**WHERE, "layers": (1,)})
    states(model, PROMPTS, **{**WHERE, "positions": "from_instruction_end"})
    states(model, PROMPTS[::-1], **WHERE)
    states(model, [dataclasses.replace(p, system="x") for p in PROMPTS], **WHERE)
    states(hashed("sha256:2"), PROMPTS, **WHERE)
    assert counted == [5] * 7
    assert torch.equal(plain, states(model, PROMPTS, **WHERE))
    assert counted == [5] * 7


def test_without_a_hash_a_cache_or_room_nothing_is_kept(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for model in (lm("llama"), lm("llama")):
        states(model, PROMPTS, **WHERE)
    monkeypatch.setattr(kept, "MOST", 10)
    for _ in range(2):
        states(hashed(), PROMPTS, **WHERE)
    monkeypatch.setenv("DEMUR_NO_CACHE", "1")
    states(hashed(), PROMPTS, **WHERE)
    assert counted == [5] * 5


def test_a_damaged_file_is_made_anew(counted: list[int]) -> None:
    model = hashed()
    first = states(model, PROMPTS, **WHERE)
    cache = opened()
    assert cache is not None
    (path,) = cache.files()
    path.write_bytes(path.read_bytes()[:-9])
    assert torch.equal(first, states(model, PROMPTS, **WHERE))
    assert counted == [5, 5]
