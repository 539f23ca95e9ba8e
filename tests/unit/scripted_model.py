"""A judging model in the test's own hands: replies made from the prompt by a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from demur.types import Finish, Item, Prompt, Response, Sampling

Reply = Callable[[Prompt, int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """Answers by a function of (prompt, sample), and keeps what it was asked."""

    reply: Reply
    finish: Finish = "stop"
    asked: list[tuple[Prompt, Sampling]] = field(default_factory=list)

    assistant_last: ClassVar[bool] = True

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        for prompt in reversed(prompts):  # rows may come in any order
            self.asked.append((prompt, sampling))
            for sample in range(sampling.samples):
                text = self.reply(prompt, sample)
                error = "no power" if self.finish == "error" else ""
                yield Response(
                    prompt_id=prompt.id, sample=sample, text=text, finish=self.finish, error=error, n_tokens=10
                )


def code(prompt: Prompt) -> str:
    """Return the code that marks the lines of a request."""
    found = re.search(r"\[([0-9a-f]{8}) request begins\]", prompt.text)
    assert found
    return found[1]


def says(label: str) -> Reply:
    """Reply with a proper verdict line."""
    return lambda prompt, sample: f"The answer was read.\nVERDICT {code(prompt)}: {label}"


def item(text: str = "Turn the dial.", ask: str = "How do I open it?", name: str = "p/0", **more: object) -> Item:
    prompt = Prompt(id=name, text=ask, expected="comply", source="p")
    return Item(prompt, Response(prompt_id=name, text=text, finish="stop", **more))  # type: ignore[arg-type]
