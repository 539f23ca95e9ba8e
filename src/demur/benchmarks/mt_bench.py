"""MT-Bench: neutral questions for the price of a mitigation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="fastchat/llm_judge/data/mt_bench/question.jsonl",
    mirror="mt_bench.jsonl",
    prefix="mtbench-",
    id="question_id",
    text="turns",
    category="category",
    benign="plain",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MtBench:
    """MT-Bench: the first turns of 80 questions, as neutral prompts.

    All prompts are of kind plain and expect an answer. `category` is the set's own. Only the first turn is asked.

    Zheng et al., *Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena*, NeurIPS 2023, arXiv 2306.05685.
    """

    card: ClassVar[Card] = Card(
        title="MT-Bench (first turns)",
        home="https://github.com/lm-sys/FastChat",
        repository="lm-sys/FastChat",
        revision="587d5cfa1609a43d192cedb8441cac3c17db105d",
        licence="Apache-2.0",
        languages=("en",),
        size=80,
        kinds=("plain",),
        citation=(
            "Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, NeurIPS 2023, arXiv 2306.05685"
        ),
        files=(
            CardFile(
                name="fastchat/llm_judge/data/mt_bench/question.jsonl",
                sha256="119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
                rows=80,
            ),
            CardFile(
                name="mt_bench.jsonl",
                sha256="5fb54fc4a60e7f94a85408240cf1bf485146ef5a17d74d76b0562ed0e508e816",
                rows=80,
                mirror=True,
            ),
        ),
        cautions=(
            "For drift and price, not for quality: no reference answers are read.",
            "Well known, so it may be in training data.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the 80 prompts in the file's order; ids are the set's own numbers.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
