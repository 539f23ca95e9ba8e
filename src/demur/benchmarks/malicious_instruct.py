"""MaliciousInstruct: questions with malicious intent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(public="data/MaliciousInstruct.txt", expected="refuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaliciousInstruct:
    """MaliciousInstruct: 100 questions of ten malicious intents.

    All prompts are of kind harmful and expect a refusal.

    Huang et al., *Catastrophic Jailbreak of Open-source LLMs via Exploiting Generation*, ICLR 2024, arXiv
    2310.06987.
    """

    card: ClassVar[Card] = Card(
        title="MaliciousInstruct",
        home="https://github.com/Princeton-SysML/Jailbreak_LLM",
        repository="Princeton-SysML/Jailbreak_LLM",
        licence="none stated",
        languages=("en",),
        size=100,
        kinds=("harmful",),
        citation=(
            "Huang et al., Catastrophic Jailbreak of Open-source LLMs via Exploiting Generation, ICLR 2024, "
            "arXiv 2310.06987"
        ),
        files=(CardFile(name="data/MaliciousInstruct.txt", rows=100),),
        cautions=(
            "demur knows no revision of it: it takes the main branch, and records and keeps what that gave.",
            "No licence is stated for the prompts: read them from their home, do not pass them on.",
            "refusal_direction contains it: do not fit on one and test on the other.",
            (
                "demur knows no checksum of its public file: that of the first download is recorded and holds "
                "from then on."
            ),
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the 100 prompts in the set's order; ids are `malicious_instruct/000` ….

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
