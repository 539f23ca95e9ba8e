"""Tiny random-weight models of many architectures, and a byte-level tokenizer with chat templates."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from demur.lm import LM
from demur.types import ModelRef

EOS, BOS = "<|end|>", "<|begin|>"
SYSTEM = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + SYSTEM
INJECTED = "{% if messages[0].role != 'system' %}<|system|>Be nice.<|end|>{% endif %}" + SYSTEM
THINKING = SYSTEM + (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
TEMPLATES = {"system": SYSTEM, "no_system": NO_SYSTEM, "injected": INJECTED, "thinking": THINKING, "none": None}


def tokenizer(template: str = "system") -> Any:
    """A byte-level tokenizer of 256 bytes and a few special tokens; the pad token is the end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([BOS, EOS, "<|user|>", "<|assistant|>", "<|system|>"])
    made = tf.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=EOS)
    made.chat_template = TEMPLATES[template]
    return made


VOCABULARY = 264
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
HEADS = {"head_dim": 8}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1}
TYPES = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}

FAMILIES: dict[str, Any] = {
    "llama": lambda: tf.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama_bias": lambda: tf.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: tf.Qwen2Config(**SMALL),
    "qwen3": lambda: tf.Qwen3Config(**SMALL, **HEADS, tie_word_embeddings=True),
    "mistral": lambda: tf.MistralConfig(**SMALL, **HEADS, sliding_window=6),
    "gemma2": lambda: tf.Gemma2Config(**SMALL, **HEADS, **TYPES, query_pre_attn_scalar=8),
    "gemma3": lambda: tf.Gemma3TextConfig(**SMALL, **HEADS, **TYPES, query_pre_attn_scalar=8),
    "phi3": lambda: tf.Phi3Config(**SMALL),
    "olmo2": lambda: tf.Olmo2Config(**SMALL),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
    ),
    "mixtral": lambda: tf.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**SMALL, **HEADS, **MOE),
}
SANDWICH = ("gemma2", "gemma3", "olmo2")
WINDOWED = ("mistral", "gemma2", "gemma3")


def build(name: str, *, layers: int = 2) -> Any:
    """A model of the family with fixed random weights, norms and biases included."""
    config = FAMILIES[name]()
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 1:
                noise = torch.randn(weight.shape) * 0.1
                weight.copy_(weight + noise if "norm" in key or "ln" in key else noise)
    return model


@functools.cache
def brief(name: str = "llama") -> LM:
    """A model of the family whose answers soon end, since every second token ends them."""
    made = LM(build(name), tokenizer(), ModelRef(id=f"brief-{name}", dtype="float32"))
    made.__dict__["stops"] = frozenset(range(0, VOCABULARY, 2))
    return made


@functools.cache
def lm(name: str = "llama", template: str = "system") -> LM:
    """A model of the family, ready to use; shared between tests, which must leave it as it was."""
    return LM(build(name), tokenizer(template), ModelRef(id=f"tiny-{name}", dtype="float32"))
