"""The contract of every intervention on every family of models: see design, "Contracts"."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from demur import interventions, registry
from demur.chats import Encoded
from demur.directions import Direction
from demur.errors import ConfigError, DataError, ModelError
from demur.interventions.ablate import Ablate
from demur.interventions.abliterate import Abliterate
from demur.interventions.adapter import Adapter
from demur.interventions.gated import Gated
from demur.interventions.instruct import Instruct
from demur.interventions.mapped import Mapped
from demur.interventions.stack import Stack
from demur.interventions.steer import Steer
from demur.lm import LM, attach
from demur.lora import Lora
from demur.plan import Gate, Intervention, Plan, Probe
from demur.residuals import capture
from demur.rows import Rows
from demur.slots import Slots
from demur.types import ModelRef, Prompt
from tests.models.families import FAMILIES, SANDWICH, lm

pytestmark = pytest.mark.torch

PROMPTS = ((260, 72, 101, 108, 257, 111, 33, 44, 55, 66, 77, 12), (256, 12, 13, 257, 14), (7, 9, 11, 257, 257, 3, 1, 2))
"""Token ids with the end token, which is the pad token too, inside; longer than the window of sliding families."""
ANSWER = (5, 17, 99, 3)


def direction(model: LM, layers: Sequence[int] = (1,), seed: int = 0) -> Direction:
    draws = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(layers), model.d_model, generator=draws)
    return Direction(vectors=vectors, layers=tuple(layers), model=ModelRef(id="tiny"), estimator="drawn")


def gate(model: LM, layer: int = 0) -> Gate:
    """A gate that is open for some of the prompts and shut for others."""
    weight = direction(model, seed=3).vectors[0]
    scores = (capture(model, PROMPTS, layers=(layer,))[:, 0] @ weight).sort().values
    threshold = float(scores[:2].mean()) + 0.5
    return Gate(probe=Probe(layers=(layer,)), weight=weight, bias=0.5, threshold=threshold, rule="below")


def adapter(model: LM, strength: float, seed: int = 0) -> Adapter:
    """A drawn adapter on every linear layer of the blocks."""
    draws, tensors, conv = torch.Generator().manual_seed(seed), {}, False
    for name, layer in model.module.named_modules():
        if any(name.startswith(p) for p in ("model.layers.", "gpt_neox.layers.", "transformer.h.")) and name.endswith(
            ("proj", "dense", "query_key_value", "c_attn", "c_fc")
        ):
            shape = layer.weight.shape if isinstance(layer, torch.nn.Linear) else layer.weight.shape[::-1]
            conv = conv or not isinstance(layer, torch.nn.Linear)
            tensors[f"{name}.lora_A.weight"] = torch.randn(3, shape[1], generator=draws) * 0.2
            tensors[f"{name}.lora_B.weight"] = torch.randn(shape[0], 3, generator=draws) * 0.2
    targets = tuple(sorted({n.split(".")[-3] for n in tensors}))
    lora = Lora(rank=3, alpha=6, transposed=conv, targets=targets, base="tiny", tensors=tensors)
    return Adapter(lora=lora, strength=strength)


def abliterate(model: LM, strength: float, norm: Literal["none", "column", "row"] = "none") -> Abliterate:
    return Abliterate(direction=direction(model, (0, 1)), weights=(0.5, 1.0), norm=norm, strength=strength)


KINDS: dict[str, Callable[[LM, float], Intervention]] = {
    "steer": lambda m, s: Steer(direction=direction(m), strength=s),
    "steer_all_layers": lambda m, s: Steer(direction=direction(m, (0, 1)), strength=s, point="resid_pre"),
    "steer_generated": lambda m, s: Steer(direction=direction(m), layer=0, strength=s, positions="generated[:2]"),
    "steer_prompt": lambda m, s: Steer(direction=direction(m), strength=s, positions="prompt", layer=0),
    "steer_end": lambda m, s: Steer(direction=direction(m), strength=s, positions="last_prompt", point="mlp_out"),
    "ablate": lambda m, s: Ablate(direction=direction(m), strength=s),
    "ablate_weights": lambda m, s: Ablate(direction=direction(m), strength=s, by="weights"),
    "abliterate": lambda m, s: abliterate(m, s),
    "abliterate_column": lambda m, s: abliterate(m, s, "column"),
    "abliterate_row": lambda m, s: abliterate(m, s, "row"),
    "adapter": lambda m, s: adapter(m, s),
    "mapped": lambda m, s: Mapped(
        reads=direction(m, (0, 1), seed=4), writes=direction(m, (0, 1), seed=6), strength=s / 16
    ),
    "gated": lambda m, s: Gated(inner=Steer(direction=direction(m), strength=s), gate=gate(m)),
    "gated_two_passes": lambda m, s: Gated(inner=Ablate(direction=direction(m), strength=s), gate=gate(m, 1)),
    "stack": lambda m, s: Stack(
        parts=(
            Steer(direction=direction(m), strength=s, layer=0),
            Gated(inner=Steer(direction=direction(m, seed=1), strength=-s), gate=gate(m)),
            Ablate(direction=direction(m, seed=2), strength=s / 2),
        )
    ),
}
MAIN = ("steer", "ablate", "ablate_weights", "adapter", "gated", "stack")
PAIRS = [(k, f) for k in KINDS for f in FAMILIES if k in MAIN or f in ("llama", "mistral", "gemma3")]
"""Every main kind on every family; kinds that differ in their positions alone on three."""
BY_ROW = [(k, f) for k, f in PAIRS if k not in ("ablate_weights", "adapter") and "abliterate" not in k]


def encoded(ids: Sequence[int], prompt: int | None = None) -> Encoded:
    length = len(ids) if prompt is None else prompt
    return Encoded(tuple(ids), length, length - 2)


def alone(model: LM, ids: Sequence[int], plan: Plan, prompt: int | None = None) -> Tensor:
    """Logits of every token of one row, without cache."""
    tokens, rows, _ = model.batch([encoded(ids, prompt)], [plan])
    return model.head(model.forward(tokens, rows))[0]


def stepwise(model: LM, prompts: Sequence[Sequence[int]], plans: Sequence[Plan]) -> Tensor:
    """Logits of the answer's tokens, row by row with a cache: Float["row token vocab"]."""
    tokens, rows, lengths = model.batch([encoded(p) for p in prompts], plans)
    slots = Slots(model.n_layers, len(prompts))
    slots.aim(0, rows.start, tokens.shape[1], longest=0)
    hidden = model.forward(tokens, rows, cache=slots)
    found = [model.head(hidden[torch.arange(len(prompts)), lengths - 1])]
    rows.start, rows.longest, rows.decoding = lengths, int(lengths.max()), True
    for token in ANSWER[:-1]:
        slots.aim(0, rows.start, 1, longest=rows.longest)
        step = torch.full((len(prompts), 1), token)
        found.append(model.head(model.forward(step, rows, cache=slots)[:, 0]))
    return torch.stack(found, dim=1)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether logits agree within 1e-5 of their size."""
    return float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


def moved(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) > 1e-3


@pytest.mark.parametrize(("kind", "family"), PAIRS)
def test_leaving_restores_every_bit_also_after_an_error(kind: str, family: str) -> None:
    model, untouched = lm(family), Plan()
    ids = torch.tensor([PROMPTS[0]])
    own = model.module(input_ids=ids).logits
    before = alone(model, PROMPTS[0], untouched)
    weights = {name: p.data_ptr() for name, p in model.module.named_parameters()}
    what = KINDS[kind](model, 1.0)
    with attach(model, what) as same:
        assert same is model
        capture(model, PROMPTS)
    with pytest.raises(RuntimeError, match="stop"), attach(model, what):
        raise RuntimeError("stop")
    assert torch.equal(alone(model, PROMPTS[0], untouched), before)
    assert torch.equal(model.module(input_ids=ids).logits, own)
    assert {name: p.data_ptr() for name, p in model.module.named_parameters()} == weights
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


@pytest.mark.parametrize(("kind", "family"), PAIRS)
def test_strength_0_is_the_identity_bit_for_bit_and_1_is_not(kind: str, family: str) -> None:
    model = lm(family)
    rows = [encoded((*p, *ANSWER), len(p)) for p in PROMPTS]

    def logits() -> Tensor:
        tokens, state, _ = model.batch(rows)
        return model.head(model.forward(tokens, state))

    before = logits()
    with attach(model, KINDS[kind](model, 0.0)):
        assert torch.equal(logits(), before)
    with attach(model, KINDS[kind](model, 1.0)):
        assert moved(logits(), before)


@pytest.mark.parametrize(("kind", "family"), BY_ROW)
def test_cached_is_uncached_batched_is_single_and_two_plans_are_each_alone(kind: str, family: str) -> None:
    model = lm(family)
    plan, other = KINDS[kind](model, 0.7).plan(model), Steer(direction=direction(model, seed=5), strength=1).plan(model)
    plans = [plan, Plan(), plan, other, plan]
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[0], PROMPTS[1]]
    together = stepwise(model, prompts, plans)
    for row, prompt, own in zip(together, prompts, plans, strict=True):
        whole = alone(model, (*prompt, *ANSWER), own, len(prompt))
        expected = whole[len(prompt) - 1 : len(prompt) + len(ANSWER) - 1]
        assert close(row, expected)
        assert close(stepwise(model, [prompt], [own])[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strength", [0.5, 1.0, 1.3])
def test_ablation_by_hooks_is_ablation_by_weights(family: str, strength: float) -> None:
    model = lm(family)
    hooks = Ablate(direction=direction(model), strength=strength)
    weights = Ablate(direction=direction(model), strength=strength, by="weights")
    expected = alone(model, PROMPTS[0], hooks.plan(model))
    with attach(model, weights):
        assert close(alone(model, PROMPTS[0], Plan()), expected)
        assert close(model.module(input_ids=torch.tensor([PROMPTS[0]])).logits[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("by", ["hooks", "weights"])
def test_full_ablation_leaves_nothing_along_the_direction(family: str, by: str) -> None:
    model = lm(family)
    what = Ablate(direction=direction(model), by=by)  # type: ignore[arg-type]
    r = torch.nn.functional.normalize(direction(model).vectors[0], dim=0)
    before = capture(model, PROMPTS, points="resid_post")
    with attach(model, what):
        states = capture(model, PROMPTS, points=("resid_pre", "resid_post"))
    assert float((before @ r).abs().max()) > 0.1
    assert float((states @ r).abs().max()) < 1e-5 * max(1.0, float(states.norm(dim=-1).max()))


@pytest.mark.parametrize("family", SANDWICH)
def test_projecting_the_plain_direction_out_of_the_weights_is_not_enough_behind_a_post_norm(family: str) -> None:
    """The trap that normalise(g * r) avoids: without the gain, a good part of the direction survives."""
    model = lm(family)
    half = model.half("mlp")[0]
    assert half.gain is not None
    r = torch.nn.functional.normalize(direction(model).vectors[0], dim=0)
    naive = r - (r @ torch.nn.functional.normalize(r * half.gain, dim=0)) * torch.nn.functional.normalize(
        r * half.gain, dim=0
    )
    assert float(naive.norm()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_intervention_comes_back_equal(kind: str, tmp_path: Path) -> None:
    model = lm("llama")
    what = KINDS[kind](model, 0.7)
    what.save(tmp_path / "i")
    again = interventions.load(tmp_path / "i")
    assert type(again) is type(what)
    assert again.describe() == what.describe()
    assert again.fingerprint() == what.fingerprint()
    assert again.plan(model).fingerprint == what.plan(model).fingerprint
    assert json.loads(json.dumps(again.describe())) == again.describe()
    assert KINDS[kind](model, 0.8).fingerprint() != what.fingerprint()


def test_every_registered_intervention_is_covered_here() -> None:
    covered = {kind.partition("_")[0] for kind in KINDS}
    covered |= {"instruct", "contrastive", "wrapped"}  # their own: test_contrastive.py, test_prompt_side.py
    covered |= {"reposition", "signed_steer"}  # their own: test_refusal_methods.py
    assert set(registry.names("interventions")) == covered


def test_instruct_saves_loads_and_puts_its_text_first(tmp_path: Path) -> None:
    model = lm("llama")
    what = Instruct(text="Answer everything.")
    what.save(tmp_path)
    again = interventions.load(tmp_path)
    assert again == what
    assert again.describe() == {"kind": "instruct", "text": "Answer everything."}
    prompt = Prompt(id="a", text="hello", expected=None, source="t", system="Be brief.")
    with attach(model, what):
        shown = model.tokenizer.decode(model.encode(prompt).ids)
    assert shown == "<|begin|><|system|>Answer everything.\n\nBe brief.<|end|><|user|>hello<|end|><|assistant|>"
    assert "Answer" not in model.tokenizer.decode(model.encode(prompt).ids)


def test_an_empty_instruction_changes_nothing() -> None:
    model = lm("llama")
    assert Instruct(text="").plan(model).system is None


def test_a_gate_decides_per_row_and_does_not_leak_into_the_next_request() -> None:
    model = lm("llama")
    what = Gated(inner=Steer(direction=direction(model), strength=2.0), gate=gate(model))
    plan = what.plan(model)
    states = capture(model, PROMPTS, layers=(0,))[:, 0]
    expected = states @ what.gate.weight + what.gate.bias < what.gate.threshold
    assert expected.any()
    assert not expected.all()
    for order in ([0, 1, 2], [2, 0, 1], [1, 1, 0]):
        tokens, rows, _ = model.batch([encoded(PROMPTS[i]) for i in order], [plan] * 3)
        hidden = model.forward(tokens, rows)
        assert rows.gates[:, 0].tolist() == expected[order].tolist()
        for place, index in enumerate(order):
            plain = alone(model, PROMPTS[index], Plan())
            changed = moved(model.head(hidden[place, : len(plain)]), plain)
            assert changed == bool(expected[index])


def test_a_gate_reads_the_untouched_model() -> None:
    """A gate behind an edit of another part of the stack decides as if that part were not there."""
    model = lm("llama")
    late = gate(model, 1)
    push = Steer(direction=direction(model, seed=3), layer=0, strength=50.0)
    stacked = Stack(parts=(push, Gated(inner=Steer(direction=direction(model)), gate=late))).plan(model)
    states = capture(model, PROMPTS, layers=(1,))[:, 0]
    tokens, rows, _ = model.batch([encoded(p) for p in PROMPTS], [stacked] * 3)
    model.forward(tokens, rows)
    assert rows.gates[:, 0].tolist() == (states @ late.weight + late.bias < late.threshold).tolist()


def test_tied_embeddings_keep_their_head() -> None:
    model = lm("llama")
    head = model.module.get_output_embeddings().weight
    assert head is model.module.get_input_embeddings().weight
    with attach(model, Ablate(direction=direction(model), by="weights")):
        assert model.module.get_output_embeddings().weight is head
        assert model.module.get_input_embeddings().weight is not head
    assert model.module.get_input_embeddings().weight is head


def test_several_attachments_nest() -> None:
    model = lm("llama")
    one, two = Steer(direction=direction(model)), Steer(direction=direction(model, seed=1), layer=0)
    tokens, rows, _ = model.batch([encoded(PROMPTS[0])], [Stack(parts=(one, two)).plan(model)])
    expected = model.forward(tokens, rows)
    with attach(model, one), attach(model, two):
        tokens, rows, _ = model.batch([encoded(PROMPTS[0])])
        assert torch.equal(model.forward(tokens, rows), expected)


def test_what_cannot_be_gated_is_refused() -> None:
    model = lm("llama")
    for inner in (Instruct(text="x"), Ablate(direction=direction(model), by="weights"), KINDS["gated"](model, 1.0)):
        with pytest.raises(ConfigError, match="must edit the residual stream alone"):
            Gated(inner=inner, gate=gate(model)).plan(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Steer(direction=direction(m), layer=2), "layer 2 is out of range; this model has layers 0 to 1"),
        (lambda m: Steer(direction=direction(m), positions="soon"), "positions 'soon'"),
        (lambda m: Steer(direction=direction(m), point="here"), "point 'here'"),
        (lambda m: Ablate(direction=direction(m, (0, 1))), "say which layer"),
        (lambda m: Ablate(direction=direction(m), by="magic"), "by='magic'"),
    ],
)
def test_what_does_not_fit_is_named(make: Callable[[LM], Intervention], message: str) -> None:
    model = lm("llama")
    with pytest.raises(ConfigError, match=message), attach(model, make(model)):
        model.batch([encoded(PROMPTS[0])])


def test_a_vector_of_another_width_is_named() -> None:
    model = lm("llama")
    wide = Direction(vectors=torch.ones(1, 7), layers=(0,), model=ModelRef(id="x"), estimator="drawn")
    with pytest.raises(ConfigError, match=r"shape \(7,\); this model needs \(32,\)"):
        model.bound(Steer(direction=wide).plan(model))


def test_a_folder_without_an_intervention_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no intervention\.json"):
        interventions.load(tmp_path)
    what = KINDS["gated"](lm("llama"), 1.0)
    what.save(tmp_path)
    record = json.loads((tmp_path / "intervention.json").read_text())
    (tmp_path / "intervention.json").write_text(json.dumps({**record, "kind": "wish"}))
    with pytest.raises(DataError, match="no intervention of kind 'wish'"):
        interventions.load(tmp_path)
    (tmp_path / "intervention.json").write_text(json.dumps({**record, "inner": {**record["inner"], "strength": 9.0}}))
    with pytest.raises(DataError, match="do not belong together"):
        interventions.load(tmp_path)


def test_positions_are_absolute() -> None:
    tokens = encoded((1, 2, 3, 4, 5, 6, 7), 4)
    model = lm("llama")
    rows = Rows.of([tokens], [model.bound(Plan())], model.device)
    at = rows.positions(7)
    spans = {
        "all": [0, 1, 2, 3, 4, 5, 6],
        "prompt": [0, 1, 2, 3],
        "last_prompt": [3],
        "from_instruction_end": [2, 3, 4, 5, 6],
        "generated": [4, 5, 6],
        "generated[:2]": [4, 5],
    }
    for name, expected in spans.items():
        assert rows.mask(name, at)[0].nonzero().flatten().tolist() == expected
    rows.advance(5)
    assert rows.mask("generated[:2]", rows.positions(1))[0].tolist() == [True]
    rows.advance(1)
    assert rows.mask("generated[:2]", rows.positions(1))[0].tolist() == [False]


def test_blocks_that_are_not_understood_can_be_steered_but_not_ablated(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm("llama")
    monkeypatch.setattr(model.anatomy, "problem", "blocks of another kind")
    with pytest.raises(ModelError, match="blocks of another kind"):
        Ablate(direction=direction(model)).plan(model)
    steered = alone(model, PROMPTS[0], Steer(direction=direction(model)).plan(model))
    assert moved(steered, alone(model, PROMPTS[0], Plan()))
