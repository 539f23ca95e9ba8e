"""The decode loop: the same tokens as `generate`, whatever the neighbours, and one row per (prompt, sample)."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from demur.decoding import decode, first_token_logits, sample
from demur.directions import Direction
from demur.errors import DataError, ModelError
from demur.generators.local import Local
from demur.interventions.ablate import Ablate
from demur.interventions.gated import Gated
from demur.interventions.instruct import Instruct
from demur.interventions.stack import Stack
from demur.interventions.steer import Steer
from demur.lm import LM, attach
from demur.plan import Gate, Probe
from demur.price import kl, price
from demur.residuals import capture
from demur.screen import Screen
from demur.types import ModelRef, Prompt, Response, Sampling
from tests.models.families import FAMILIES, build, lm, tokenizer

pytestmark = pytest.mark.torch


def prompts(n: int, seed: int = 0, longest: int = 30) -> list[Prompt]:
    draws = random.Random(seed)
    texts = ["".join(draws.choice("abcdefgh ij") for _ in range(draws.randint(1, longest))) + "." for _ in range(n)]
    return [Prompt(id=f"p/{i}", text=text, expected=None, source="p") for i, text in enumerate(texts)]


def direction(seed: int = 0, width: int = 32) -> Direction:
    vectors = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    return Direction(vectors=vectors, layers=(1,), model=ModelRef(id="t"), estimator="drawn")


def gate(model: LM, some: list[Prompt], layer: int) -> Gate:
    """A gate that is open for half of the prompts."""
    weight = direction(7).vectors[0]
    scores = (capture(model, some, layers=(layer,))[:, 0] @ weight).sort().values
    middle = len(some) // 2
    return Gate(probe=Probe(layers=(layer,)), weight=weight, threshold=float(scores[middle - 1 : middle + 1].mean()))


def answers(rows: Any) -> dict[tuple[str, int], Response]:
    found = {(r.prompt_id, r.sample): r for r in rows}
    return dict(sorted(found.items()))


def stopping(family: str) -> LM:
    """A model of which about one token in ten ends the answer, so that rows finish at different times."""
    module = build(family)
    model = LM(module, tokenizer(), ModelRef(id=family))
    module.generation_config.eos_token_id = [257, *range(0, 250, 10)]
    return model


def generated(model: LM, prompt: Prompt, sampling: Sampling) -> tuple[list[int], str]:
    """What `model.generate` writes for one prompt: its tokens, and their text without the stop."""
    ids = model.encode(prompt).ids
    with torch.no_grad():
        out = model.module.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            pad_token_id=257,
            eos_token_id=sorted(model.stops),
        )[0, len(ids) :].tolist()
    kept = out[:-1] if out[-1] in model.stops else out
    return out, model.tokenizer.decode(kept, skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_generate_with_rows_finishing_and_refilled(family: str) -> None:
    """The windows of the sliding families are 6 tokens, far smaller than the prompts."""
    model, some, how = stopping(family), prompts(40), Sampling(max_new_tokens=12)
    found = answers(decode(model, some, how, batch_tokens=600))
    assert len(found) == 40
    for prompt in some[:12]:
        row = found[prompt.id, 0]
        tokens, text = generated(model, prompt, how)
        assert (row.text, row.n_tokens) == (text, len(tokens))
        assert row.finish == ("stop" if tokens[-1] in model.stops else "length")
    assert {r.finish for r in found.values()} == {"stop", "length"}


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("mixtral", "qwen3_moe")])
def test_no_bit_of_a_row_depends_on_its_neighbours(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probabilities are compared before they are rounded. (An expert of a mixture sees few rows: not there.)"""
    monkeypatch.setattr("demur.decoding.round", lambda value, digits: value, raising=False)
    model, some = stopping(family), prompts(30)
    draws = random.Random(1)
    for temperature in (0.0, 0.8):
        how = Sampling(max_new_tokens=10, temperature=temperature)
        whole = answers(decode(model, some, how))
        for size in (1, 3, 17):
            part = draws.sample(some, size)
            for key, row in answers(decode(model, part, how, batch_tokens=draws.choice([1, 500, 5000]))).items():
                assert row == whole[key]


def test_each_prompt_and_sample_gets_one_row_and_draws_for_itself() -> None:
    model, some = stopping("llama"), prompts(12)
    how = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9, samples=3, seed=1)
    found = answers(decode(model, some, how))
    assert list(found) == sorted((p.id, s) for p in some for s in range(3))
    part = answers(decode(model, some[4:6], how, batch_tokens=300))
    assert all(found[key] == row for key, row in part.items())
    texts = [found[p.id, s].text for p in some for s in range(3)]
    assert len(set(texts)) > 25
    other = answers(decode(model, some, dataclasses.replace(how, seed=2)))
    assert sum(found[k].text == other[k].text for k in found) < 6


def test_sampling_follows_the_distribution_and_top_p() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    rows = logits.expand(1000, 4)
    assert sample(rows, uniform, 1.0, 1.0).bincount(minlength=4).tolist() == [500, 300, 150, 50]
    assert sample(rows, uniform, 1.0, 0.79).bincount(minlength=4).tolist() == [625, 375, 0, 0]
    assert sample(rows, uniform, 1.0, 0.5).bincount(minlength=4).tolist() == [1000, 0, 0, 0]
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    cold = sample(rows, uniform, 0.5, 1.0).bincount(minlength=4) / 1000
    torch.testing.assert_close(cold, squares / squares.sum(), rtol=0, atol=2e-3)


def test_the_mean_log_probability_is_that_of_the_tokens_written() -> None:
    model, prompt, how = stopping("qwen2"), prompts(1)[0], Sampling(max_new_tokens=7)
    (row,) = decode(model, [prompt], how)
    tokens, _ = generated(model, prompt, how)
    ids = model.encode(prompt).ids
    logits = model.module(input_ids=torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1]
    expected = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens].mean()
    assert row.logprob == pytest.approx(float(expected), abs=6e-4)


def test_a_prefill_is_part_of_the_answer() -> None:
    model, how = stopping("llama"), Sampling(max_new_tokens=5, prefill="Sure: ")
    prompt = prompts(1)[0]
    own = dataclasses.replace(prompt, id="own", meta=(("prefill", "No way"),))
    found = answers(decode(model, [prompt, own], how))
    assert found["p/0", 0].text.startswith("Sure:")
    assert found["own", 0].text.startswith("No way")
    assert found["p/0", 0].n_tokens <= 5


def test_thinking_goes_to_reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = stopping("llama"), prompts(1)[0]
    monkeypatch.setattr(model.tokenizer, "decode", lambda *a, **k: "<think>hm</think>\n\nfour")
    (row,) = decode(model, [prompt], Sampling(max_new_tokens=3))
    assert (row.reasoning, row.text) == ("hm", "four")


def test_plans_of_all_kinds_share_one_call() -> None:
    """Rows of different plans, of which one changes weights and one adds a system text, each as if alone."""
    model, some, how = stopping("llama"), prompts(12), Sampling(max_new_tokens=8)
    kinds = [
        None,
        Steer(direction=direction(), strength=2.0, positions="generated[:3]"),
        Ablate(direction=direction()),
        Ablate(direction=direction(), by="weights"),
        Instruct(text="Be brief."),
        Steer(direction=direction(1), layer=0, strength=1.5),
    ]
    plans = [kinds[i % 6] for i in range(12)]
    found = answers(decode(model, some, how, plans))
    for prompt, plan in zip(some, plans, strict=True):
        (alone,) = decode(model, [prompt], how, plan)
        assert found[prompt.id, 0] == alone
    untouched = answers(decode(model, some, how))
    assert sum(found[k] != untouched[k] for k in found) >= 6


@pytest.mark.parametrize("layer", [0, 1])
def test_gates_are_read_from_the_untouched_model_while_other_rows_are_steered(layer: int) -> None:
    """Slots are refilled in the middle of decoding; the gate of a fresh row must not see its neighbours' edits."""
    model, some, how = stopping("llama"), prompts(60), Sampling(max_new_tokens=9)
    what = Gated(inner=Steer(direction=direction(), layer=0, strength=9.0), gate=gate(model, some, layer))
    whole = answers(decode(model, some, how, what, batch_tokens=600))
    plain = answers(decode(model, some, how))
    states = capture(model, some, layers=(layer,))[:, 0]
    opened = (states @ what.gate.weight > what.gate.threshold).tolist()
    assert [whole[p.id, 0] != plain[p.id, 0] for p in some] == opened


def test_what_is_attached_acts_and_an_explicit_plan_replaces_it() -> None:
    model, some, how = stopping("llama"), prompts(6), Sampling(max_new_tokens=8)
    one, two = Ablate(direction=direction(), by="weights"), Steer(direction=direction(1), strength=3.0)
    expected = answers(decode(model, some, how, one))
    plain = answers(decode(model, some, how))
    with attach(model, one):
        assert answers(decode(model, some, how)) == expected
    with attach(model, two):
        assert answers(decode(model, some, how, Steer(direction=direction(), strength=0.0))) == plain
        assert answers(decode(model, some, how)) == answers(decode(model, some, how, two))


def test_an_explicit_plan_replaces_an_attached_instruction_too() -> None:
    model, some, how = stopping("llama"), prompts(6), Sampling(max_new_tokens=8)
    steer = Steer(direction=direction(1), strength=3.0)
    plain, screened = answers(decode(model, some, how, steer)), first_token_logits(model, some, steer)
    with attach(model, Instruct(text="Be brief.")):
        assert answers(decode(model, some, how, steer)) == plain
        assert answers(decode(model, some, how)) == answers(decode(model, some, how, Instruct(text="Be brief.")))
        screen = Screen(model, some)
        torch.testing.assert_close(screen.logits(steer), screened, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(screen.logits(), first_token_logits(model, some), rtol=1e-4, atol=2e-5)


def test_memory_that_runs_out_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(LM, "forward", full)
    with pytest.raises(ModelError, match=r"lower batch_tokens \(16384\)"):
        list(decode(lm(), prompts(1)))


def test_nothing_is_answered_with_nothing() -> None:
    assert list(decode(lm(), [], Sampling())) == []


def test_the_local_generator_answers_with_and_without_an_intervention(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    Steer(direction=direction(), strength=5.0).save(tmp_path / "i")
    how, some = Sampling(max_new_tokens=6), prompts(5)
    plain = Local(model=str(tmp_path / "m"), device="cpu")
    steered = Local(model=str(tmp_path / "m"), device="cpu", intervention=str(tmp_path / "i"))
    assert plain.lm() is steered.lm()
    assert plain.ref().id == str(tmp_path / "m")
    before, after = answers(plain(some, how)), answers(steered(some, how))
    assert before.keys() == after.keys()
    assert before != after
    assert before == answers(decode(plain.lm(), some, how))


# first tokens, screens and prices


@pytest.mark.parametrize("family", FAMILIES)
def test_a_screen_gives_the_logits_of_whole_passes(family: str) -> None:
    model, some = lm(family), prompts(20)
    screen = Screen(model, some, batch_tokens=200)
    plans = [
        None,
        Steer(direction=direction(), strength=2.0),
        Steer(direction=direction(), strength=-2.0, positions="last_prompt"),
        Steer(direction=direction(), strength=1.0, point="resid_pre"),
        Ablate(direction=direction()),
        Ablate(direction=direction(), by="weights"),
        Instruct(text="Be brief."),
        Steer(direction=direction(), strength=0.0),
        Steer(direction=direction(), layer=0, strength=1.0),
        Gated(inner=Steer(direction=direction(), strength=3.0), gate=gate(model, some, 1)),
        Gated(inner=Steer(direction=direction(), layer=0, strength=3.0), gate=gate(model, some, 1)),
        Gated(inner=Steer(direction=direction(), strength=3.0), gate=gate(model, some, 0)),
        Stack(parts=(Steer(direction=direction(2), strength=3.0), Steer(direction=direction(), point="attn_out"))),
    ]
    for plan in plans:
        logits = screen.logits(plan)
        torch.testing.assert_close(logits, first_token_logits(model, some, plan), rtol=1e-4, atol=2e-5)
    own = model.module(input_ids=torch.tensor([model.encode(some[3]).ids])).logits[0, -1]
    torch.testing.assert_close(screen.logits()[3], own, rtol=1e-4, atol=2e-5)


def test_a_screen_runs_only_the_blocks_from_the_lowest_edit_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ran = lm("qwen2"), []
    screen = Screen(model, prompts(8))
    steer = Steer(direction=direction(), strength=2.0)
    expected = screen.logits(steer)
    forward = model.blocks[0].forward
    monkeypatch.setattr(model.blocks[0], "forward", lambda *a, **k: (ran.append(0), forward(*a, **k))[1])
    assert torch.equal(screen.logits(steer), expected)
    assert ran == []


def test_a_screen_sees_what_is_attached() -> None:
    model = lm("llama")
    screen, steer = Screen(model, prompts(8)), Steer(direction=direction(), strength=2.0, layer=0)
    plain = screen.logits()
    with attach(model, steer):
        moved = screen.logits()
    assert torch.equal(moved, screen.logits(steer))
    assert torch.equal(screen.logits(), plain)


def test_the_divergence_is_that_of_the_formula() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.7])
    expected = float((p * (p / q).log()).sum())
    assert float(kl(p.log() + 3, q.log() - 5)) == pytest.approx(expected, rel=1e-6)
    assert float(kl(p.log(), p.log())) == 0


def test_a_price_is_the_divergence_from_the_untouched_model() -> None:
    model, some = stopping("llama"), prompts(6)
    steer = Steer(direction=direction(), strength=2.0)
    rows = answers(decode(model, some, Sampling(max_new_tokens=9)))
    replies = [rows[p.id, 0] for p in some]
    found = price(model, some, replies, steer)
    first = kl(first_token_logits(model, some), first_token_logits(model, some, steer))
    assert found.price_kl_first == pytest.approx(float(first.mean()), rel=1e-4)
    assert found.price_kl > 0
    assert found.prompts == 6
    tokens = [len(model.tokenizer(r.text, add_special_tokens=False)["input_ids"]) for r in replies]
    assert found.positions == sum(t + 1 for t in tokens)
    free = price(model, some, replies, Steer(direction=direction(), strength=0.0))
    assert (free.price_kl_first, free.price_kl) == (0, 0)
    weights, hooks = (price(model, some, replies, Ablate(direction=direction(), by=by)) for by in ("weights", "hooks"))
    assert weights.price_kl == pytest.approx(hooks.price_kl, rel=1e-4)
    with pytest.raises(DataError, match="price needs an answer to each prompt"):
        price(model, some, replies[1:], steer)
