"""The plan language on random models of eight architectures: its formulas, its identities, and rows that stay apart."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from demur.decoding import decode, first_token_logits
from demur.errors import ConfigError, DataError, ModelError
from demur.lm import LM, attach
from demur.methods.adacd import Adacd
from demur.plan import Branch, Gate, Logits, Plan, Probe, Site, merge
from demur.residuals import capture
from demur.rows import Rows
from demur.slots import Slots
from demur.tasks import along, ask, tasks
from demur.types import Prompt, Response, Sampling
from tests.models.families import FAMILIES, build, lm, tokenizer
from tests.models.test_interventions import ANSWER, PROMPTS, alone, close, encoded, moved, stepwise

pytestmark = pytest.mark.torch

EIGHT = ("llama", "qwen3", "mistral", "gemma2", "phi3", "olmo2", "gpt2", "gpt_neox")
ADACD = Adacd(horizon=4)
SELFCD = Logits(mix=(2.5, -1.5))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts(count: int, longest: int = 24) -> list[Prompt]:
    draws = random.Random(0)
    texts = ["".join(draws.choice("abcdefgh ij") for _ in range(draws.randint(1, longest))) + "." for _ in range(count)]
    return [Prompt(id=f"p/{i}", text=text, expected=None, source="p") for i, text in enumerate(texts)]


def stopping(family: str) -> LM:
    """A model of which about one token in ten ends the answer, so that rows finish at different times."""
    model = LM(build(family), tokenizer(), lm(family).ref)
    model.module.generation_config.eos_token_id = [257, *range(0, 250, 10)]
    return model


def answers(rows: object) -> dict[str, Response]:
    return {r.prompt_id: r for r in rows}  # type: ignore[attr-defined]


def contrast(logits: Logits, text: str = "Say no.") -> Plan:
    return Plan(branches=(Branch(system=text),), logits=logits)


def half_open(model: LM, layer: int = 0) -> Gate:
    """A gate of the last prompt token that is open for some of PROMPTS."""
    weight = draw(32, seed=3)
    scores = (capture(model, PROMPTS, layers=(layer,))[:, 0] @ weight).sort().values
    return Gate(probe=Probe(layers=(layer,)), weight=weight, threshold=float(scores[:2].mean()))


def site(op: str = "add", **kwargs: object) -> Site:
    settings = {"op": op, "layers": (1,), "point": "resid_post", "vector": "v", "strength": 0.7, **kwargs}
    return Site(**settings)  # type: ignore[arg-type]


def one(part: Site, vector: Tensor, *gates: Gate, **tensors: Tensor) -> Plan:
    return Plan(sites=(part,), gates=gates, tensors={"v": vector, **tensors})


BANK = Gate(probe=Probe(layers=(0, 1)), weight=draw(3, 2, 32, seed=5), feature="cosine", rule="argmax", threshold=-0.2)
SHARES = Gate(probe=Probe(layers=(0,), position="prompt"), weight=draw(3, 1, 32, seed=6), rule="softmax")
SIGN = Gate(probe=Probe(layers=(0, 1), minus="prompt"), weight=draw(2, 32, seed=7), rule="sign")
CAST = Gate(
    probe=Probe(layers=(0,), point="resid_pre", position="prompt"), weight=draw(32, seed=8), feature="condition"
)
TOKEN = Gate(probe=Probe(layers=(0,)), weight=draw(32, seed=9), lifetime="token")
NOT_CAST = Gate(rule="none", of=(0,))
BOTH = Gate(rule="all", of=(0, 1))

PLANS: dict[str, Callable[[LM], Plan]] = {
    "set around an origin": lambda m: one(site("set", origin="o"), draw(32), o=draw(32, seed=1)),
    "ablate around an origin": lambda m: one(site("ablate", origin="o", layers=(0, 1)), draw(2, 32), o=draw(32)),
    "matrix": lambda m: one(site("matrix", point="norm_in"), draw(32, 32) / 6),
    "matrix of the last prompt token": lambda m: one(site("matrix", source="last_prompt"), draw(2, 32, 32) / 6),
    "matrix on the prompt": lambda m: one(
        site("matrix", source="last_prompt", positions="prompt", layers=(0,), point="resid_pre"), draw(32, 32) / 6
    ),
    "toward": lambda m: one(site("toward", source="untouched", layers=(0, 1), point="norm_in"), draw(32)),
    "toward the best of a bank": lambda m: one(
        site("toward", source="untouched", gate=0, point="norm_in"), draw(3, 2, 32), BANK
    ),
    "a mix of directions": lambda m: one(site(gate=0), draw(3, 32), SHARES),
    "signed": lambda m: one(site(gate=0, positions="from_instruction_end"), draw(32), SIGN),
    "condition": lambda m: one(site(gate=0, keep_norm=True), draw(32), dataclasses.replace(CAST, threshold=0.05)),
    "joined": lambda m: one(site(gate=1), draw(32), half_open(m), NOT_CAST),
    "shares behind a gate": lambda m: one(site(gate=2), draw(3, 32), SHARES, half_open(m), BOTH),
    "gated by each token": lambda m: one(site(gate=0), draw(32), TOKEN),
    "continuous": lambda m: one(
        site("ablate", gate=0), draw(32), Gate(probe=Probe(layers=(0,)), weight=draw(32) / 30, rule="value")
    ),
    "last": lambda m: one(site(positions="last", keep_norm=True, point="mlp_out"), draw(32)),
}


OTHER = one(site(layers=(0,)), draw(32, seed=4))
UNTOUCHED = Plan()


def uncached(model: LM, prompt: Sequence[int], plan: Plan) -> Tensor:
    return alone(model, (*prompt, *ANSWER), plan, len(prompt))[len(prompt) - 1 : len(prompt) + len(ANSWER) - 1]


@functools.cache
def known(family: str, prompt: int, other: bool) -> tuple[Tensor, Tensor]:
    """Logits without the plan under test, uncached and as a single row."""
    model, plan = lm(family), OTHER if other else UNTOUCHED
    return uncached(model, PROMPTS[prompt], plan), stepwise(model, [PROMPTS[prompt]], [plan])[0]


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("family", EIGHT)
def test_cached_is_uncached_batched_is_single_and_two_plans_are_each_alone(family: str, name: str) -> None:
    model = lm(family)
    plan, some = PLANS[name](model), (0, 1, 2, 0, 1)
    plans = [plan, UNTOUCHED, plan, OTHER, plan]
    together = stepwise(model, [PROMPTS[i] for i in some], plans)
    acted = False
    for row, i, own in zip(together, some, plans, strict=True):
        if own is not plan:
            assert all(close(row, expected) for expected in known(family, i, own is OTHER))
            continue
        if name != "last":  # what was given ends before the answer, which a pass over both cannot know
            assert close(row, uncached(model, PROMPTS[i], plan))
        assert close(row, stepwise(model, [PROMPTS[i]], [plan])[0])
        acted = acted or moved(row, known(family, i, False)[1])
    assert acted


@pytest.mark.parametrize("name", PLANS)
def test_nothing_changes_bit_for_bit_at_strength_0_or_behind_a_closed_gate(name: str) -> None:
    model = lm("llama")
    plan = PLANS[name](model)
    before = stepwise(model, PROMPTS, [Plan()] * 3)
    if plan.sites[0].op != "set":
        idle = dataclasses.replace(plan, sites=tuple(dataclasses.replace(s, strength=0.0) for s in plan.sites))
        assert torch.equal(stepwise(model, PROMPTS, [idle] * 3), before)
    shut = Gate(probe=Probe(layers=(0,)), weight=torch.zeros(32), threshold=1.0)
    gates = len(plan.gates)
    both = Gate(rule="all", of=(plan.sites[0].gate, gates)) if plan.sites[0].gate is not None else None
    if both is not None and plan.gates[0].lifetime == "token":
        return
    sites = tuple(dataclasses.replace(s, gate=gates if both is None else gates + 1) for s in plan.sites)
    closed = dataclasses.replace(plan, sites=sites, gates=(*plan.gates, shut, *([both] if both else ())))
    assert torch.equal(stepwise(model, PROMPTS, [closed] * 3), before)


def test_edits_follow_their_formulas() -> None:
    """Every op on the stream after block 0, from states captured without it."""
    model, v, o = lm("qwen3"), draw(32), draw(32, seed=1)
    h = capture(model, PROMPTS[:1], layers=(0,), positions="all")[:, 0]
    u, matrix, last = v / v.norm(), draw(32, 32, seed=2) / 6, h[-1]
    along = ((h - o) @ u)[:, None] * u
    cases = {
        "add": (site("add"), h + 0.7 * v),
        "ablate": (site("ablate", origin="o"), h - 0.7 * along),
        "set": (site("set", origin="o"), h - along + 0.7 * v),
        "matrix": (site("matrix", vector="m"), h + 0.7 * h @ matrix),
        "frozen": (site("matrix", vector="m", source="last_prompt"), h + 0.7 * last @ matrix),
        "toward": (site("toward"), h + 0.7 * (v - h)),
        "untouched": (site("toward", source="untouched"), h + 0.7 * (v - last)),
        "length": (site("add", keep_norm=True), normalize(h + 0.7 * v, dim=-1) * h.norm(dim=-1, keepdim=True)),
    }
    for part, expected in cases.values():
        plan = Plan(sites=(dataclasses.replace(part, layers=(0,)),), tensors={"v": v, "o": o, "m": matrix})
        with attach(model, plan):
            found = capture(model, PROMPTS[:1], layers=(0,), positions="all")[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def values_of(model: LM, gates: Sequence[Gate]) -> list[list[list[float]]]:
    """The values of each gate for each of PROMPTS, as a forward pass settles them."""
    plan = Plan(gates=tuple(gates))
    ids, rows, _ = model.batch([encoded(p) for p in PROMPTS], [plan] * 3)
    model.forward(ids, rows)
    columns = model.bound(plan).columns
    return [rows.gates[:, c].tolist() for c in columns]


def test_gates_are_what_their_formulas_say() -> None:
    model = lm("qwen3")
    any_of = Gate(rule="any", of=(3, 4))
    product = Gate(rule="all", of=(1, 3))
    opened = half_open(model)
    found = values_of(model, (BANK, SHARES, SIGN, CAST, opened, any_of, product))
    for row, prompt in enumerate(PROMPTS):
        post = capture(model, [prompt], positions="all")
        pre = capture(model, [prompt], layers=(0,), points="resid_pre", positions="all")[:, 0]
        assert BANK.weight is not None
        scores = [float(cosine_similarity(post[-1], w, dim=-1).mean()) for w in BANK.weight]
        best = max(range(3), key=scores.__getitem__)
        assert found[0][row] == [float(k == best and scores[k] > -0.2) for k in range(3)]
        assert SHARES.weight is not None
        shares = (SHARES.weight[:, 0] @ post[:, 0].mean(0)).softmax(-1)
        assert found[1][row] == pytest.approx(shares.tolist(), abs=1e-5)
        assert SIGN.weight is not None
        step = post[-1] - post.mean(0)
        score = float((step * SIGN.weight).sum(-1).mean())
        assert found[2][row] == [1.0 if score >= 0 else -1.0]
        c, mean = CAST.weight, pre.mean(0)
        assert c is not None
        projected = torch.tanh(torch.outer(c, c) @ mean / (c @ c))
        fires = float(float(cosine_similarity(mean, projected, dim=0)) > 0)
        assert found[3][row] == [fires]
        first = float(opened.opens(post[-1, :1]))
        assert found[4][row] == [first]
        assert found[5][row] == [max(fires, first)]
        assert found[6][row] == pytest.approx([s * fires for s in shares.tolist()], abs=1e-5)
    assert sum(v[0] for v in found[4]) in (1, 2)


# branches


def by_hand(
    model: LM, prompt: Prompt, text: str, how: Callable[[int, Tensor, Tensor], Tensor], steps: int
) -> list[int]:
    """Greedy tokens of two uncached passes per token, side by side in the model's own forward, shorter padded."""
    sides = [list(model.encode(prompt, system=s).ids) for s in (None, text)]
    written: list[int] = []
    while len(written) < steps and not (written and written[-1] in model.stops):
        texts = [[*ids, *written] for ids in sides]
        padded = [[*text, *[0] * (max(map(len, texts)) - len(text))] for text in texts]
        logits = model.module(input_ids=torch.tensor(padded)).logits
        z, other = (logits[i, len(text) - 1] for i, text in enumerate(texts))
        written.append(int(how(len(written), z.detach(), other.detach()).argmax()))
    return written


def adacd_step(n: int, z: Tensor, star: Tensor) -> Tensor:
    """The algorithm of arXiv 2604.17132 as its code runs it, alpha 4.5, lambda .9, beta .01, k 4."""
    if n >= 4:
        return z
    p, q = z.softmax(-1), star.softmax(-1)
    top = int(star.argmax())
    rank = 1 + int((z > z[top]).sum())
    agree = 1 / rank >= 0.9 and float(p.max()) >= 0.9 * float(q.max())
    s = 5.5 * star - 4.5 * z if agree else 4.5 * z - 3.5 * star
    return torch.where(p < 0.01 * p.max(), -torch.inf, s)


def text_of(model: LM, tokens: list[int]) -> str:
    kept = tokens[:-1] if tokens[-1] in model.stops else tokens
    return str(model.tokenizer.decode(kept, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("family", EIGHT)
def test_mixed_decoding_is_two_uncached_passes_by_hand_in_a_batch_of_many_plans(family: str) -> None:
    """Rows finish, branches leave at their horizon, slots are refilled; plain and steered rows are between them."""
    model, some, how = stopping(family), prompts(26), Sampling(max_new_tokens=9)
    adacd = ADACD.intervention().plan(model)
    selfcd = contrast(SELFCD, "Be safe.")
    steer = one(site(strength=2.0), draw(32))
    plans = [(None, adacd, selfcd, steer)[i % 4] for i in range(26)]
    found = answers(decode(model, some, how, plans, batch_tokens=700))
    for prompt, plan in list(zip(some, plans, strict=True))[:14]:
        if plan is adacd:
            tokens = by_hand(model, prompt, ADACD.text, adacd_step, 9)
        elif plan is selfcd:
            tokens = by_hand(model, prompt, "Be safe.", lambda n, z, star: 2.5 * z - 1.5 * star, 9)
        else:
            (row,) = decode(model, [prompt], how, plan)
            assert found[prompt.id] == row
            continue
        assert (found[prompt.id].text, found[prompt.id].n_tokens) == (text_of(model, tokens), len(tokens))
        (row,) = decode(model, [prompt], how, plan)
        assert found[prompt.id] == row
    plain = answers(decode(model, some, how))
    assert sum(found[p.id] != plain[p.id] for p, plan in zip(some, plans, strict=True) if plan in (adacd, selfcd)) > 6


@pytest.mark.parametrize("family", EIGHT)
def test_two_branches_of_one_text_are_the_plain_model_and_so_is_a_horizon_of_0(family: str) -> None:
    model, some, how = stopping(family), prompts(8), Sampling(max_new_tokens=7)
    plain = answers(decode(model, some, how))
    refuse = ADACD.intervention().plan(model)
    assert refuse.logits is not None
    same = dataclasses.replace(refuse, branches=(Branch(),))
    none = dataclasses.replace(refuse, logits=dataclasses.replace(refuse.logits, horizon=0))
    one_side = contrast(Logits(mix=(1.0, 0.0), plausible=0.0))
    off = dataclasses.replace(ADACD.intervention(), strength=0.0)
    for plan in (same, none, one_side, off, Plan(), Adacd(horizon=0).intervention()):
        rows = answers(decode(model, some, how, plan))
        assert {k: (r.text, r.n_tokens) for k, r in rows.items()} == {k: (r.text, r.n_tokens) for k, r in plain.items()}
    told = answers(decode(model, some, how, Plan(system="Say no.")))
    other = answers(decode(model, some, how, contrast(Logits(mix=(0.0, 1.0)))))
    assert {k: r.text for k, r in told.items()} == {k: r.text for k, r in other.items()}


def test_a_horizon_ends_the_branch_and_the_base_goes_on_with_what_was_written() -> None:
    model, some = stopping("llama"), prompts(10)
    short = answers(decode(model, some, Sampling(max_new_tokens=3), contrast(SELFCD)))
    plan = contrast(dataclasses.replace(SELFCD, horizon=3))
    whole = answers(decode(model, some, Sampling(max_new_tokens=8), plan))
    for prompt in some:
        begun = short[prompt.id]
        if begun.finish != "length":
            assert whole[prompt.id] == begun
            continue
        tokens = by_hand(model, prompt, "Say no.", lambda n, z, star: 2.5 * z - 1.5 * star if n < 3 else z, 8)
        assert whole[prompt.id].text == text_of(model, tokens)


def test_sampled_rows_draw_for_themselves_from_mixed_logits() -> None:
    model, some = stopping("qwen3"), prompts(12)
    how = Sampling(max_new_tokens=8, temperature=0.9, top_p=0.95, samples=2, seed=3)
    plans = [contrast(SELFCD), None, contrast(dataclasses.replace(SELFCD, plausible=0.05, horizon=5))] * 4
    whole = {(r.prompt_id, r.sample): r for r in decode(model, some, how, plans, batch_tokens=600)}
    for prompt, plan in list(zip(some, plans, strict=True))[::3]:
        for row in decode(model, [prompt], how, plan):
            assert row == whole[prompt.id, row.sample]


def test_the_mix_has_its_identities() -> None:
    z, star = draw(50, 40) * 3, draw(50, 40, seed=1) * 3
    star[::2] = z[::2] + 0.1 * star[::2]
    op = ADACD.intervention().plan(lm()).logits
    assert op is not None
    assert torch.equal(dataclasses.replace(op, plausible=0.0).combine(z, z), z)
    assert torch.equal(Logits(mix=(0.0, 1.0)).combine(z, star), star)
    assert torch.equal(Logits(mix=(1.0, 0.0)).combine(z, star), z)
    for agreement in (0.51, 0.9, 1.0):
        same_first = z.argmax(-1) == star.argmax(-1)
        sure = z.softmax(-1).amax(-1) >= agreement * star.softmax(-1).amax(-1)
        assert torch.equal(dataclasses.replace(op, agreement=agreement).agree(z, star), same_first & sure)
    mixed = op.combine(z, star)
    assert bool((mixed > -torch.inf).any(-1).all())
    assert bool((mixed == -torch.inf).any())
    rows = torch.stack([adacd_step(0, a, b) for a, b in zip(z, star, strict=True)])
    torch.testing.assert_close(mixed, rows, rtol=1e-4, atol=1e-4)
    shifted = op.combine(z.log_softmax(-1), star.log_softmax(-1)).log_softmax(-1)
    torch.testing.assert_close(shifted, mixed.log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_a_gate_decides_which_rows_are_mixed_and_the_others_are_plain() -> None:
    model, some, how = stopping("llama"), prompts(16), Sampling(max_new_tokens=7)
    states = capture(model, some, layers=(0,))[:, 0] @ draw(32, seed=3)
    middle = float(states.sort().values[7:9].mean())
    gate = Gate(probe=Probe(layers=(0,)), weight=draw(32, seed=3), threshold=middle)
    plan = Plan(branches=contrast(SELFCD).branches, logits=dataclasses.replace(SELFCD, gate=0), gates=(gate,))
    plain, mixed = (answers(decode(model, some, how, p)) for p in (None, contrast(SELFCD)))
    for order in (some, list(reversed(some)), some[3:9]):
        found = answers(decode(model, order, how, plan, batch_tokens=500))
        for prompt in order:
            opened = bool(states[some.index(prompt)] > middle)
            assert found[prompt.id] == (mixed if opened else plain)[prompt.id]


def test_a_probe_reads_a_branch_that_is_not_decoded() -> None:
    """A beginning put into another branch's mouth, read there, decides what the base does."""
    model, some, how = stopping("llama"), prompts(14), Sampling(max_new_tokens=6)
    weight = draw(2, 32, seed=2)
    probe = Probe(layers=(0, 1), position="last_prompt", minus="last", branch=1)
    gate = Gate(probe=probe, weight=weight, feature="cosine", rule="sign")
    plan = Plan(
        branches=(Branch(prefill=" Sure"),), gates=(gate,), sites=(site(gate=0, strength=1.5),), tensors={"v": draw(32)}
    )
    (begun, *_) = model.chats.tell(some, plan)
    assert model.tokenizer.decode(begun[1].ids).endswith(" Sure")
    assert begun[1].ids[: begun[1].prompt] == begun[0].ids
    found = answers(decode(model, some, how, plan, batch_tokens=400))
    signs = []
    for prompt, told in zip(some, model.chats.tell(some, plan), strict=True):
        states = capture(model, [told[1].ids], positions="all")
        step = states[told[1].prompt - 1] - states[-1]
        signs.append(1.0 if float(cosine_similarity(step, weight, dim=-1).mean()) >= 0 else -1.0)
        (row,) = decode(model, [prompt], how, one(site(strength=1.5 * signs[-1]), draw(32)))
        assert found[prompt.id] == row
    assert set(signs) == {1.0, -1.0}
    waiting = tasks(model, some, [plan] * 14, how)
    ask(model, waiting)
    asked = {t.prompt.id: float(t.gates_of(0)[0]) for t in waiting}
    assert [asked[p.id] for p in some] == signs


def test_a_site_may_act_on_some_branches_alone() -> None:
    model, some, how = stopping("llama"), prompts(6), Sampling(max_new_tokens=5)
    push = one(site(strength=3.0), draw(32))
    base, beside = (
        merge([dataclasses.replace(contrast(SELFCD), sites=(site(strength=3.0, branches=b),), tensors=push.tensors)])
        for b in ((0,), (1,))
    )
    everywhere = merge([contrast(SELFCD), push])

    def written(plan: Plan, sides: tuple[bool, bool]) -> None:
        found = answers(decode(model, some, how, plan))
        for prompt in some[:3]:
            told, tokens = model.chats.tell([prompt], plan)[0], []
            while len(tokens) < 5 and not (tokens and tokens[-1] in model.stops):
                z, star = (
                    alone(model, (*told[b].ids, *tokens), push if on else Plan(), told[b].prompt)[-1]
                    for b, on in enumerate(sides)
                )
                tokens.append(int((2.5 * z - 1.5 * star).argmax()))
            assert found[prompt.id].text == text_of(model, tokens)

    written(base, (True, False))
    written(beside, (False, True))
    written(everywhere, (True, True))


@pytest.mark.parametrize("family", EIGHT)
def test_logits_along_an_answer_are_those_it_is_drawn_from(family: str) -> None:
    model, some, how = stopping(family), prompts(6), Sampling(max_new_tokens=6)
    plan = ADACD.intervention().plan(model)
    (told,) = [answers(decode(model, some, how, plan))]
    waiting = tasks(model, some, [plan] * 6, how)
    texts = [by_hand(model, t.prompt, ADACD.text, adacd_step, 6) for t in waiting]
    for index, logits in along(model, waiting, texts, batch_tokens=200):
        assert logits[:-1].argmax(-1).tolist() == texts[index]
        assert told[waiting[index].prompt.id].n_tokens == len(texts[index])
    first = first_token_logits(model, some, plan, batch_tokens=100)
    by_id = {t.prompt.id: text[0] for t, text in zip(waiting, texts, strict=True)}
    assert first.argmax(-1).tolist() == [by_id[p.id] for p in some]


# reading in pieces, soft tokens, errors


def in_pieces(model: LM, plan: Plan) -> Tensor:
    _, rows, _ = model.batch([encoded(PROMPTS[0])], [plan])
    slots, found = Slots(model.n_layers, 1), []
    for part in (PROMPTS[0][:5], PROMPTS[0][5:]):
        slots.aim(0, rows.start, len(part), longest=rows.longest)
        found.append(model.forward(torch.tensor([part]), rows, cache=slots))
    return model.head(torch.cat(found, 1))[0]


def test_a_prompt_read_in_pieces_gives_the_same_or_is_refused() -> None:
    model = lm("qwen3")
    for plan in (one(site(positions="prompt"), draw(32)), one(site(gate=0), draw(32), TOKEN)):
        assert close(in_pieces(model, plan), alone(model, PROMPTS[0], plan))
    for name in ("matrix of the last prompt token", "toward", "joined", "mix of directions"):
        with pytest.raises(ModelError, match="whole, not in pieces"):
            in_pieces(model, next(make for key, make in PLANS.items() if key.endswith(name))(model))


@pytest.mark.parametrize("family", EIGHT)
def test_soft_tokens_are_embeddings_in_the_system_text(family: str) -> None:
    model, soft = LM(build(family), tokenizer(), lm(family).ref), draw(3, 32) / 4
    prompt = prompts(1)[0]
    plan = Plan(soft_tokens="s", system="Be kind.", tensors={"s": soft})
    told = model.chats.tell([prompt], plan)[0][0]
    head = model.tokenizer.decode(told.ids[: told.soft])
    assert head.endswith("<|system|>Be kind.\n\n")
    embedded = model.module.get_input_embeddings()(torch.tensor([told.ids])).clone()
    embedded[0, told.soft : told.soft + 3] = soft
    expected = model.module(inputs_embeds=embedded).logits[0, -1]
    found = first_token_logits(model, [prompt], plan)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    how = Sampling(max_new_tokens=6)
    together = answers(decode(model, prompts(6), how, [plan, None] * 3))
    (row,) = decode(model, [prompt], how, plan)
    assert together[prompt.id] == row
    assert moved(found, first_token_logits(model, [prompt])[0]) or family == "mistral"  # out of its window of 6


def test_an_answer_that_is_broken_off_leaves_no_hook_and_no_weight_behind() -> None:
    model, some = stopping("llama"), prompts(9)
    plan = merge([contrast(SELFCD), PLANS["shares behind a gate"](model)])
    before = first_token_logits(model, some)
    run = decode(model, some, Sampling(max_new_tokens=6), plan)
    next(iter(run))
    run.close()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="stop"), attach(model, plan):
        raise RuntimeError("stop")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    assert torch.equal(first_token_logits(model, some), before)


def test_states_of_another_branch_cannot_be_had_in_one_pass() -> None:
    model = lm()
    gate = Gate(probe=Probe(layers=(0,), branch=1), weight=draw(32))
    plan = Plan(branches=(Branch(prefill="So"),), gates=(gate,), sites=(site(gate=0),), tensors={"v": draw(32)})
    with pytest.raises(ModelError, match="read another branch"), attach(model, plan):
        capture(model, PROMPTS)


# plans as data

EVERYTHING = Plan(
    system="Be kind.",
    soft_tokens="s",
    branches=(Branch(system="Say no."), Branch(prefill="Sure")),
    gates=(BANK, SHARES, dataclasses.replace(SIGN, probe=Probe(layers=(0, 1), branch=2)), Gate(rule="any", of=(0, 1))),
    sites=(site(gate=3, branches=(0, 1)), site("set", origin="o", keep_norm=True), site("toward", source="untouched")),
    logits=Logits(mix=(4.5, -3.5), agreed=(-4.5, 5.5), plausible=0.01, horizon=10),
    tensors={"s": draw(2, 32), "v": draw(3, 2, 32), "o": draw(32)},
)


def test_a_whole_plan_goes_to_a_folder_and_back(tmp_path: Path) -> None:
    EVERYTHING.save(tmp_path)
    again = Plan.load(tmp_path)
    assert again.fingerprint == EVERYTHING.fingerprint
    assert (again.sites, again.branches, again.logits) == (EVERYTHING.sites, EVERYTHING.branches, EVERYTHING.logits)
    assert again.describe() == EVERYTHING.describe()
    lines = EVERYTHING.describe().splitlines()
    assert "branch 2: prefill 'Sure'" in lines
    assert lines[-1] == (
        "logits 4.5 x base + -3.5 x branch 1, -4.5 and 5.5 where they agree to 0.9, "
        "of tokens above 0.01 of the likeliest, for 10 tokens"
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("hue",), 1, "unknown field 'hue'"),
        (("format",), 1, "is a plan of format 1"),
        (("sites", 0, "hue"), 1, "unknown field 'hue' in Site"),
        (("gates", 0, "hue"), 1, "unknown field 'hue' in Gate"),
        (("gates", 0, "probe", "hue"), 1, "unknown field 'hue' in Probe"),
        (("branches", 0, "hue"), 1, "unknown field 'hue' in Branch"),
        (("logits", "hue"), 1, "unknown field 'hue' in Logits"),
    ],
)
def test_what_a_folder_holds_too_much_is_named(
    path: tuple[object, ...], value: object, message: str, tmp_path: Path
) -> None:
    EVERYTHING.save(tmp_path)
    record = json.loads((tmp_path / "plan.json").read_text())
    at = record
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (tmp_path / "plan.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=message):
        Plan.load(tmp_path)


def test_joined_plans_renumber_what_they_name() -> None:
    first = Plan(branches=(Branch(system="a"),), gates=(CAST,), sites=(site(gate=0),), tensors={"v": draw(32)})
    joined = merge([first, dataclasses.replace(EVERYTHING, soft_tokens="")])
    assert joined.logits is not None
    assert joined.logits.branch == 2
    assert [s.gate for s in joined.sites] == [0, 4, None, None]
    assert joined.sites[1].branches == (0, 2)
    assert joined.gates[4].of == (1, 2)
    assert joined.gates[3].probe is not None
    assert joined.gates[3].probe.branch == 3
    assert joined.sites[2].origin == "1.o"
    with pytest.raises(ConfigError, match="2 of the plans mix logits; at most one may"):
        merge([EVERYTHING, contrast(SELFCD)])
    with pytest.raises(ConfigError, match="2 of the plans bring soft tokens"):
        merge([dataclasses.replace(EVERYTHING, logits=None)] * 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: contrast(Logits(mix=(1, 1), branch=2)), "logits names branch 2, but there are 1 beside the base"),
        (lambda: Logits(mix=(1.0, 1.0), plausible=2.0), "plausible is 2.0; it must be from 0 to 1"),
        (lambda: Logits(mix=(1.0, float("nan"))), "no two finite numbers"),
        (lambda: Plan(gates=(Gate(rule="all", of=(0,)),)), "only gates before it can be joined"),
        (lambda: Plan(gates=(TOKEN, Gate(rule="any", of=(0,)))), "another lifetime"),
        (lambda: Gate(rule="above"), "give a probe and its weight"),
        (lambda: Gate(probe=Probe(layers=(0, 1)), weight=draw(3, 32)), "3 rows for the 2 layers"),
        (lambda: Gate(probe=Probe(layers=(0,)), weight=draw(32), rule="near"), "rule 'near'"),  # type: ignore[arg-type]
        (lambda: site("add", source="untouched"), "a source belongs to matrix and toward"),
        (lambda: site("swap"), "op 'swap'"),
        (
            lambda: lm().bound(
                one(site(layers=(0,), gate=0), draw(32), dataclasses.replace(TOKEN, probe=Probe(layers=(1,))))
            ),
            "which each token reads later, at resid_post of layer 1",
        ),
        (lambda: lm().bound(one(site("matrix"), draw(32, 7))), r"this model needs \(32, 32\)"),
        (lambda: lm().bound(one(site(gate=0), draw(2, 32), BANK)), "has 2 rows for a gate of 3 choices"),
    ],
)
def test_what_does_not_fit_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_eight_families_are_enough_of_them() -> None:
    assert set(EIGHT) <= set(FAMILIES)
    assert len(EIGHT) == 8
    assert Rows.of([], [], torch.device("cpu")).known
