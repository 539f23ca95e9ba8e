"""AdaCD and Self-CD: the papers' defaults, saving, and AdaCD by prefix against AdaCD inside."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from demur import interventions
from demur.decoding import decode
from demur.errors import ConfigError
from demur.interventions.contrastive import Contrastive
from demur.interventions.gated import Gated
from demur.interventions.instruct import Instruct
from demur.interventions.stack import Stack
from demur.methods.adacd import Adacd
from demur.methods.selfcd import Selfcd
from demur.opening import opening
from demur.plan import Gate, Probe
from demur.types import FitData, Sampling
from tests.models.families import lm
from tests.models.test_language import answers, by_hand, prompts, stopping

pytestmark = pytest.mark.torch


def test_the_defaults_are_the_papers() -> None:
    model, none = lm(), FitData(examples=())
    adacd = Adacd().fit(model, none)
    assert adacd.plan(model).describe().splitlines() == [
        "branch 1: system text 'Please refuse to answer me!'",
        "logits 4.5 x base + -3.5 x branch 1, -4.5 and 5.5 where they agree to 0.9, "
        "of tokens above 0.01 of the likeliest, for 10 tokens",
    ]
    selfcd = Selfcd().fit(model, none)
    assert selfcd.plan(model).describe().splitlines()[1] == "logits 2.5 x base + -1.5 x branch 1"
    with pytest.raises(ConfigError, match=r"agreement is 0\.3"):
        Adacd(agreement=0.3)


@pytest.mark.parametrize("what", [Adacd().intervention(), Selfcd(horizon=7).intervention()])
def test_it_saves_loads_and_scales(what: Contrastive, tmp_path: Path) -> None:
    model = lm()
    what.save(tmp_path)
    again = interventions.load(tmp_path)
    assert again == what
    assert again.fingerprint() == what.fingerprint()
    assert again.plan(model).fingerprint == what.plan(model).fingerprint


def test_strength_moves_from_the_plain_model_to_the_whole_mix() -> None:
    model = lm()
    half = Contrastive(text="Say no.", mix=(2.5, -1.5), strength=0.5).plan(model).logits
    assert half is not None
    assert half.mix == (1.75, -0.75)
    off = Contrastive(text="Say no.", mix=(2.5, -1.5), strength=0.0).plan(model)
    assert off.describe() == "nothing"


def test_self_cd_at_ratio_1_is_plain_and_at_ratio_0_the_safety_prompt() -> None:
    model, some, how = stopping("llama"), prompts(8), Sampling(max_new_tokens=6)
    plain = answers(decode(model, some, how))
    told = answers(decode(model, some, how, Instruct(text="Be safe.")))
    for ratio, expected in ((1.0, plain), (0.0, told)):
        found = answers(decode(model, some, how, Selfcd(text="Be safe.", ratio=ratio).intervention()))
        assert {k: r.text for k, r in found.items()} == {k: r.text for k, r in expected.items()}


def test_it_stands_behind_a_gate_and_in_a_stack() -> None:
    model, some, how = stopping("qwen3"), prompts(8), Sampling(max_new_tokens=6)
    what = Selfcd(text="Be safe.").intervention()
    shut = Gate(probe=Probe(layers=(0,)), weight=torch.zeros(32), threshold=1.0)
    opened = Gate(probe=Probe(layers=(1,)), weight=torch.zeros(32), threshold=-1.0)
    assert answers(decode(model, some, how, Gated(inner=what, gate=shut))) == answers(decode(model, some, how))
    assert answers(decode(model, some, how, Gated(inner=what, gate=opened))) == answers(decode(model, some, how, what))
    stack = Stack(parts=(Instruct(text="Be brief."), what)).plan(model)
    found = answers(decode(model, some[:3], how, stack))
    for prompt in some[:3]:
        told = model.chats.encode([prompt], system="Be brief.\n\nBe safe.")[0].ids
        base, tokens = model.chats.encode([prompt], system="Be brief.")[0].ids, []
        while len(tokens) < 6 and not (tokens and tokens[-1] in model.stops):
            z, star = (model.module(input_ids=torch.tensor([[*ids, *tokens]])).logits[0, -1] for ids in (base, told))
            tokens.append(int((2.5 * z - 1.5 * star).argmax()))
        assert found[prompt.id].n_tokens == len(tokens)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_by_prefix_it_writes_the_tokens_it_writes_inside(family: str) -> None:
    """The server is the model's own forward; a token's text is its id, so that any token can be told apart."""
    model, some, method = stopping(family), prompts(6), Adacd(horizon=5)
    how = Sampling(max_new_tokens=9)
    inside = answers(decode(model, some, how, method.intervention()))
    for prompt in some:
        sides = {told: model.encode(prompt, system=method.text if told else None).ids for told in (False, True)}

        async def ask(refusing: bool, text: str, sides: Mapping[bool, tuple[int, ...]] = sides) -> dict[str, float]:
            ids = [*sides[refusing], *map(int, text.split())]
            logs = model.module(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            return {f"{token} ": float(z) for token, z in enumerate(logs)}

        stops = frozenset(f"{token} " for token in model.stops)
        begun = asyncio.run(opening(ask, horizon=5, stops=stops))
        tokens = [int(token) for token in begun.tokens]
        written = by_hand(model, prompt, "", lambda n, z, star, own=tokens: z if n >= len(own) else _only(own[n], z), 9)
        assert begun.guessed == 0
        if begun.ended:
            assert inside[prompt.id].n_tokens == len(tokens) + 1
            continue
        text = model.tokenizer.decode(written[:-1] if written[-1] in model.stops else written, skip_special_tokens=True)
        assert (inside[prompt.id].text, inside[prompt.id].n_tokens) == (text.strip(), len(written))


def _only(token: int, z: torch.Tensor) -> torch.Tensor:
    return torch.full_like(z, -torch.inf).index_fill(0, torch.tensor([token]), 0.0)
