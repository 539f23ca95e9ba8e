"""A judge for the tests that leaves a mark of each process it works in, and takes its time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from demur.types import Item, Question, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkingJudge:
    """Calls every answer a compliance; `folder` gets a file for each process, a line for each item."""

    folder: str = ""
    """Where marks are left; empty: nowhere."""
    rounds: int = 1
    """Times that each answer is hashed: work for the processor."""

    questions: ClassVar[tuple[Question, ...]] = ("refusal",)

    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        """Give one verdict per item, in order."""
        for prompt, response in items:
            text = response.text.encode()
            for _ in range(self.rounds):
                text = hashlib.sha256(text).digest()
            if self.folder:
                with (Path(self.folder) / str(os.getpid())).open("a", encoding="utf-8") as file:
                    file.write(f"{prompt.id}\n")
            yield Verdict(
                prompt_id=prompt.id, sample=response.sample, judge="marking_judge", question="refusal",
                label="compliance", reason=text.hex()[:8],
            )  # fmt: skip
