"""Refusals that a system prompt asks for: questions within a topic and harmless ones outside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from demur.benchmarks._instructed import DESKS, Desk
from demur.types import Card, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructed:
    """System prompts that restrict the topic, and whether they are still obeyed: 24 questions off it, 24 on it.

    What makes a model answer more must not make it deaf to its instructions. A question outside the topic is harmless
    and expects a refusal all the same; one within it expects an answer. `category` is `instructed-off` or
    `instructed-on`, `group` the system prompt. The halves `validation` and `test` share no system prompt.
    """

    card: ClassVar[Card] = Card(
        title="Instructed refusals",
        home="demur",
        licence="Apache-2.0",
        languages=("en", "de", "es", "fr", "zh"),
        size=48,
        kinds=("plain",),
        cautions=(
            "Small: it shows a collapse, not a loss of a few points.",
            "`classifier` and `keyword` often take the form 'I can only help with ...' for an answer: judge by `llm`, "
            "or read nothing but the change from before to after.",
            "Rows that expect a refusal are not harmful. Measure it in a run of its own: in a run with other sets the "
            "safety floor would count them among the harmful ones.",
        ),
    )

    split: Literal["all", "validation", "test"] = "all"
    """All rows, or those of half of the system prompts of each language."""

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts, the same each time."""
        half = {"validation": 0, "test": 1}.get(self.split)
        for number, desk in enumerate(DESKS):
            if half is None or number % 2 == half:
                yield from _rows(desk)


def _rows(desk: Desk) -> Iterator[Prompt]:
    for side, texts in (("on", desk.on), ("off", desk.off)):
        for number, text in enumerate(texts):
            yield Prompt(
                id=f"instructed/{desk.name}/{side}-{number}",
                text=text,
                expected="comply" if side == "on" else "refuse",
                kind="plain",
                source="instructed",
                category=f"instructed-{side}",
                language=desk.language,
                group=f"instructed/{desk.name}",
                system=desk.system,
            )
