"""Beginnings of prompts that are computed once: the answers are those of prompts read whole, and what may be shared."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from demur.chats import Encoded
from demur.lm import LM
from demur.plan import Plan
from demur.serving.engine import Answer
from demur.serving.prefixes import BLOCK, Prefixes, shareable
from demur.serving.session import BatchSession, keys_of
from demur.serving.writing import Drawn, Writer
from demur.types import Prompt
from tests.models.families import lm
from tests.models.serving import interventions

pytestmark = pytest.mark.torch

SYSTEM = "You are asked about locks, keys and the doors they belong to; say little, and say it plainly."
TURNS = ("which key opens it", "and if the door is old?", "a longer question that nobody has asked so far")
SHARED, WHOLE = ("", "push", "cut", "polite", "mixed", "each"), ("sometimes",)


def plans(model: LM) -> dict[str, Plan]:
    """Those that are served, and one whose gate every token reads for itself."""
    made = {"": Plan(), **{name: model.plan_of(what) for name, what in interventions(model).items()}}
    gates = tuple(replace(gate, lifetime="token") for gate in made["sometimes"].gates)
    return {**made, "each": replace(made["sometimes"], gates=gates)}


def asked(model: LM, plan: Plan, text: str, history: tuple[tuple[str, str], ...] = ()) -> Answer:
    prompt = Prompt(id="p", text=text, expected=None, source="test", system=SYSTEM, history=history)
    (told,) = model.chats.tell([prompt], plan)
    return Answer(
        encoded=told.pop(0), told=told, plan=plan, group=plan.fingerprint if plan.weights else "", temperature=0.0,
        top=3, draws=random.Random(0), writer=Writer(model.tokenizer, 9), deadline=math.inf, events=asyncio.Queue(),
    )  # fmt: skip


def written(session: BatchSession, answers: Sequence[Answer], tokens: int = 6) -> list[list[Drawn]]:
    """The first tokens of answers that are read and written together."""
    found: dict[Answer, list[Drawn]] = {answer: [] for answer in answers}
    drawn = session.join(answers)
    for _ in range(tokens):
        for answer, token in drawn:
            found[answer].append(token)
        drawn = session.step()
    session.drop(answers)
    return list(found.values())


def same(a: Sequence[Sequence[Drawn]], b: Sequence[Sequence[Drawn]]) -> None:
    assert [[d.token for d in row] for row in a] == [[d.token for d in row] for row in b]
    for one, other in ((x, y) for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True)):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert [t for t, _ in one.top] == [t for t, _ in other.top]


def sessions(model: LM, known: dict[str, Plan], reuse: int = 10_000_000) -> tuple[BatchSession, BatchSession]:
    keys = keys_of(model, known.values())
    return BatchSession(model, 8, keys, reuse=reuse), BatchSession(model, 8, keys)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "gpt2"])
def test_a_conversation_that_goes_on_is_answered_as_if_it_was_read_whole(family: str) -> None:
    model = lm(family)
    known = plans(model)
    for name in (*SHARED, *WHOLE):
        reusing, plain = sessions(model, known)
        try:
            history: tuple[tuple[str, str], ...] = ()
            for turn in TURNS:
                made = [asked(model, known[name], turn, history) for _ in range(2)]
                same(written(reusing, made[:1]), written(plain, made[1:]))
                history = (*history, ("user", turn), ("assistant", "It is the small one."))
            assert bool(reusing.prefixes.reused) == (name in SHARED), name
        finally:
            plain.close()
            reusing.close()


def test_plans_strengths_and_branches_share_nothing_and_batches_mix_known_and_new() -> None:
    model = lm("llama")
    known = plans(model)
    push = known["push"]
    known["half"] = Plan(sites=tuple(replace(s, strength=s.strength / 2) for s in push.sites), tensors=push.tensors)
    names = ("", "push", "half", "mixed", "sometimes", "polite")
    reusing, plain = sessions(model, known)
    try:
        written(reusing, [asked(model, known["push"], TURNS[0])])
        before = reusing.prefixes.reused
        for turn in TURNS:
            made = [[asked(model, known[name], turn) for name in names] for _ in range(2)]
            same(written(reusing, made[0]), written(plain, made[1]))
            if turn == TURNS[0]:  # only the plan that was read before
                assert reusing.prefixes.reused - before <= len(made[0][1].encoded.ids)
        assert reusing.prefixes.reused > before
    finally:
        plain.close()
        reusing.close()


def test_memory_is_bounded_and_what_was_not_used_goes_first() -> None:
    model = lm("llama")
    per_block = 2 * 2 * 2 * 8 * BLOCK * 4  # layers, keys and values, heads, width, tokens, bytes
    reusing, plain = sessions(model, {"": Plan()}, reuse=9 * per_block)
    try:
        for n in range(6):
            for turn in TURNS:
                made = [asked(model, Plan(), f"{n} {turn}") for _ in range(2)]
                same(written(reusing, made[:1]), written(plain, made[1:]))
                assert reusing.prefixes.size <= 9 * per_block
        # the system text that all begin with has stayed
        assert reusing.prefixes.length(asked(model, Plan(), "new").encoded, model.bound(Plan()), 0) >= 2 * BLOCK
        assert plain.prefixes.size == plain.prefixes.reused == 0
    finally:
        plain.close()
        reusing.close()


def test_what_reads_the_whole_prompt_is_not_shared() -> None:
    model = lm("llama")
    known = plans(model)
    assert {name for name in known if shareable(model.bound(known[name]))} == set(SHARED)
    soft = Plan(soft_tokens="s", tensors={"s": torch.zeros(2, model.d_model)})
    assert not shareable(model.bound(soft))
    kept: dict[str, Any] = {"layers": (1,), "point": "resid_pre", "vector": "m", "strength": 1.0, "op": "matrix"}
    site = type(known["push"].sites[0])
    matrix = {"m": torch.eye(model.d_model)}
    assert shareable(model.bound(Plan(sites=(site(**kept),), tensors=matrix)))
    assert not shareable(model.bound(Plan(sites=(site(**kept, source="last_prompt"),), tensors=matrix)))
    assert Prefixes(0).length(Encoded((1,) * 99, 99, 99), model.bound(Plan()), 0) == 0


def test_many_rows_that_resume_are_read_without_a_branch_beside_them() -> None:
    model = lm("llama")
    reusing, plain = BatchSession(model, 64, (), reuse=10_000_000), BatchSession(model, 64, ())
    try:
        written(reusing, [asked(model, Plan(), TURNS[0])])
        made = [[asked(model, Plan(), f"{n % 10}") for n in range(64)] for _ in range(2)]
        same(written(reusing, made[0], tokens=2), written(plain, made[1], tokens=2))
        assert reusing.prefixes.reused
    finally:
        plain.close()
        reusing.close()
