"""SCOPE: benign requests made from red-teaming data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _loading, _rows
from demur.benchmarks.file import File
from demur.types import Card, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """SCOPE: benign requests made by a pipeline from red-teaming data, to test spurious refusals.

    The authors describe the pipeline and show examples; demur knows no public file of the prompts. It reads the file
    that they give, or that their pipeline makes, from the folder DEMUR_DATA, with a map of its columns. All prompts
    are of kind borderline and expect an answer, unless a column says otherwise.

    Zeng et al., *SCOPE: Scalable and Adaptive Evaluation of Misguided Safety Refusal in LLMs*, 2024,
    openreview.net/forum?id=72H3w4LHXM.
    """

    file: str = "scope.csv"
    """Its name in the folder DEMUR_DATA: CSV, TSV or JSONL."""
    prompt: str = ""
    """Column with the user's message; empty: `text`, else `prompt`."""
    category: str = ""
    """Column with the category; empty: `category` if there is one."""
    label: str = ""
    """Column that says what is expected; empty: `expected`, else `label`, else all expect an answer."""

    card: ClassVar[Card] = Card(
        title="SCOPE",
        home="https://reds-lab.github.io/SCOPE",
        licence="as its authors state",
        access="Its home describes the pipeline; ask the authors for the prompts, or make them with it.",
        languages=("en",),
        kinds=("borderline",),
        citation="Zeng et al., SCOPE, 2024, openreview.net/forum?id=72H3w4LHXM",
        cautions=(
            "Neither revision nor checksum is known: two runs are comparable only on the same file.",
            "Made anew from any red-teaming set, so there is not one SCOPE; say which file was used.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order.

        Raises:
            Unavailable: when there is no such file in DEMUR_DATA.
            DataError: for a malformed row; for a missing column, naming those that are there.
        """
        path = _loading.find(self.card, self.file, "").path
        rows = File(path=str(path), prompt=self.prompt, category=self.category, label=self.label, expected="comply")()
        return iter(_rows.once(self, (_rows.adopt(prompt, "scope") for prompt in rows)))
