"""The random-weight models and the prompts that the capture comparison runs on, made once under `perf/out/`."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

OUT = Path(__file__).parent / "out"
VOCABULARY = 32_000
SHORTEST, LONGEST = 4, 89
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }} {% endfor %}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama with random weights and a 32 k vocabulary."""

    name: str
    d_model: int
    layers: int
    heads: int
    ffn: int
    tied: bool
    """Whether the output embedding is the input embedding."""
    prompts: int
    """How many prompts the comparison captures on it."""


SHAPES = (
    # The embedded model's shape with a vocabulary of the usual size: the head outweighs the body.
    Shape(name="9M", d_model=128, layers=4, heads=4, ffn=384, tied=False, prompts=512),
    # The body outweighs the head, as in real models.
    Shape(name="67M", d_model=512, layers=16, heads=8, ffn=1376, tied=True, prompts=96),
)


def make_model(shape: Shape) -> Path:
    """Return the folder of the model (weights from seed 0, tokenizer, chat template), making it if it is not there."""
    folder = OUT / "models" / shape.name
    if (folder / "done").is_file():
        return folder
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.d_model,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=512,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    (folder / "done").touch()
    return folder


def token_ids(count: int, *, shortest: int = SHORTEST, longest: int = LONGEST, seed: int = 0) -> list[list[int]]:
    """Return `count` prompts as token ids, lengths uniform between shortest and longest."""
    draw = random.Random(seed)
    return [[draw.randrange(3, VOCABULARY) for _ in range(draw.randint(shortest, longest))] for _ in range(count)]


def write_ids(shape: Shape, count: int) -> Path:
    """Write the prompts of a comparison and return the file."""
    path = OUT / f"ids-{shape.name}-{count}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(token_ids(count)), encoding="utf-8")
    return path
