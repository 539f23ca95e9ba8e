"""Exports read back by their consumers: plain transformers, plain peft, the gguf package, the tokenizer alone."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from demur import registry
from demur.errors import ConfigError, ModelError
from demur.export import _checking
from demur.export.gguf_vector import FILE, GgufVector
from demur.export.lora import Lora
from demur.export.merged import Merged
from demur.export.prefix import Prefix, with_text
from demur.interventions.ablate import Ablate
from demur.interventions.abliterate import Abliterate
from demur.interventions.contrastive import Contrastive
from demur.interventions.gated import Gated
from demur.interventions.instruct import Instruct
from demur.interventions.stack import Stack
from demur.interventions.steer import Steer
from demur.lm import LM
from demur.plan import Intervention, Plan, Site
from demur.types import ModelRef, Prompt
from tests.models.families import FAMILIES, SANDWICH, TEMPLATES, build, lm, tokenizer
from tests.models.test_interventions import PROMPTS, abliterate, adapter, alone, close, direction, gate, moved

pytestmark = [
    pytest.mark.torch,
    # peft 0.21 asks transformers 5.23 for it by its old name
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning:peft"),
]

IDS = torch.tensor([PROMPTS[0]])
MARKS = {"floor": "not measured"}
EXPERTS = ("mixtral", "qwen3_moe")
SLOTTED = ("llama", "llama_bias", "gpt2", "gpt_neox")
"""Families whose class has a bias where the MLP writes."""
TARGETS: dict[str, Any] = {"merged": Merged(), "lora": Lora(), "gguf_vector": GgufVector(), "prefix": Prefix()}


def hooked(model: LM, what: Intervention) -> torch.Tensor:
    """Logits under the intervention's edits of the stream."""
    return alone(model, PROMPTS[0], what.plan(model))


def reloaded(folder: Path) -> torch.Tensor:
    """What a user of plain transformers gets from the folder."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(input_ids=IDS).logits[0]


def with_peft(model: LM, folder: Path) -> torch.Tensor:
    import peft

    with torch.no_grad():
        return peft.PeftModel.from_pretrained(copy.deepcopy(model.module), folder)(input_ids=IDS).logits[0]


def outcome(target: str, model: LM, what: Intervention, folder: Path) -> str:
    """`exact`, or why the export is refused; nothing is written then."""
    refusal = ""
    try:
        TARGETS[target](model, what.plan(model), folder, MARKS)
    except ConfigError as error:
        refusal = str(error)
    if not refusal:
        TARGETS[target].refuse(model, what.plan(model))
        return "exact"
    assert not list(folder.iterdir())
    assert refusal.startswith(f"{target.replace('_', '-')} cannot hold this intervention exactly: ")
    with pytest.raises(ConfigError):
        TARGETS[target].refuse(model, what.plan(model))
    return refusal


def test_every_target_is_tried_here() -> None:
    assert set(registry.names("export")) == set(TARGETS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_ablation_merged_is_ablation_by_hooks(family: str, strength: float, tmp_path: Path) -> None:
    model = lm(family)
    what = Ablate(direction=direction(model), strength=strength)
    before = alone(model, PROMPTS[0], Plan())
    done = Merged()(model, what.plan(model), tmp_path, MARKS)
    assert done.checked.difference < 1e-5
    assert (done.checked.same, done.checked.of) == (done.checked.of, done.checked.of)
    assert close(reloaded(tmp_path), hooked(model, what))
    assert moved(reloaded(tmp_path), before)
    assert torch.equal(alone(model, PROMPTS[0], Plan()), before)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in EXPERTS])
def test_ablation_as_rank_one_lora_is_ablation_by_hooks(family: str, tmp_path: Path) -> None:
    model = lm(family)
    what = Ablate(direction=direction(model), strength=0.8)
    Lora()(model, what.plan(model), tmp_path, MARKS)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 1
    assert close(with_peft(model, tmp_path), hooked(model, what))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_is_exported_where_there_is_a_slot_and_refused_where_there_is_none(
    family: str, tmp_path: Path
) -> None:
    model = lm(family)
    what = Steer(direction=direction(model), strength=-1.5)
    found = {}
    for target in ("merged", "lora", "gguf_vector"):
        (tmp_path / target).mkdir()
        found[target] = outcome(target, model, what, tmp_path / target)
    assert found["gguf_vector"] == "exact"
    why = "post-norm" if family in SANDWICH else "through experts" if family in EXPERTS else "has no bias slot at"
    assert found["merged"] == "exact" if family in SLOTTED else why in found["merged"]
    assert found["lora"] == "exact" if family not in (*SANDWICH, *EXPERTS) else why in found["lora"]
    if found["merged"] == "exact":
        assert close(reloaded(tmp_path / "merged"), hooked(model, what))
    if found["lora"] == "exact":
        assert close(with_peft(model, tmp_path / "lora"), hooked(model, what))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi3", "mixtral"])
def test_an_adapter_is_the_same_for_plain_peft_and_merged(family: str, tmp_path: Path) -> None:
    model, what = lm(family), adapter(lm(family), 0.4)
    expected = _checking.intended(model, what.plan(model))
    for name in ("lora", "merged"):
        (tmp_path / name).mkdir()
        TARGETS[name](model, what.plan(model), tmp_path / name, MARKS)
    last = torch.tensor([_checking.prompts(model)[-1].ids])
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        assert close(merged(input_ids=last).logits[0], expected[-1])


@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt_neox"])
def test_an_adapter_then_an_ablation_then_a_vector_fold_into_one(family: str, tmp_path: Path) -> None:
    model = lm(family)
    parts = (
        adapter(model, 0.7),
        Ablate(direction=direction(model, seed=1), embedding=False),
        Steer(direction=direction(model), layer=1, point="resid_pre"),
        Ablate(direction=direction(model, seed=2), strength=0.5, embedding=False),
    )
    plan = Stack(parts=parts).plan(model)
    done = Lora()(model, plan, tmp_path, MARKS)
    assert done.checked.difference < 1e-5
    assert "vLLM" in " ".join(done.notes)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_tied_embedding_is_untied_and_said_so_and_the_head_keeps_its_weights(family: str, tmp_path: Path) -> None:
    model = lm(family)
    assert model.module.config.tie_word_embeddings
    done = Merged()(model, Ablate(direction=direction(model)).plan(model), tmp_path, MARKS)
    assert any("they are untied" in note for note in done.notes)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["demur"] == MARKS
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.module.lm_head.weight)
    assert not torch.equal(again.lm_head.weight, again.model.embed_tokens.weight)
    kept = tmp_path / "kept"
    done = Merged()(model, Ablate(direction=direction(model), embedding=False).plan(model), kept, MARKS)
    assert json.loads((kept / "config.json").read_text())["tie_word_embeddings"] is True
    assert not any("untied" in note for note in done.notes)


def test_the_bias_that_a_llama_gains_is_the_vector_and_the_others_are_zero(tmp_path: Path) -> None:
    model = lm("llama")
    what = Steer(direction=direction(model), strength=-2.0)
    done = Merged()(model, what.plan(model), tmp_path, MARKS)
    assert any("`mlp_bias` is now true" in note for note in done.notes)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.model.layers[1].mlp.down_proj.bias, -2.0 * direction(model).vectors[0])
    others = [m.bias for n, m in again.named_modules() if n.endswith(("gate_proj", "up_proj", "0.mlp.down_proj"))]
    assert len(others) == 5
    assert not any(bool(bias.any()) for bias in others)
    assert not model.module.config.mlp_bias


def test_a_vector_file_is_read_back_by_the_gguf_package_in_llama_cpps_numbering(tmp_path: Path) -> None:
    model = lm("mistral")
    both = Stack(
        parts=(
            Steer(direction=direction(model), strength=-0.5),
            Steer(direction=direction(model, seed=1), layer=1, strength=2.0, point="mlp_out"),
        )
    )
    done = GgufVector(hint="llama")(model, both.plan(model), tmp_path, MARKS)
    reader = gguf.GGUFReader(tmp_path / FILE)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("demur.floor").contents() == "not measured"
    (tensor,) = reader.tensors
    assert tensor.name == "direction.1"
    assert tensor.data.dtype == np.float32
    wide = -0.5 * direction(model).vectors[0].double() + 2.0 * direction(model, seed=1).vectors[0].double()
    assert np.array_equal(tensor.data, wide.float().numpy())
    assert done.checked.difference < 1e-5


REFUSED: dict[str, tuple[Callable[[LM], Intervention], tuple[str, ...], str]] = {
    "gated": (
        lambda m: Gated(inner=Steer(direction=direction(m)), gate=gate(m)),
        ("merged", "lora", "gguf_vector", "prefix"),
        "it is gated: whether it acts depends on the prompt",
    ),
    "positions": (
        lambda m: Steer(direction=direction(m), positions="generated[:2]"),
        ("merged", "lora", "gguf_vector", "prefix"),
        r"it acts on generated\[:2\] tokens alone",
    ),
    "text": (
        lambda m: Instruct(text="Be kind."),
        ("merged", "lora", "gguf_vector"),
        "it puts a system text before the prompt.* --to prefix",
    ),
    "weights": (
        lambda m: Ablate(direction=direction(m), by="weights"),
        ("gguf_vector", "prefix"),
        "it changes weights",
    ),
    "projection": (
        lambda m: Ablate(direction=direction(m)),
        ("gguf_vector",),
        "its edit 'ablate' depends on the state",
    ),
    "block 0": (lambda m: Steer(direction=direction(m), layer=0), ("gguf_vector",), "output of block 0"),
    "attention": (lambda m: Steer(direction=direction(m), point="attn_out"), ("gguf_vector",), "adds at attn_out"),
    "first": (
        lambda m: Steer(direction=direction(m), layer=0, point="resid_pre"),
        ("merged", "lora", "gguf_vector"),
        "before the first block",
    ),
    "branches": (
        lambda m: Contrastive(text="Be brief.", mix=(1.5, -0.5)),
        ("merged", "lora", "gguf_vector", "prefix"),
        "it reads the conversation in a second way",
    ),
    "lengths kept": (
        lambda m: Abliterate(direction=direction(m), weights=(1.0,), norm="column"),
        ("lora", "gguf_vector", "prefix"),
        "it keeps the lengths|it changes weights",
    ),
    "nothing": (lambda m: Instruct(text=""), ("lora", "gguf_vector", "prefix"), "nothing|no vector|no system text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exact_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    make, targets, reason = REFUSED[case]
    model = lm("llama")
    for target in targets:
        with pytest.raises(ConfigError, match=reason):
            TARGETS[target](model, make(model).plan(model), tmp_path, MARKS)
    assert not list(tmp_path.iterdir())


def test_a_projection_of_the_stream_itself_is_no_edit_of_weights(tmp_path: Path) -> None:
    model = lm("llama")
    site = Site(op="ablate", layers=(1,), point="resid_post", vector="v", strength=1.0)
    plan = Plan(sites=(site,), tensors={"v": direction(model).vectors[0]})
    with pytest.raises(ConfigError, match="projects the stream itself at resid_post of layer 1"):
        Merged()(model, plan, tmp_path, MARKS)
    out = dataclasses.replace(site, point="mlp_out")
    behind = Plan(sites=(out,), tensors=plan.tensors)
    with pytest.raises(ConfigError, match="stands after a post-norm"):
        Merged()(lm("gemma2"), behind, tmp_path, MARKS)
    assert Merged()(model, behind, tmp_path, MARKS).checked.difference < 1e-5


@pytest.mark.parametrize("norm", ["none", "column", "row"])
def test_abliteration_merged_is_abliteration_in_demur(norm: str, tmp_path: Path) -> None:
    model = lm("qwen2")
    what = abliterate(model, 0.7, norm)
    done = Merged()(model, what.plan(model), tmp_path, MARKS)
    assert done.checked.difference < 1e-5
    (expected,) = _checking.intended(model, what.plan(model))[-1:]
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert close(again(input_ids=torch.tensor([_checking.prompts(model)[-1].ids])).logits[0], expected)


PARTS: list[tuple[dict[str, Any], str]] = [
    ({"origin": "v"}, "projects around an origin"),
    ({"keep_norm": True}, "gives each edited state its length back"),
    ({"op": "toward", "source": "untouched"}, "carries the state of another token"),
    ({"branches": (0,)}, "acts on some readings"),
]


@pytest.mark.parametrize(("part", "reason"), PARTS, ids=[next(reversed(part)) for part, _ in PARTS])
def test_parts_of_an_edit_that_no_weight_holds_are_named(part: dict[str, Any], reason: str, tmp_path: Path) -> None:
    site: dict[str, Any] = {"op": "ablate", "layers": (1,), "point": "mlp_out", "vector": "v", "strength": 1.0}
    model = lm("llama")
    plan = Plan(sites=(Site(**{**site, **part}),), tensors={"v": direction(model).vectors[0]})
    for target in TARGETS.values():
        with pytest.raises(ConfigError, match=reason):
            target(model, plan, tmp_path, MARKS)


def test_soft_tokens_are_no_text(tmp_path: Path) -> None:
    plan = Plan(soft_tokens="s", tensors={"s": torch.zeros(2, 32)})
    for target in TARGETS.values():
        with pytest.raises(ConfigError, match="embeddings that are no tokens"):
            target(lm("llama"), plan, tmp_path, MARKS)


def test_what_a_plan_gains_later_is_refused_until_it_is_understood(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
    class Wider(Plan):
        experts: tuple[str, ...] = ()

    model = lm("llama")
    plain = Steer(direction=direction(model)).plan(model)
    known = {f.name: getattr(plain, f.name) for f in dataclasses.fields(Plan)}
    with pytest.raises(ConfigError, match="it uses experts, which only demur's forward pass reads"):
        Merged()(model, Wider(**known, experts=("first",)), tmp_path, MARKS)
    assert Merged()(model, Wider(**known), tmp_path, MARKS).checked.difference < 1e-5


def test_quantised_weights_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = LM(build("llama"), tokenizer(), ModelRef(id="tiny-quantised"))
    model.module.config.quantization_config = {"quant_method": "gptq"}
    what = Ablate(direction=direction(model)).plan(model)
    for target in ("merged", "lora"):
        with pytest.raises(ConfigError, match=r"weights of tiny-quantised are quantised \(gptq\).*quantise the result"):
            TARGETS[target](model, what, tmp_path, MARKS)
    assert not list(tmp_path.iterdir())
    steer = Steer(direction=direction(model)).plan(model)
    assert GgufVector()(model, steer, tmp_path, MARKS).checked.same == 1  # the file acts on any quantisation


def test_half_precision_is_checked_at_its_own_tolerance(tmp_path: Path) -> None:
    model = LM(build("llama").bfloat16(), tokenizer(), ModelRef(id="tiny", dtype="bfloat16"))
    done = Merged()(model, Ablate(direction=direction(model)).plan(model), tmp_path, MARKS)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert done.checked.tolerance == 0.1


def test_an_artefact_that_does_something_else_is_not_let_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm("llama")
    monkeypatch.setattr("demur.export.merged._edited", lambda lm, made: {})
    with pytest.raises(ModelError, match=r"does not do what the intervention does.*nothing was exported"):
        Merged()(model, Ablate(direction=direction(model)).plan(model), tmp_path, MARKS)


NASTY = 'Say "yes" \\ and \\n.\n{% if x %} {{ y }} #} é 😀\r\nEnd.'


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prefix_is_the_instruct_intervention(template: str, tmp_path: Path) -> None:
    model = lm("llama", template)
    what = Instruct(text=NASTY)
    done = Prefix()(model, what.plan(model), tmp_path, {"floor": "x #} y"})
    assert done.checked.same == done.checked.of == 9
    assert (tmp_path / "system.txt").read_bytes().decode() == NASTY
    assert (tmp_path / "chat_template.jinja").is_file() == (template != "none")
    if template == "none":
        return
    asked = Prompt(id="p", text="How now?", expected=None, source="t", system="Own text.")
    turns = [{"role": "system", "content": "Own text."}, {"role": "user", "content": "How now?"}]
    exported = (tmp_path / "chat_template.jinja").read_bytes().decode()
    rendered = model.tokenizer.apply_chat_template(
        turns, chat_template=exported, tokenize=False, add_generation_prompt=True
    )
    assert rendered == model.chats.render(asked, system=what.plan(model).system)


def test_a_template_that_renders_otherwise_is_not_let_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm("llama")

    def wrong(template: str, text: str, **more: Any) -> str:
        return with_text(template, text + " Please.", **more)

    monkeypatch.setattr("demur.export.prefix.with_text", wrong)
    with pytest.raises(ModelError, match="renders 9 of 9 conversations otherwise"):
        Prefix()(model, Instruct(text="Be kind.").plan(model), tmp_path, MARKS)


def test_the_tables_of_the_page_are_those_that_the_code_makes() -> None:
    path = Path(__file__).parents[2] / "docs" / "build_export.py"
    found = importlib.util.spec_from_file_location("build_export", path)
    assert found is not None
    assert found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.page(text) == text
