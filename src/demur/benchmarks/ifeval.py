"""IFEval: neutral instructions for the price of a mitigation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="ifeval_input_data.jsonl",
    mirror="ifeval.jsonl",
    prefix="ifeval-",
    id="key",
    category="instruction_id_list",
    benign="plain",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ifeval:
    """IFEval: 541 instructions whose form can be checked, as neutral prompts.

    All prompts are of kind plain and expect an answer. Whether the instructions were followed is not scored here.

    Zhou et al., *Instruction-Following Evaluation for Large Language Models*, 2023, arXiv 2311.07911.
    """

    card: ClassVar[Card] = Card(
        title="IFEval",
        home="https://huggingface.co/datasets/google/IFEval",
        hub="google/IFEval",
        revision="966cd89545d6b6acfd7638bc708b98261ca58e84",
        licence="Apache-2.0",
        languages=("en",),
        size=541,
        sample=100,
        kinds=("plain",),
        citation="Zhou et al., Instruction-Following Evaluation for Large Language Models, 2023, arXiv 2311.07911",
        files=(
            CardFile(
                name="ifeval_input_data.jsonl",
                sha256="6a85310ca8ce15eff755aa08a3a4ff931c7e273e7515ebb3c492ea85fd8288f2",
                rows=541,
            ),
            CardFile(
                name="ifeval.jsonl",
                sha256="05cdf00f38e6f74fdbf52c6273f0b78ca44308b2f504cd7f4bdd3709cac3c822",
                rows=100,
                mirror=True,
            ),
        ),
        cautions=(
            "For drift and price, not for scores.",
            "The mirror's file is a sample: 100 of 541 instructions.",
            "Well known, so it may be in training data.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order; ids are the set's own keys.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
