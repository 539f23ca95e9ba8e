"""OR-Bench: prompts that look toxic and are not, and toxic ones beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLES = {
    "hard": _rows.Table(
        public="or-bench-hard-1k.csv",
        mirror="orbench_hard_300.jsonl",
        prefix="orbench-",
        part="hard-",
        category="category",
        width=4,
    ),
    "80k": _rows.Table(
        public="or-bench-80k.csv",
        mirror="orbench_80k_pool.jsonl",
        prefix="orbench",
        part="80k-",
        category="category",
        width=5,
    ),
    "toxic": _rows.Table(public="or-bench-toxic.csv", part="toxic-", category="category", expected="refuse"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrBench:
    """OR-Bench: 1,319 hard prompts that look toxic and are safe (or all 80k, or the 655 toxic ones).

    Safe prompts are of kind borderline and expect an answer; toxic ones are of kind harmful and expect a refusal.
    `category` is the set's own.

    Cui et al., *OR-Bench: An Over-Refusal Benchmark for Large Language Models*, ICML 2025, arXiv 2405.20947.
    """

    subset: Literal["hard", "80k", "toxic"] = "hard"
    """`hard`: those that strong models refuse; `80k`: all that look toxic; `toxic`: those that are."""

    card: ClassVar[Card] = Card(
        title="OR-Bench",
        home="https://github.com/justincui03/or-bench",
        hub="bench-llm/or-bench",
        revision="e36d8b80e81837c8a8f264bbb2a49f1b32c7e272",
        files=(
            CardFile(
                name="or-bench-hard-1k.csv",
                sha256="a6e2f1166416efe5901f3bb05c47dc92ab3aca3acfe143693d38b8057d841e6d",
                rows=1319,
            ),
            CardFile(name="or-bench-80k.csv"),
            CardFile(name="or-bench-toxic.csv", rows=655),
            CardFile(
                name="orbench_hard_300.jsonl",
                sha256="d93eef7d76e6a8b83a433a4adb47bedf25d1fb590f4937ae0379daf0f99d5c92",
                rows=298,
                mirror=True,
            ),
            CardFile(
                name="orbench_80k_pool.jsonl",
                sha256="c760f5388c2a630a8db57dfc77bbab0431e71c2c98f5a95680c3e737993a99a5",
                rows=4000,
                mirror=True,
            ),
        ),
        licence="CC-BY-4.0",
        languages=("en",),
        size=1319,
        sample=298,
        kinds=("borderline", "harmful"),
        citation="Cui et al., OR-Bench, ICML 2025, arXiv 2405.20947",
        cautions=(
            "Rewritten and labelled safe by language models: some items are in truth harmful, so a model that "
            "answers all of them is not the best one.",
            "The mirror's files are samples: 298 of the hard prompts, stratified by category, and 4,000 of the 80k, "
            "without categories, none of them in the hard ones. Their ids in the 80k are those of the sample's source.",
            "demur knows no checksum of the 80k and the toxic file: that of the first download is recorded and holds "
            "from then on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order; ids are `or_bench/hard-0000` … by the row of the public file.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLES[self.subset])
