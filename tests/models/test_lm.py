"""Loading, rendering, the forward pass against the models' own, and the models that are refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from demur import loading
from demur.chats import Chats, split_thinking
from demur.errors import ConfigError, ModelError, NotFound, Unavailable
from demur.lm import LM, load
from demur.plan import Plan
from demur.types import ModelRef, Prompt
from tests.models.families import FAMILIES, TEMPLATES, build, lm, tokenizer

pytestmark = pytest.mark.torch


def prompt(text: str = "How do I kill a process?", **kwargs: Any) -> Prompt:
    return Prompt(id="p/0", text=text, expected="comply", source="p", **kwargs)


def shown(template: str, what: Prompt, **kwargs: Any) -> str:
    return Chats(tokenizer(template)).render(what, **kwargs)


# the forward pass


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_models_own_for_rows_of_different_length(family: str) -> None:
    model = lm(family)
    rows = [list(range(3, 17)), [4, 257, 6], [250, 257, 257, 8, 9, 10, 11]]
    ids, state, _ = model.batch(model.encode_all(rows))
    ours = model.head(model.forward(ids, state))
    for row, tokens in zip(ours, rows, strict=True):
        own = model.module(input_ids=torch.tensor([tokens])).logits[0]
        torch.testing.assert_close(row[: len(tokens)], own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_that_writes_to_the_stream_is_found(family: str) -> None:
    model = lm(family)
    assert model.anatomy.problem == ""
    assert len(model.anatomy.embedding) == (2 if family == "gpt2" else 1)
    for part in ("attention", "mlp"):
        for half in model.half(part):  # type: ignore[arg-type]
            assert half.writers
            for writer in half.writers:
                assert getattr(writer.module, writer.name).shape[writer.axis] == model.d_model
            assert (half.gain is not None) == (family in ("gemma2", "gemma3", "olmo2"))


def test_a_head_with_a_cap_is_applied_whole() -> None:
    model = lm("gemma2")
    assert not model._plain_head
    cap = model.module.config.final_logit_softcapping
    hidden = torch.randn(2, 3, model.d_model) * 50
    matrix = model.module.get_output_embeddings().weight
    torch.testing.assert_close(model.head(hidden), cap * torch.tanh(hidden @ matrix.T / cap), rtol=1e-4, atol=1e-4)


def test_half_precision_gives_float32_logits() -> None:
    model = LM(build("llama").bfloat16(), tokenizer(), ModelRef(id="half", dtype="bfloat16"))
    ids, rows, _ = model.batch(model.encode_all([[5, 6, 7]]))
    assert model.head(model.forward(ids, rows)).dtype == torch.float32
    loading.check(model)
    assert model.anatomy.problem == ""


# chats


def test_a_prompt_is_rendered_with_its_system_text_and_history() -> None:
    what = prompt("And now?", system="Be brief.", history=(("user", "Hi"), ("assistant", "Hello")))
    assert shown("system", what) == (
        "<|begin|><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Hello<|end|>"
        "<|user|>And now?<|end|><|assistant|>"
    )


def test_tokens_are_those_of_the_rendered_text_without_a_second_begin() -> None:
    model = lm()
    encoded = model.encode(prompt("ab"))
    assert list(encoded.ids) == model.tokenizer.convert_tokens_to_ids(
        ["<|begin|>", "<|user|>", "a", "b", "<|end|>", "<|assistant|>"]
    )
    assert (encoded.prompt, encoded.instruction) == (6, 4)


def test_a_template_without_a_system_role_gets_the_text_in_the_first_user_message() -> None:
    what = prompt("And now?", system="Be brief.", history=(("user", "Hi"), ("assistant", "Hello")))
    assert "<|user|>Be brief.\n\nHi<|end|>" in shown("no_system", what)
    assert not Chats(tokenizer("no_system")).has_system


def test_a_templates_own_system_text_stands_unless_it_is_replaced_or_suppressed() -> None:
    chats = Chats(tokenizer("injected"))
    assert chats.default_system
    assert "Be nice." in chats.render(prompt())
    assert "Be nice." not in chats.render(prompt(system=""))
    assert "<|system|>Be brief.<|end|>" in chats.render(prompt(system="Be brief."))
    assert not Chats(tokenizer("system")).default_system
    assert "<|system|>" not in shown("system", prompt(system=""))


def test_thinking_can_be_switched_off() -> None:
    assert shown("thinking", prompt(), thinking="off").endswith("<|assistant|><think>\n\n</think>\n\n")
    assert shown("thinking", prompt(), thinking="on").endswith("<|assistant|>")
    assert shown("thinking", prompt()).endswith("<|assistant|>")
    assert shown("system", prompt(), thinking="off").endswith("<|assistant|>")


def test_a_header_that_opens_a_thinking_block_is_closed_or_noticed() -> None:
    spoken = tokenizer("system")
    spoken.chat_template = TEMPLATES["system"] + "{% if add_generation_prompt %}<think>\n{% endif %}"
    chats = Chats(spoken)
    assert chats.encode([prompt()])[0].thinking
    off = chats.render(prompt(), thinking="off")
    assert off.endswith("<think>\n\n</think>\n\n")
    assert not chats.encode([prompt()], thinking="off")[0].thinking


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        ("an answer", False, ("", "an answer")),
        ("<think>\nhm</think>\n\nan answer", False, ("hm", "an answer")),
        ("hm</think>an answer", True, ("hm", "an answer")),
        ("still thinking", True, ("still thinking", "")),
        ("<think>still thinking", False, ("still thinking", "")),
        ("the word </think> alone", False, ("the word", "alone")),
    ],
)
def test_thinking_is_split_off(text: str, is_open: bool, expected: tuple[str, str]) -> None:
    assert split_thinking(text, is_open=is_open) == expected


def test_a_prefill_stands_after_the_header_and_a_prompts_own_wins() -> None:
    model = lm()
    plain = model.encode(prompt("ab"))
    filled = model.encode(prompt("ab"), prefill="Sure")
    assert filled.prompt == plain.prompt
    assert filled.ids[: plain.prompt] == plain.ids
    assert model.tokenizer.decode(filled.ids[plain.prompt :]) == "Sure"
    own = model.encode(prompt("ab", meta=(("prefill", "No"),)), prefill="Sure")
    assert model.tokenizer.decode(own.ids[plain.prompt :]) == "No"


def test_without_a_template_prompts_are_plain_text() -> None:
    assert shown("none", prompt("Hello", system="Be brief.")) == "Be brief.\n\nHello"
    assert Chats(tokenizer("none")).sha == ""


def test_an_empty_prompt_without_a_template_is_named() -> None:
    with pytest.raises(ModelError, match="prompt p/0 is empty"):
        Chats(tokenizer("none")).encode([prompt("")])


def test_the_instruction_ends_where_the_users_text_ends_in_several_scripts() -> None:
    model = lm()
    for text in ("如何杀死一个进程?", "  spaces around  ", "a\nb", "ünïcödé"):
        encoded = model.encode(prompt(text))
        rest = model.tokenizer.decode(encoded.ids[encoded.instruction : encoded.prompt])
        assert rest.strip() == "<|end|><|assistant|>"


def test_stops_are_every_end_the_configuration_names() -> None:
    model = LM(build("llama"), tokenizer(), ModelRef(id="x"))
    model.module.generation_config.eos_token_id = [259, 260]
    assert model.stops == {257, 259, 260}


# loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    build("llama").half().save_pretrained(place)
    tokenizer().save_pretrained(place)
    return place


def test_a_folder_in_half_precision_loads_as_float32_on_a_cpu_and_says_so(folder: Path) -> None:
    model = load(str(folder), device="cpu")
    assert model.dtype == torch.float32
    assert model.choice.startswith("cpu, float32: ")
    assert model.choice.endswith("one thread, which is enough at this size")
    assert torch.get_num_threads() == 1
    assert model.ref.id == str(folder)
    assert model.ref.revision.startswith("sha256:")
    assert len(model.ref.template_sha) == 16
    assert (model.n_layers, model.d_model) == (2, 32)
    assert load(str(folder), device="cpu").ref == model.ref


def test_a_dtype_that_is_asked_for_is_taken(folder: Path) -> None:
    assert load(str(folder), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    build("qwen2").save_pretrained(tmp_path)
    tokenizer("none").save_pretrained(tmp_path)
    assert "no chat template" in load(str(tmp_path), device="cpu").choice


@pytest.mark.parametrize("name", ["gemma3", "gpt_neox", "mixtral"])
def test_families_survive_a_folder(name: str, tmp_path: Path) -> None:
    build(name).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    ids, rows, _ = lm(name).batch(lm(name).encode_all([[5, 6, 7, 8]]))
    expected = lm(name).head(lm(name).forward(ids, rows))
    model = load(str(tmp_path), device="cpu")
    ids, rows, _ = model.batch(model.encode_all([[5, 6, 7, 8]]))
    assert torch.equal(model.head(model.forward(ids, rows)), expected)


def test_folders_that_hold_no_decoder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load(str(tmp_path))
    with pytest.raises(ModelError, match="is not a folder"):
        load("./nowhere/at/all")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tf.BertForMaskedLM(tf.BertConfig(vocab_size=300, **small)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"no decoder-only language model \(BertForMaskedLM\)"):
        load(str(tmp_path / "bert"))
    config = tf.T5Config(vocab_size=300, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    tf.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelError, match="no decoder-only language model"):
        load(str(tmp_path / "t5"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(ModelError, match="no model that transformers knows"):
        load(str(tmp_path / "odd"))


def test_a_folder_without_its_weights_is_named(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(tmp_path))


def test_unknown_names_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    with pytest.raises(NotFound, match="did you mean 'organism'"):
        load("organsm")
    with pytest.raises(Unavailable, match="is not in the local cache; load it once while online"):
        load("some-owner/some-model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE")
    with pytest.raises(Unavailable, match="cannot be reached"):
        load("some-owner/some-model")
    assert time.monotonic() - begun < 10


def test_settings_that_do_not_exist_are_named(folder: Path) -> None:
    with pytest.raises(NotFound, match="did you mean 'float32'"):
        load(str(folder), dtype="float23")
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used"):
        load(str(folder), device="cuda:99")


def test_a_model_that_sees_the_future_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LM(build("llama"), tokenizer(), ModelRef(id="both-ways"))
    for block in model.blocks:
        monkeypatch.setattr(block.self_attn, "is_causal", False)
    model.module.config.is_causal = False
    with pytest.raises(ModelError, match=r"both-ways .* is not understood"):
        loading.check(model)


def test_attention_that_cannot_be_masked_is_refused() -> None:
    module = build("qwen2")
    module.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ModelError, match="uses chunked_attention"):
        LM(module, tokenizer(), ModelRef(id="x"))


def test_a_module_without_blocks_is_refused() -> None:
    module = build("llama")
    module.model.layers = torch.nn.ModuleList(list(module.model.layers)[:1])
    with pytest.raises(ModelError, match="no list of 2 blocks"):
        LM(module, tokenizer(), ModelRef(id="x"))


def test_blocks_that_scale_what_they_add_are_noticed() -> None:
    config = tf.GraniteConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        residual_multiplier=0.3,
        logits_scaling=3.0,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = LM(tf.GraniteForCausalLM(config).eval(), tokenizer(), ModelRef(id="granite"))
    loading.check(model)
    assert "does not add its attention and MLP outputs" in model.anatomy.problem
    with pytest.raises(ModelError, match="granite: its mlp is not understood"):
        model.port(0, "mlp_out")


def test_a_hundred_plans_do_not_pile_up() -> None:
    model = lm()
    for _ in range(100):
        model.bound(Plan())
    assert len(model._bound) <= 65
