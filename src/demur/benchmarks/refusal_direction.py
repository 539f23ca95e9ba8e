"""The harmful and harmless prompts on which refusal directions were first fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalDirection:
    """The harmful and harmless prompts of the refusal direction paper, in its splits: for fitting.

    Harmful prompts are of kind harmful and expect a refusal; harmless ones are of kind plain and expect an answer.
    Ids hold part and split: `refusal_direction/harmful-train-00000`.

    Arditi et al., *Refusal in Language Models Is Mediated by a Single Direction*, NeurIPS 2024, arXiv 2406.11717.
    """

    part: Literal["harmful", "harmless", "both"] = "both"
    """Which prompts."""
    split: Literal["train", "val", "test", "all"] = "all"
    """Which split of the paper."""

    card: ClassVar[Card] = Card(
        title="Refusal direction: harmful and harmless prompts",
        home="https://github.com/andyrdt/refusal_direction",
        repository="andyrdt/refusal_direction",
        revision="0b9c8bc56a73b42f595fd173156d4aefe9a9143c",
        files=(
            *(CardFile(name=f"dataset/splits/harmful_{split}.json") for split in _SPLITS),
            *(CardFile(name=f"dataset/splits/harmless_{split}.json") for split in _SPLITS),
            CardFile(
                name="refusal_direction_harmful.jsonl",
                sha256="c9e506a9fa81b20a71a88c62fe7c631b5121bd563e0ff71ad45ce08b44e9b711",
                rows=871,
                mirror=True,
            ),
            CardFile(
                name="refusal_direction_harmless.jsonl",
                sha256="753cd1fe4c04e865122e57ff9f2a75fe132d370a350aba6ca9e3d58702dd9bdc",
                rows=2000,
                mirror=True,
            ),
        ),
        licence="Apache-2.0; the harmless part (Alpaca) CC-BY-NC-4.0",
        languages=("en",),
        sample=2871,
        kinds=("plain", "harmful"),
        citation="Arditi et al., Refusal in Language Models Is Mediated by a Single Direction, NeurIPS 2024",
        cautions=(
            "Put together from other sets: its harmful part holds 153 prompts of AdvBench, MaliciousInstruct and TDC; "
            "its test split is JailbreakBench, HarmBench and StrongREJECT. Do not fit on one and test on the other.",
            "The mirror's files are a sample: all harmful prompts, and of the harmless ones 1,500 of train and 500 of "
            "val, none of test.",
            "demur knows no checksum of the public files: that of the first download is recorded and holds from "
            "then on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts, harmful ones first, in the files' order.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        parts = ("harmful", "harmless") if self.part == "both" else (self.part,)
        splits = _SPLITS if self.split == "all" else (self.split,)
        made = [one.prompt for part in parts for one in _rows.load_all(self, *_tables(part, splits))]
        return iter(_rows.once(self, (prompt for prompt in made if prompt.id.split("-")[1] in splits)))


def _tables(part: str, splits: Sequence[str]) -> list[_rows.Table]:
    """Return the files of one part; the mirror's one file holds all its splits."""
    return [
        _rows.Table(
            public=f"dataset/splits/{part}_{split}.json",
            mirror=f"refusal_direction_{part}.jsonl",
            prefix="rd-",
            part=f"{part}-{split}-",
            text="instruction",
            category="category",
            width=5,
            expected="refuse" if part == "harmful" else "comply",
            benign="plain",
            whole=True,
        )
        for split in splits
    ]
