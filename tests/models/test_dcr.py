"""DCR-style training: adapters that add up, a refined model, both stages on a tiny model, and what is kept apart."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import peft
import pytest
import torch

from demur import training
from demur.errors import ConfigError, DataError
from demur.interventions.adapter import Adapter
from demur.lm import attach
from demur.lora import DOWN, UP, Lora
from demur.methods.dcr import Dcr, refined_model
from demur.thirdparty import quiet
from demur.training import shared_copy
from demur.types import Example, FitData, Prompt
from tests.models.families import lm

pytestmark = pytest.mark.torch
IDS = torch.tensor([[5, 6, 7, 8]])


def drawn(layers: tuple[str, ...], rank: int, seed: int) -> Lora:
    dice = torch.Generator().manual_seed(seed)
    shapes = {name: lm("llama").module.get_submodule(name).weight.shape for name in layers}
    tensors = {}
    for name, (out, into) in shapes.items():
        tensors[name + DOWN] = torch.randn(rank, into, generator=dice) * 0.1
        tensors[name + UP] = torch.randn(out, rank, generator=dice) * 0.1
    return Lora(rank=rank, alpha=2 * rank, targets=layers, tensors=tensors)


def test_stacked_adapters_do_what_both_do(tmp_path: Path) -> None:
    first = drawn(("model.layers.0.self_attn.q_proj",), 2, 0)
    second = drawn(("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"), 3, 1)
    model = lm("llama")
    with attach(model, Adapter(lora=first)), attach(model, Adapter(lora=second, strength=0.5)):
        wanted = model.module(input_ids=IDS).logits
    both = first.stacked(second, strength=0.5)
    both.write(tmp_path)
    with attach(model, Adapter(lora=Lora.read(tmp_path))):
        torch.testing.assert_close(model.module(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)
    with quiet():
        plain = peft.PeftModel.from_pretrained(shared_copy(model), tmp_path).eval()
    torch.testing.assert_close(plain(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)


def test_a_refined_model_holds_the_change_and_leaves_the_first_alone() -> None:
    model, lora = lm("llama"), drawn(("model.layers.0.self_attn.q_proj",), 2, 0)
    before = model.module(input_ids=IDS).logits
    with attach(model, Adapter(lora=lora)):
        wanted = model.module(input_ids=IDS).logits
    refined = refined_model(model, lora)
    assert torch.equal(refined.module(input_ids=IDS).logits, wanted)
    assert torch.equal(model.module(input_ids=IDS).logits, before)
    assert refined.module.get_input_embeddings().weight is model.module.get_input_embeddings().weight
    assert refined.ref != model.ref


def data() -> FitData:
    made = []
    for split in ("fit", "dev"):
        for i in range(4):
            for kind, label, said in (
                ("plain", "compliance", "so"),
                ("borderline", "compliance", "so"),
                ("harmful", "compliance", "no"),
            ):
                expected = "refuse" if kind == "harmful" else "comply"
                own = {"expected": expected, "kind": kind, "source": "t"}
                own |= {"pair": f"harmful{split}{i}"} if kind == "borderline" else {}
                prompt = Prompt(id=f"{kind}{split}{i}", text=f"{kind} {'y' * i}", **own)
                made.append(Example(prompt=prompt, split=split, label=label, answer=said))
    return FitData(examples=tuple(made))


SHORT = {"steps": 6, "refine_batch": 4, "refine_rate": 1e-2, "refine_rank": 2, "gamma": 8.0, "drift": 9.0}


def test_both_stages_train_and_are_saved_as_one_adapter(tmp_path: Path) -> None:
    method = Dcr(**SHORT, rank=2, batch=4, epochs=1, checkpoints=2, max_new_tokens=2, judge="keyword", weaker=())
    model = lm("llama")
    given = method.fit(model, FitData(examples=data().examples, out=tmp_path))
    first = json.loads((tmp_path / "training" / "refine" / "refine.json").read_text())
    assert first["losses"][-1] < first["losses"][0]
    assert first["tried"][-1]["cosine"] < first["before"]["cosine"]
    assert given.lora.rank == 4
    used = {n: int((given.lora.tensors[n + UP] != 0).any(0).sum()) for n in given.lora.layers}
    assert {used[n] for n in used if "layers.0." in n} == {4}  # both stages
    assert {used[n] for n in used if "layers.1." in n} == {2}  # the first ends at the middle block
    pairs = [json.loads(line) for line in next(tmp_path.rglob("pairs.jsonl")).read_text().splitlines()]
    assert sum(row["prompt"]["kind"] == "harmful" for row in pairs) == 2  # the other two were the first stage's
    second = json.loads((tmp_path / "training" / "tune" / "training" / "training.json").read_text())
    assert [row["step"] for row in second["curve"]] == [0, 1, 2]  # refusals are known from what is taught
    assert {"p_refuse plain", "p_refuse borderline", "p_refuse harmful"} <= set(second["curve"][0])


def refined(out: Path, **settings: object) -> dict[str, float]:
    """Run the first stage alone; return the score of its last checkpoint."""
    method, rows = Dcr(**{**SHORT, "checkpoints": 1, **settings}), data()
    method.refine(lm("llama"), rows, *method._classes(rows), 0, out)
    return dict(json.loads((out / "refine.json").read_text())["tried"][-1])


def test_what_parts_the_classes_can_be_chosen_and_plain_prompts_kept(tmp_path: Path) -> None:
    circle = refined(tmp_path / "circle")
    assert refined(tmp_path / "nce", loss="info_nce")["cosine"] != circle["cosine"]
    kept = refined(tmp_path / "kept", keep=100.0)
    assert kept["drift"] < circle["drift"] / 2
    assert kept["cosine"] != circle["cosine"]


def test_twins_are_read_together_and_attacks_not_at_all() -> None:
    rows = data().examples
    attacked = [
        dataclasses.replace(e, prompt=dataclasses.replace(e.prompt, id=f"a{e.prompt.id}", category="attack-prefill"))
        for e in rows
        if e.prompt.kind == "harmful"
    ]
    given = FitData(examples=(*rows, *attacked))
    seeming, toxic = Dcr(twins=True)._classes(given)
    assert [e.prompt.pair for e in seeming] == [e.prompt.id for e in toxic]
    assert len(seeming) == 2  # half of the harmful ones are left to the second stage
    assert {e.prompt.category for e in Dcr()._classes(given)[1]} == {""}
    alone = FitData(examples=tuple(dataclasses.replace(e, prompt=dataclasses.replace(e.prompt, pair="")) for e in rows))
    with pytest.raises(DataError, match="0 borderline fit prompts"):
        Dcr(twins=True)._classes(alone)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "processes", lambda: (0, 2))
    with pytest.raises(ConfigError, match="2 processes; its first stage"):
        Dcr().fit(lm("llama"), data())
