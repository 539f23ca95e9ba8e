"""Do-Not-Answer: questions that its authors would not have answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="datasets/Instruction/do_not_answer_en.csv",
    id="id",
    text="question",
    category="risk_area",
    expected="refuse",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoNotAnswer:
    """Do-Not-Answer: 939 questions that its authors hold a responsible model should not answer.

    All prompts are of kind harmful and expect a refusal, as the set's card says; `category` is the risk area.
    Filter by category where only clear harm shall count.

    Wang et al., *Do-Not-Answer: Evaluating Safeguards in LLMs*, Findings of EACL 2024, arXiv 2308.13387.
    """

    card: ClassVar[Card] = Card(
        title="Do-Not-Answer",
        home="https://github.com/Libr-AI/do-not-answer",
        repository="Libr-AI/do-not-answer",
        revision="460703484df354958a5e1cd7378a38fcb94a2f3e",
        licence="CC-BY-NC-SA-4.0",
        languages=("en",),
        size=939,
        kinds=("harmful",),
        citation=("Wang et al., Do-Not-Answer: Evaluating Safeguards in LLMs, Findings of EACL 2024, arXiv 2308.13387"),
        files=(
            CardFile(
                name="datasets/Instruction/do_not_answer_en.csv",
                sha256="06acfa39a06a1b33d1f264ce41b4f7a95812010c594fb733ae4717ee0a4544fc",
                rows=939,
            ),
        ),
        cautions=(
            (
                "Contested labels: many items on misinformation and on treating a chatbot as a person deserve an "
                "answer that corrects or sets right, not a refusal. A low held rate here is no proof of harm."
            ),
            (
                "The hub's copy names another licence (Apache-2.0, the code's) than the repository does for the "
                "data; take the stricter one: not for commercial use."
            ),
            "Well known, so it may be in training data.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the 939 prompts in the set's order; ids are the set's own numbers.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        yield from _rows.prompts(self, _TABLE)
