"""Thinking on this machine: the budget closes the block, and answers that keep to it are what they were."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from demur.decoding import decode
from demur.errors import ConfigError
from demur.generators.local import Local
from demur.lm import LM
from demur.reasoning import split
from demur.thinking import Thinking, think
from demur.types import ModelRef, Prompt, Response, Sampling
from tests.models.families import EOS, SYSTEM, build, tokenizer

pytestmark = pytest.mark.torch

PROMPTS = [Prompt(id=f"p/{n}", text=text, expected=None, source="p") for n, text in enumerate("abcdefgh")]


@functools.cache
def model(opens: str) -> LM:
    """A model that writes letters of its own accord, after a header that may open a thinking block."""
    spoken = tokenizer("system")
    spoken.chat_template = SYSTEM + "{% if add_generation_prompt %}" + opens + "{% endif %}"
    made = LM(build("llama"), spoken, ModelRef(id="t", dtype="float32"))
    letters = torch.tensor([spoken.convert_tokens_to_ids(c) for c in "abcdefghijklmnop"])
    head, keep = made.head, torch.full((264,), -torch.inf)
    keep[letters], keep[spoken.convert_tokens_to_ids(EOS)] = 0, 0
    made.head = lambda hidden: head(hidden) + keep  # type: ignore[method-assign]
    return made


def rows(found: object) -> dict[tuple[str, int], Response]:
    return {(r.prompt_id, r.sample): r for r in found}  # type: ignore[attr-defined]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_spent_budget_closes_the_block_and_the_answer_follows(temperature: float) -> None:
    lm, sampling = model("<think>\n"), Sampling(max_new_tokens=20, samples=2, temperature=temperature)
    free = rows(decode(lm, PROMPTS, sampling))
    found = rows(think(lm, PROMPTS, sampling, Thinking(budget=8)))
    assert found.keys() == free.keys()
    cut = [key for key, row in free.items() if row.n_tokens > 8]
    assert cut
    for key in cut:
        row, prompt = found[key], next(p for p in PROMPTS if p.id == key[0])
        assert row.reasoning == free[key].reasoning[:8]
        assert row.text
        assert row.n_tokens <= 20
        begun = dataclasses.replace(
            prompt, id=f"{key[0]}\n{key[1]}", meta=(("prefill", f"{row.reasoning}\n</think>\n\n"),)
        )
        (after,) = decode(lm, [begun], dataclasses.replace(sampling, samples=1, max_new_tokens=12))
        assert (after.text, after.finish, after.n_tokens) == (row.text, row.finish, row.n_tokens - 8)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_that_do_not_think_are_what_they_were(temperature: float) -> None:
    sampling = Sampling(max_new_tokens=20, samples=2, temperature=temperature)
    lm = model("")
    assert rows(think(lm, PROMPTS, sampling, Thinking(budget=4))) == rows(decode(lm, PROMPTS, sampling))


def test_an_answer_that_ends_inside_its_thinking_is_cut_off() -> None:
    lm, sampling = model("<think>\n"), Sampling(max_new_tokens=40, temperature=1.5)
    assert any(row.finish == "stop" for row in decode(lm, PROMPTS, sampling))
    found = rows(think(lm, PROMPTS, sampling, Thinking()))
    assert all(row.finish == "length" and not row.text and row.reasoning for row in found.values())


def test_marks_of_ones_own() -> None:
    lm, sampling = model(""), Sampling(max_new_tokens=12)
    whole = rows(decode(lm, PROMPTS, sampling))["p/0", 0].text
    marks = (whole[:2], whole[4:6])
    row = rows(think(lm, PROMPTS[:1], sampling, Thinking(markers=marks)))["p/0", 0]
    assert row.reasoning + row.text != ""
    assert row.text == whole.partition(marks[0])[2].partition(marks[1])[2]
    with pytest.raises(ConfigError, match="an opening and a closing"):
        Local(thinking_markers=("a",))


def test_the_local_generator_takes_a_budget() -> None:
    plain = rows(Local()(PROMPTS[:2], Sampling(max_new_tokens=8)))
    assert rows(Local(thinking_budget=4)(PROMPTS[:2], Sampling(max_new_tokens=8))) == plain


def test_harmony_is_split_when_its_special_tokens_are_gone() -> None:
    spoken = tokenizer("system")
    spoken.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|channel|>", "<|message|>"]})
    said = "<|channel|>analysis<|message|>We look.<|end|><|start|>assistant<|channel|>final<|message|>Hello."
    shown = spoken.decode(spoken(said, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
    assert split(said) == split(str(shown)) == ("We look.", "Hello.", True)
