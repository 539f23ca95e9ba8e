from __future__ import annotations

from dataclasses import replace

import pytest

from demur import attacks
from demur.decoding import decode
from demur.types import Prompt, Sampling
from tests.models.families import BOS, lm

pytestmark = pytest.mark.torch


def test_a_swapped_chat_template_is_what_the_model_reads() -> None:
    model = lm("llama")
    prompt = Prompt(id="a", text="hi there", expected="refuse", source="t", system="be kind")
    (attack,) = attacks.parse("chat:plain")
    assert model.chats.render(attack(prompt)) == f"{BOS}USER: be kind\n\nhi there\nASSISTANT:"
    bare = attacks.parse("chat:none")[0](replace(prompt, system=None))
    assert model.chats.render(bare) == f"{BOS}hi there"
    made = model.encode(attack(prompt))
    assert model.tokenizer.decode(made.ids[made.instruction :]) == "\nASSISTANT:"
    assert len(list(decode(model, [prompt, bare], Sampling(max_new_tokens=2)))) == 2
