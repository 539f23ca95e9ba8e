"""GSM8K: neutral questions for the price of a mitigation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="grade_school_math/data/test.jsonl",
    mirror="gsm8k_test.jsonl",
    prefix="gsm8k-",
    text="question",
    width=4,
    benign="plain",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gsm8k:
    """GSM8K: the 1,319 questions of the test, without answers, as neutral prompts.

    All prompts are of kind plain and expect an answer.

    Cobbe et al., *Training Verifiers to Solve Math Word Problems*, 2021, arXiv 2110.14168.
    """

    card: ClassVar[Card] = Card(
        title="GSM8K (test questions)",
        home="https://github.com/openai/grade-school-math",
        repository="openai/grade-school-math",
        revision="3101c7d5072418e28b9008a6636bde82a006892c",
        licence="MIT",
        languages=("en",),
        size=1319,
        sample=100,
        kinds=("plain",),
        citation="Cobbe et al., Training Verifiers to Solve Math Word Problems, 2021, arXiv 2110.14168",
        files=(
            CardFile(
                name="grade_school_math/data/test.jsonl",
                sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
                rows=1319,
            ),
            CardFile(
                name="gsm8k_test.jsonl",
                sha256="7be803406f50da4d797623460943e73097dd37958fa933d4aaf678ae320e263c",
                rows=100,
                mirror=True,
            ),
        ),
        cautions=(
            "For drift and price; `demur capability` measures accuracy.",
            "The mirror's file is a sample: 100 of 1,319 questions.",
            "Well known, so it may be in training data.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order; ids are the numbers of the public file's rows.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
