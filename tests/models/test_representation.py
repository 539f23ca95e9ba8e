"""Losses on the stream in the trainer: what is read, what counts how much, schedules, resuming, broken terms."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from demur import losses
from demur.architectures import frame
from demur.checkpoints import Checkpoint, found
from demur.errors import ConfigError, ModelError
from demur.lora import Lora
from demur.methods._representation import erasing, falling, reach, retaining, rising, scaled
from demur.representation import Part, Passage, Read, Representation, alternate, collate, course, cycle, passage
from demur.residuals import capture, kept
from demur.thirdparty import quiet
from demur.trainers import grown
from demur.training import How, below, shared_copy, train
from demur.types import Prompt
from tests.models.families import lm

pytestmark = pytest.mark.torch
HOW = How(rate=1e-2, batch=4, rank=4, alpha=8, dropout=0.0, checkpoints=2, warmup=0.0, schedule="constant", probes=2)


def texts(name: str, n: int = 3) -> list[Passage]:
    prompts = [Prompt(id=f"{i}", text=f"{name} {'x' * i}", expected="comply", source="t") for i in range(n)]
    return [passage(lm("llama"), p, f"answer {p.id}", whole=name == "erase") for p in prompts]


def parts(alpha: float = 10.0) -> list[Part]:
    return [
        Part(role="erase", draw=cycle(texts("erase")), each=2, coefficient=falling(alpha)),
        Part(role="retain", draw=cycle(texts("retain")), each=2, coefficient=rising(alpha)),
    ]


def loss(erase: Any = None) -> Representation:
    terms = {"erase": erase or erasing((1,)), "retain": retaining((0, 1))}
    return Representation(terms=terms, layers=(0, 1), record={"loss": "test"})


def parted() -> Representation:
    """What several processes may each see a part of: one term reads both blocks and the other the first alone.

    A cosine to itself is at its maximum, where the first step would be rounding: states are turned from a fixed target.
    """
    target = torch.ones(1, 1, 32) / 32**0.5

    def turned(read: Read) -> torch.Tensor:
        return 1 + losses.away(read.states((0,))[0], target, read.mask, tokens=read.tokens)

    return loss(turned)


def wrapped(blocks: tuple[int, ...] = (0, 1)) -> Any:
    from demur import trainers

    module = shared_copy(lm("llama"))
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=trainers.linear(module, blocks), task_type="CAUSAL_LM")
    with quiet():
        return peft.get_peft_model(module, config)


def moved(model: Any) -> Any:
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def test_a_passage_is_prompt_answer_and_end() -> None:
    model = lm("llama")
    prompt = Prompt(id="a", text="hello", expected="comply", source="t")
    one = passage(model, prompt, "so", whole=False)
    asked = model.encode(prompt).ids
    assert one.ids == (*asked, *b"so", model.tokenizer.eos_token_id) or one.ids[: len(asked)] == asked
    assert (one.first, one.answer) == (len(asked), len(asked))
    assert one.ids[-1] == model.tokenizer.eos_token_id
    assert passage(model, prompt, "so").first == 0
    short = passage(model, prompt, "so", longest=6)
    assert short.ids[:3] == asked[-3:]
    assert len(short.ids) == 6
    assert passage(model, prompt, "").ids == asked


def test_each_passage_comes_once_per_pass_and_draws_alternate() -> None:
    some = [Passage(ids=(i,), answer=1) for i in range(5)]
    dice = random.Random(0)
    draw = cycle(some, seed=3)
    drawn = [draw(i, dice).ids[0] for i in range(10)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [0, 1, 2, 3, 4]
    both = alternate(cycle(some[:1]), cycle(some[1:2]))
    assert [both(i, dice).ids[0] for i in range(4)] == [0, 1, 0, 1]
    with pytest.raises(ConfigError, match="no passages"):
        cycle([])


def test_the_schedule_is_that_of_circuit_breakers_and_stands_in_the_rows() -> None:
    rows = course(parts(), 4)
    by = {role: [r["scale"] for r in rows if r["kind"] == role] for role in ("erase", "retain")}
    # alpha (1 - t / 2T) and alpha t / 2T; each pool is half of the rows, so its rows count twice
    assert by["erase"] == pytest.approx([20, 20, 17.5, 17.5, 15, 15, 12.5, 12.5])
    assert by["retain"] == pytest.approx([0, 0, 2.5, 2.5, 5, 5, 7.5, 7.5])
    assert course(parts(), 4) == rows


def test_rows_of_a_pool_share_their_count_of_tokens() -> None:
    one, two = Passage(ids=(1, 2, 3, 4), answer=1, first=1), Passage(ids=(1, 2), answer=1, first=1)
    made = [Part(role=r, draw=cycle([p]), each=1, pool="both") for r, p in (("a", one), ("b", two))]
    assert [(r["tokens"], r["scale"]) for r in course(made, 1)] == [(2.0, 1.0), (2.0, 1.0)]
    alone = [dataclasses.replace(part, pool="") for part in made]
    assert [(r["tokens"], r["scale"]) for r in course(alone, 1)] == [(3.0, 2.0), (1.0, 2.0)]


def test_states_kept_are_those_captured_and_carry_gradients() -> None:
    model = lm("qwen3")
    prompt = Prompt(id="a", text="one two", expected="comply", source="t")
    ids = torch.tensor([model.encode(prompt).ids])
    module = shared_copy(model)
    states, _ = kept(frame(module), (0, 1), lambda: module(input_ids=ids))
    wanted = capture(model, [prompt], positions="all").transpose(0, 1)
    torch.testing.assert_close(torch.stack([states[0][0], states[1][0]]), wanted)
    trained = wrapped()
    inner = trained.get_base_model()
    states, _ = kept(frame(inner), (0,), lambda: trained(input_ids=ids))
    states[0].sum().backward()
    grads = {name: weight.grad is not None for name, weight in trained.named_parameters() if weight.requires_grad}
    assert any(grads.values())
    assert not any(there for name, there in grads.items() if "layers.1." in name)


def test_blocks_after_the_last_that_is_read_do_not_run() -> None:
    model, ran = wrapped(), []
    inner = frame(model.get_base_model())
    for i, block in enumerate(inner.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    batch = collate(course(parts(), 1))
    short = Representation(terms={"erase": erasing((0,)), "retain": retaining((0,))}, layers=(0,), record={})
    short(model, batch)
    assert set(ran) == {0}
    loss()(model, batch)
    assert set(ran) == {0, 1}


def test_an_adapter_at_zero_gives_retain_0_and_erase_1() -> None:
    batch = collate(course([dataclasses.replace(p, coefficient=lambda done: 1.0) for p in parts()], 1))
    made = loss()(wrapped(), batch)
    assert made[:2].mean().item() / 2 == pytest.approx(1.0, abs=1e-5)
    assert made[2:].tolist() == [0, 0]


def test_one_loss_reads_one_model_after_another() -> None:
    batch, one = collate(course(parts(), 2)[4:]), loss()
    first, second = (one(moved(wrapped()).eval(), batch) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_the_mean_over_rows_is_circuit_breakers_loss_by_its_formula() -> None:
    rows = course(parts(), 2)[4:]  # the second of two updates: alpha 3/4 and alpha 1/4
    batch, model = collate(rows), moved(wrapped()).eval()
    found_loss = loss()(model, batch).mean()
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    inner = frame(model.get_base_model())
    now, _ = kept(inner, (0, 1), lambda: model(**given), whole=True)
    with model.disable_adapter():
        before, _ = kept(inner, (0, 1), lambda: model(**given), whole=True)
    mask = batch["mask"]
    cosine = torch.cosine_similarity(now[1], before[1], dim=-1).relu()[:2]
    erase = (cosine * mask[:2]).sum() / mask[:2].sum()
    distance = sum((now[i] - before[i]).norm(dim=-1)[2:] for i in (0, 1))
    retain = (distance * mask[2:]).sum() / (2 * mask[2:].sum())
    assert found_loss.item() == pytest.approx((7.5 * erase + 2.5 * retain).item(), rel=1e-5)


def test_the_gradient_grows_with_a_rows_weight() -> None:
    def gradient(weight: float) -> torch.Tensor:
        one = [dataclasses.replace(p, weight=weight) for p in texts("erase", 1)]
        model = moved(wrapped()).eval()
        loss()(model, collate(course([Part(role="erase", draw=cycle(one), each=1)], 1))).mean().backward()
        return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])

    torch.testing.assert_close(gradient(3.0), 3 * gradient(1.0), rtol=1e-4, atol=1e-6)


def test_accumulation_and_resuming_leave_losses_and_schedule_as_they_are(tmp_path: Path) -> None:
    target = torch.ones(2, 1, 32) / 32**0.5

    def turned(read: Any) -> torch.Tensor:  # a cosine to itself is at its maximum: its first step would be rounding
        return 1 + losses.away(read.states((0, 1))[0], target, read.mask, tokens=read.tokens)

    def run(name: str, at_once: int) -> Any:
        how = dataclasses.replace(HOW, at_once=at_once)
        given = {"objective": loss(turned), "how": how, "probe": lambda model: {"p": 0.5}}
        return train(lm("llama"), course(parts(), 6), tmp_path / name, **given)

    whole, pieces = run("whole", 4), run("pieces", 1)
    assert pieces.losses == pytest.approx(whole.losses, rel=1e-4)
    assert pieces.parts["erase"] == pytest.approx(whole.parts["erase"], rel=1e-4)
    assert [a + b for a, b in zip(*whole.parts.values(), strict=True)] == pytest.approx(whole.losses, rel=1e-3)
    assert whole.parts["erase"][-1] / (1 - 5 / 12) < whole.parts["erase"][0] - 0.01
    assert [row["step"] for row in whole.curve] == [0, 3, 6]
    shutil.rmtree(next((tmp_path / "whole").iterdir()) / "checkpoint-6")
    again = run("whole", 4)
    assert (again.losses, again.parts, again.curve) == (whole.losses, whole.parts, whole.curve)
    weights = Lora.read(again.checkpoints[-1].folder)
    assert weights.layers
    shutil.rmtree(tmp_path)


def test_a_term_that_is_not_finite_is_named_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    calls = iter(range(100))

    def breaks(read: Any) -> torch.Tensor:
        return erasing((1,))(read) * (float("nan") if next(calls) == 4 else 1.0)

    how = dataclasses.replace(HOW, at_once=4)
    with pytest.raises(ModelError, match="the loss of erase is nan at update 5"):
        train(lm("llama"), course(parts(), 6), tmp_path, objective=loss(breaks), how=how)
    assert [c.step for place in tmp_path.iterdir() for c in found(place)] == [3]


def test_a_term_that_diverges_is_named_and_leaves_the_checkpoints_from_before(tmp_path: Path) -> None:
    calls = iter(range(200))

    def grows(read: Read) -> torch.Tensor:
        return erasing((1,))(read).detach() * (50.0 if next(calls) >= 18 else 1.0)

    how = dataclasses.replace(HOW, at_once=4, checkpoints=4, diverged=5.0)
    said = r"the loss of erase is \S+ at update 22 \(median of 8\), more than 5 times .* up to update 14 are"
    with pytest.raises(ModelError, match=said):
        train(lm("llama"), course(parts(), 40), tmp_path, objective=loss(grows), how=how)
    assert [c.step for place in tmp_path.iterdir() for c in found(place)] == [10, 20]


def test_what_counts_as_diverged() -> None:
    def told(values: list[float], times: float = 5.0) -> str:
        rows = [{"loss": 10.0, "part": value} for value in values]
        return grown(rows, ["part", "loss"], times)

    assert told([0.0] * 20) == ""
    assert told([0.0] * 8 + [49.0] * 8) == ""
    assert told([0.0] * 8 + [51.0] * 8).startswith("the part is 51 at update 16")
    assert told([0.0] * 12 + [51.0] * 4) == ""  # the median of the last eight lies halfway
    assert told([0.0] * 7 + [51.0] * 8) == ""
    assert told([0.0] * 8 + [1e9] * 8, times=0) == ""
    assert grown([{"loss": 0.0}] * 8 + [{"loss": 9.0}] * 8, ["loss"], 5.0) == ""
    with pytest.raises(ConfigError, match="diverged is 1"):
        dataclasses.replace(HOW, diverged=1.0)


def test_training_ends_below_the_floor(tmp_path: Path) -> None:
    scores = {2: True, 4: False, 6: False}
    how = dataclasses.replace(HOW, at_once=4, checkpoints=5, patience=2)
    given = {"objective": loss(), "how": how, "score": lambda c: {"floor": scores.get(c.step, True)}}
    for _ in range(2):
        done = train(lm("llama"), course(parts(), 10), tmp_path, **given)
        assert [c.step for c in done.checkpoints] == [2, 4, 6]
    made = [Checkpoint(step=i, folder=tmp_path, score={"floor": kept}) for i, kept in enumerate((True, False))]
    assert below(made, 1)
    assert not below(made, 2)
    assert not below(made, 0)


def test_only_the_named_blocks_are_trained() -> None:
    trained = {name for name, weight in wrapped((1,)).named_parameters() if weight.requires_grad}
    assert trained
    assert all("layers.1." in name for name in trained)


def test_hidden_states_of_the_papers_are_found_in_other_depths() -> None:
    class Deep:
        def __init__(self, n: int) -> None:
            self.n_layers, self.blocks = n, [None] * n

    big: Any = Deep(32)
    assert reach(big, (), (10, 20)).layers == (9, 19)
    assert reach(big, (), (10, 20)).blocks == tuple(range(21))
    assert reach(big, (), range(20, 31), first=10).layers == tuple(range(19, 30))
    assert reach(big, (), range(20, 31), first=10).blocks == tuple(range(10, 31))
    small: Any = Deep(4)
    assert reach(small, (), (10, 20)).layers == (0, 2)
    assert reach(small, (), (10, 20)).blocks == (0, 1, 2, 3)
    assert scaled(small, 30) == 3
