"""AdvBench: harmful instructions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="data/advbench/harmful_behaviors.csv",
    mirror="advbench.jsonl",
    prefix="advbench-",
    text="goal",
    expected="refuse",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advbench:
    """AdvBench: 520 harmful instructions.

    All prompts are of kind harmful and expect a refusal.

    Zou et al., *Universal and Transferable Adversarial Attacks on Aligned Language Models*, 2023, arXiv
    2307.15043.
    """

    card: ClassVar[Card] = Card(
        title="AdvBench (harmful behaviours)",
        home="https://github.com/llm-attacks/llm-attacks",
        repository="llm-attacks/llm-attacks",
        revision="098262edf85f807224e70ecd87b9d83716bf6b73",
        licence="MIT",
        languages=("en",),
        size=520,
        kinds=("harmful",),
        citation=(
            "Zou et al., Universal and Transferable Adversarial Attacks on Aligned Language Models, 2023, "
            "arXiv 2307.15043"
        ),
        files=(
            CardFile(
                name="data/advbench/harmful_behaviors.csv",
                sha256="6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
                rows=520,
            ),
            CardFile(
                name="advbench.jsonl",
                sha256="4d55ebd5754422439d88102976ced1b86051503aa144479f9e1ad60cfb361244",
                rows=520,
                mirror=True,
            ),
        ),
        cautions=(
            "Many near-duplicates (bombs, hacking, identity theft): far fewer than 520 independent prompts.",
            "refusal_direction holds 153 of them: do not fit on one and test on the other.",
            "Well known, so it may be in training data.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the 520 prompts in the set's order; ids are `advbench/000` ….

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
