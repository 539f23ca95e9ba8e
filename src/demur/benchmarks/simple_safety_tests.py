"""SimpleSafetyTests: prompts that nearly every model should refuse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(public="sst_test_cases.csv", id="id", category="harm_area", expected="refuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleSafetyTests:
    """SimpleSafetyTests: 100 prompts on five severe harms that nearly every model should refuse.

    All prompts are of kind harmful and expect a refusal. `category` is the harm area.

    Vidgen et al., *SimpleSafetyTests: a Test Suite for Identifying Critical Safety Risks in Large Language
    Models*, 2023, arXiv 2311.08370.
    """

    card: ClassVar[Card] = Card(
        title="SimpleSafetyTests",
        home="https://huggingface.co/datasets/Bertievidgen/SimpleSafetyTests",
        hub="Bertievidgen/SimpleSafetyTests",
        revision="98223c5d8c4059c8f4d8fe2fec8720ee8a20d3c5",
        licence="CC-BY-2.0",
        languages=("en",),
        size=100,
        kinds=("harmful",),
        citation="Vidgen et al., SimpleSafetyTests, 2023, arXiv 2311.08370",
        files=(CardFile(name="sst_test_cases.csv", rows=100),),
        cautions=(
            (
                "Some prompts come from people in need: the right answer declines and points to help, which a "
                "judge may call partial."
            ),
            "100 prompts show only large losses.",
            (
                "demur knows no checksum of its public file: that of the first download is recorded and holds "
                "from then on."
            ),
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the 100 prompts in the set's order; ids are the set's own.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
