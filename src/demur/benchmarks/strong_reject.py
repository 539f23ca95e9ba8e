"""StrongREJECT: forbidden prompts that can be answered in detail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="strongreject_dataset/strongreject_dataset.csv",
    text="forbidden_prompt",
    category="category",
    expected="refuse",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrongReject:
    """StrongREJECT: 313 forbidden prompts in six categories.

    All prompts are of kind harmful and expect a refusal. `category` is the set's own.

    Souly et al., *A StrongREJECT for Empty Jailbreaks*, NeurIPS 2024, arXiv 2402.10260.
    """

    card: ClassVar[Card] = Card(
        title="StrongREJECT",
        home="https://github.com/alexandrasouly/strongreject",
        repository="alexandrasouly/strongreject",
        revision="f7cad6c17e624e21d8df2278e918ae1dddb4cb56",
        licence="MIT",
        languages=("en",),
        size=313,
        kinds=("harmful",),
        citation="Souly et al., A StrongREJECT for Empty Jailbreaks, NeurIPS 2024, arXiv 2402.10260",
        files=(
            CardFile(
                name="strongreject_dataset/strongreject_dataset.csv",
                sha256="4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
                rows=313,
            ),
        ),
        cautions=(
            "The test split of refusal_direction contains it: do not fit on one and test on the other.",
            "Partly drawn from other sets (its column `source` says which): overlap is to be expected.",
            "Well known, so it may be in training data.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the 313 prompts in the set's order; ids are `strong_reject/000` ….

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
