"""PHTest: pseudo-harmful prompts, generated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="PHTest.csv",
    id="ID",
    text="Request",
    category="Harmfulness",
    label="Harmfulness",
    meanings={"harmless": "comply", "controversial": "contested"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phtest:
    """PHTest: 3,269 generated prompts that look harmful, some of them controversial.

    Harmless prompts are of kind borderline and expect an answer; those that the set calls controversial are
    contested: they count in neither rate. `category` is the set's label.

    An et al., *Automatic Pseudo-Harmful Prompt Generation for Evaluating False Refusals in Large Language
    Models*, COLM 2024, arXiv 2409.00598.
    """

    card: ClassVar[Card] = Card(
        title="PHTest",
        home="https://huggingface.co/datasets/furonghuang-lab/PHTest",
        hub="furonghuang-lab/PHTest",
        revision="8b6698eb37dfa14ceabe4ccfa2085a46b934ddbd",
        licence="MIT",
        languages=("en",),
        size=3269,
        kinds=("borderline",),
        citation=(
            "An et al., Automatic Pseudo-Harmful Prompt Generation for Evaluating False Refusals, COLM 2024, "
            "arXiv 2409.00598"
        ),
        files=(CardFile(name="PHTest.csv"),),
        cautions=(
            "Generated against particular models: those it was made for look worse on it than others.",
            "Labelled harmless by a language model, checked by people in part.",
            (
                "demur knows no checksum of its public file: that of the first download is recorded and holds "
                "from then on."
            ),
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the set's order; ids are the set's own numbers.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
