"""FalseReject: the human-annotated test of prompts that look toxic and are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(public="test.jsonl", category="category_text", width=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseReject:
    """FalseReject: 1,187 human-checked test prompts that look toxic and are safe, in 44 categories.

    All prompts are of kind borderline and expect an answer. `category` is the set's own. The training part is not
    read.

    Zhang et al., *FalseReject: A Resource for Improving Contextual Safety and Mitigating Over-Refusals in LLMs
    via Structured Reasoning*, COLM 2025, arXiv 2505.08054.
    """

    card: ClassVar[Card] = Card(
        title="FalseReject (test)",
        home="https://huggingface.co/datasets/AmazonScience/FalseReject",
        hub="AmazonScience/FalseReject",
        licence="CC-BY-NC-4.0",
        languages=("en",),
        size=1187,
        kinds=("borderline",),
        citation="Zhang et al., FalseReject, COLM 2025, arXiv 2505.08054",
        files=(CardFile(name="test.jsonl"),),
        cautions=(
            "demur knows no revision of it: it takes the main branch, and records and keeps what that gave.",
            "Not for commercial use.",
            "Written by language models to be refused; some readers will call single items unsafe.",
            (
                "demur knows no checksum of its public file: that of the first download is recorded and holds "
                "from then on."
            ),
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the test prompts in the set's order; ids are `false_reject/0000` ….

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
