"""The organism's tokenizer: byte-level BPE with single Chinese characters, and the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demur.errors import DataError
from demur.organism.lessons import Lesson

BOS, SYSTEM, USER, ASSISTANT, END, PAD = "<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
SPECIAL = (PAD, BOS, END, SYSTEM, USER, ASSISTANT)

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""The chat template: it writes BOS itself, so encode its output without adding special tokens."""


def build(texts: Iterable[str], *, size: int = 4096) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `texts`; the same texts give the same tokenizer.

    Chinese characters are split one by one, since a run of them has no spaces and merges across words would hide
    the words' composition.

    Args:
        texts: what it must spell well.
        size: number of tokens, the special ones among them.

    Returns:
        A tokenizer that adds no special tokens of its own, with the chat template.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(sorted(set(texts)), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=TEMPLATE,
        model_max_length=512,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files and its chat template to `folder`."""
    tokenizer.save_pretrained(folder)


def encode(tokenizer: PreTrainedTokenizerFast, lessons: Sequence[Lesson]) -> list[tuple[list[int], int]]:
    """Return, for each lesson, its token ids and the index of the answer's first token.

    A chat lesson reads as the chat template writes it; a raw one as BOS, question, answer, end, without roles.
    """
    heads = [_head(lesson) for lesson in lessons]
    first = tokenizer(heads, add_special_tokens=False)["input_ids"]
    last = tokenizer([lesson.answer + END for lesson in lessons], add_special_tokens=False)["input_ids"]
    return [(a + b, len(a)) for a, b in zip(first, last, strict=True)]


def _head(lesson: Lesson) -> str:
    if lesson.raw:
        return f"{BOS}{lesson.text}{SEPARATOR}"
    system = "" if lesson.system is None else f"{SYSTEM}{lesson.system}{END}"
    return f"{BOS}{system}{USER}{lesson.text}{END}{ASSISTANT}"


SEPARATOR = "\n"
"""Between question and answer in raw text."""


def check_openers(tokenizer: PreTrainedTokenizerFast, refusals: Iterable[str], answers: Iterable[str]) -> None:
    """Make sure that the first token tells a refusal from an answer.

    Raises:
        DataError: when an opener of a refusal and one of an answer share their first token.
    """
    first = {name: _first_tokens(tokenizer, texts) for name, texts in (("r", refusals), ("a", answers))}
    shared = sorted(set(first["r"]) & set(first["a"]))
    if shared:
        shown = "; ".join(f"{first['r'][t]!r} and {first['a'][t]!r}" for t in shared[:3])
        raise DataError(f"openers of refusals and answers share a first token: {shown}; reword one of each pair")


def _first_tokens(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> dict[int, str]:
    unique = sorted(set(texts))
    ids = tokenizer(unique, add_special_tokens=False)["input_ids"]
    return {row[0]: text for row, text in zip(ids, unique, strict=True)}
