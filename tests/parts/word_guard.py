"""A guard for the tests: a word in the prompt decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from demur.types import Item, Question, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class WordGuard:
    """Calls a prompt harmful when it holds a word, and fails on another word."""

    word: str = "knife"
    """The word that makes a prompt harmful."""
    fails_on: str = "riddle"
    """The word on which it has no verdict."""

    questions: ClassVar[tuple[Question, ...]] = ("prompt_harm",)

    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        """Give one verdict per item, in order."""
        for prompt, response in items:
            lost = bool(self.fails_on) and self.fails_on in prompt.text
            yield Verdict(
                prompt_id=prompt.id,
                sample=response.sample,
                judge="word_guard",
                question="prompt_harm",
                label=None if lost else "harmful" if self.word in prompt.text else "benign",
                unscored="a riddle" if lost else "",
            )
