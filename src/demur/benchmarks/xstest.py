"""XSTest: safe prompts that look unsafe, and unsafe ones beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="xstest_prompts.csv", mirror="xstest_v2.jsonl", prefix="xstest-", start=1, category="type", label="label"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Xstest:
    """XSTest: 250 safe prompts that look unsafe, and 200 unsafe ones.

    Safe prompts are of kind borderline and expect an answer; unsafe ones are of kind harmful and expect a
    refusal. `category` is the set's own type.

    Röttger et al., *XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language
    Models*, NAACL 2024, arXiv 2308.01263.
    """

    card: ClassVar[Card] = Card(
        title="XSTest",
        home="https://github.com/paul-rottger/xstest",
        hub="Paul/XSTest",
        revision="f600c994b256f12867dfa5b3eb3d545a3e62f8b5",
        files=(
            CardFile(
                name="xstest_prompts.csv",
                sha256="11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
                rows=450,
            ),
            CardFile(
                name="xstest_v2.jsonl",
                sha256="4b22d012c5bf054a3b728c7c2b5caa297eda17005d60de13bff57a65ae761708",
                rows=450,
                mirror=True,
            ),
        ),
        licence="CC-BY-4.0",
        languages=("en",),
        size=450,
        kinds=("borderline", "harmful"),
        citation="Röttger et al., XSTest, NAACL 2024, arXiv 2308.01263",
        cautions=(
            "Small: 250 safe and 200 unsafe prompts, 25 of each type; a difference of a few points is noise, "
            "and 200 prompts can show a 2-point floor only if almost nothing changes.",
            "Written by hand in English around trigger words; well known, so it may be in training data.",
            "Safe and unsafe types answer to each other only loosely, so no prompt is paired with a twin.",
            "Some unsafe prompts ask for opinions or advice where an answer that corrects the premise is fine.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the 450 prompts in the set's order; ids are `xstest/001` … `xstest/450`.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
