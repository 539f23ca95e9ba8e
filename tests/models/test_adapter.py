"""The adapter intervention against peft itself: the same logits loaded plain, merged, and row by row."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

from demur.decoding import decode
from demur.errors import ConfigError, DataError
from demur.interventions.adapter import Adapter
from demur.interventions.stack import Stack
from demur.interventions.steer import Steer
from demur.lm import LM, attach
from demur.lora import Lora
from demur.plan import Plan
from demur.types import Prompt, Sampling
from demur.weights import edits_of, swapped
from tests.models.families import lm
from tests.models.test_interventions import PROMPTS, adapter, alone, close, direction, moved

pytestmark = [
    pytest.mark.torch,
    # peft 0.21 asks transformers 5.23 for it by its old name
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:transformers"),
]

IDS = torch.tensor([PROMPTS[0]])


def peft_logits(model: LM, folder: Path) -> torch.Tensor:
    """What a plain peft user gets: the base model, and `PeftModel.from_pretrained` on the folder."""
    wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(model.module), folder)
    with torch.no_grad():
        return wrapped(input_ids=IDS).logits[0]


@pytest.mark.parametrize("family", ["llama", "llama_bias", "gemma2", "phi3", "gpt_neox", "gpt2", "mixtral"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_plain_peft_loads_the_folder_and_gives_the_same_logits(family: str, strength: float, tmp_path: Path) -> None:
    model, what = lm(family), adapter(lm(family), strength)
    what.save(tmp_path)
    before = alone(model, PROMPTS[0], Plan())
    with attach(model, what):
        ours = alone(model, PROMPTS[0], Plan())
    assert moved(ours, before)
    assert close(peft_logits(model, tmp_path / "adapter"), ours)


def test_merged_weights_give_the_same_logits_as_peft_and_as_its_own_merge(tmp_path: Path) -> None:
    model, what = lm("qwen3"), adapter(lm("qwen3"), 1.0)
    what.save(tmp_path / "it")
    before = alone(model, PROMPTS[0], Plan())
    with swapped(model, edits_of(what.plan(model))):
        model.module.save_pretrained(tmp_path / "merged")
    assert torch.equal(alone(model, PROMPTS[0], Plan()), before)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(model.module), tmp_path / "it" / "adapter")
    expected = wrapped.merge_and_unload()
    with torch.no_grad():
        assert close(merged(input_ids=IDS).logits[0], expected(input_ids=IDS).logits[0])
        assert close(merged(input_ids=IDS).logits[0], peft_logits(model, tmp_path / "it" / "adapter"))


def test_an_adapter_that_peft_made_is_read(tmp_path: Path) -> None:
    model = lm("llama")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=["q_proj", "down_proj"])
    wrapped = peft.get_peft_model(copy.deepcopy(model.module), config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    wrapped.save_pretrained(tmp_path)
    with attach(model, Adapter.read(tmp_path)):
        ours = alone(model, PROMPTS[0], Plan())
    assert close(peft_logits(model, tmp_path), ours)


def test_prompts_with_and_without_it_are_answered_in_one_call_each_as_if_alone() -> None:
    model = lm("llama")
    what = Stack(parts=(adapter(model, 1.0), Steer(direction=direction(model), strength=1.0)))
    plans = [adapter(model, 1.0), None, adapter(model, 1.0, seed=1), what, Plan()]
    prompts = [Prompt(id=str(i), text=f"question {i % 2}", expected=None, source="t") for i in range(5)]
    how = Sampling(max_new_tokens=8)
    together = {r.prompt_id: r for r in decode(model, prompts, how, plans)}
    single = {p.id: next(iter(decode(model, [p], how, plan))) for p, plan in zip(prompts, plans, strict=True)}
    assert together == single
    assert len({(r.prompt_id, r.text) for r in together.values()}) == 5
    assert together["0"].text != together["4"].text


def test_an_adapter_of_another_model_is_refused() -> None:
    what = adapter(lm("llama"), 1.0)
    with (
        pytest.raises(ConfigError, match=r"tiny-gpt2 has no linear layer named 'model\.layers"),
        attach(lm("gpt2"), what),
    ):
        pass
    narrow = {name: t[:, :3] if "lora_A" in name else t for name, t in what.lora.tensors.items()}
    lora = Lora(rank=3, alpha=6, targets=what.lora.targets, tensors=narrow)
    with pytest.raises(ConfigError, match="made for another model"), attach(lm("llama"), Adapter(lora=lora)):
        pass
    assert torch.equal(alone(lm("llama"), PROMPTS[0], Plan()), alone(lm("llama"), PROMPTS[0], Plan()))


def test_what_is_more_than_plain_lora_is_refused(tmp_path: Path) -> None:
    adapter(lm("llama"), 1.0).save(tmp_path)
    place = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(place.read_text())
    place.write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(DataError, match="use_dora is True; only plain LoRA is understood"):
        Adapter.read(tmp_path / "adapter")
