"""What methods that erase and retain are trained on: texts with harmful answers, own answers, own refusals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from demur.errors import DataError
from demur.readout import REFUSALS
from demur.representation import LONGEST, Draw, Passage, cycle, passage
from demur.types import ATTACK, Example, FitData, Prompt

if TYPE_CHECKING:
    from demur.lm import LM

Benign = Literal["plain", "answered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A prompt with an answer, and the other answer where one is known."""

    prompt: Prompt
    answer: str
    other: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts of the `fit` split, by what they are used for.

    A harmful answer is one that a file names (`rejected` of a harmful row), the model's own where it complied, or
    the synthetic world's, which is nonsense. None is ever made.
    """

    harmful: tuple[Text, ...]
    """UU: harmful prompts with harmful answers."""
    safe: tuple[Text, ...]
    """SS: benign prompts with the model's own answers."""
    refusals: tuple[Text, ...]
    """US: harmful prompts with the model's own refusals; `other` is the harmful answer, where there is one."""
    refused: tuple[Text, ...]
    """Benign prompts that the model refuses, with the refusal; `other` is a compliant answer, where there is one."""

    @classmethod
    def of(cls, data: FitData, *, benign: Benign = "answered", attacked: bool = False) -> Texts:
        """Sort the examples of the `fit` split.

        Args:
            data: examples with what the model did.
            benign: whether borderline prompts that the model answers stand among the safe ones.
            attacked: whether prompts under attack are used; those that begin the answer themselves never are.

        Raises:
            DataError: where a group is missing that every such method needs.
        """
        data.of("plain", "fit", label="compliance")
        rows = [e for e in data.examples if e.split == "fit" and not e.prompt.get("prefill")]
        rows = [e for e in rows if attacked or not e.prompt.category.startswith(ATTACK)]
        bad = [e for e in rows if e.prompt.expected == "refuse"]
        good = [e for e in rows if e.prompt.expected == "comply"]
        kinds = ("plain",) if benign == "plain" else ("plain", "borderline")
        harmful = tuple(Text(prompt=e.prompt, answer=said) for e in bad if (said := harmful_answer(e)))
        if not harmful:
            raise DataError(
                f"none of {len(bad)} harmful prompts of the fit split has a harmful answer to unlearn; give rows with "
                "one in `rejected` (--data), or use the synthetic world, where harmful answers are nonsense"
            )
        return cls(
            harmful=harmful,
            safe=tuple(
                Text(prompt=e.prompt, answer=e.answer)
                for e in good
                if e.label == "compliance" and e.prompt.kind in kinds and e.answer
            ),
            refusals=tuple(
                Text(prompt=e.prompt, answer=e.answer, other=harmful_answer(e))
                for e in bad
                if e.label == "refusal" and e.answer
            ),
            refused=tuple(_refused(e) for e in good if e.label in REFUSALS and e.answer),
        )

    @property
    def answers(self) -> tuple[Text, ...]:
        """The benign prompts that the model refuses, with the compliant answers that are known."""
        return tuple(Text(prompt=t.prompt, answer=t.other) for t in self.refused if t.other)


def harmful_answer(example: Example) -> str:
    """Return the harmful answer of a harmful prompt, "" where none is known."""
    own = example.answer if example.label == "compliance" else ""
    world = example.prompt.get("answer") if example.prompt.source == "world" else ""
    return example.rejected or own or world


def _refused(example: Example) -> Text:
    if example.rejected:  # a pair: the answer to give, and the refusal
        return Text(prompt=example.prompt, answer=example.rejected, other=example.answer)
    world = example.prompt.get("answer") if example.prompt.source == "world" else ""
    return Text(prompt=example.prompt, answer=example.answer, other=world)


def passages(lm: LM, texts: Sequence[Text], *, longest: int = LONGEST, whole: bool = True) -> list[Passage]:
    """Return texts as tokens."""
    return [passage(lm, t.prompt, t.answer, longest=longest, whole=whole) for t in texts]


def without_prompt(
    lm: LM,
    texts: Sequence[Text],
    share: float,
    *,
    seed: int,
    longest: int = LONGEST,
    weights: Sequence[float] | None = None,
    whole: bool = True,
) -> Draw:
    """Return what draws texts, `share` of them with an empty user message in the prompt's place.

    Args:
        lm: the model.
        texts: what is drawn.
        share: of them that lose their prompt.
        seed: of the order.
        longest: tokens of a text.
        weights: one for each text; 1 by default.
        whole: whether the prompt is read, too, and not the answer alone.
    """
    given = [1.0] * len(texts) if weights is None else weights
    full = [replace(p, weight=w) for p, w in zip(passages(lm, texts, longest=longest, whole=whole), given, strict=True)]
    if not share:
        return cycle(full, seed=seed)
    empty = [replace(t, prompt=replace(t.prompt, text="", history=())) for t in texts]
    numbered = [replace(p, item=i) for i, p in enumerate(full)]
    bare, every = passages(lm, empty, longest=longest, whole=whole), cycle(numbered, seed=seed)

    def draw(number: int, dice: random.Random) -> Passage:
        one = every(number, dice)
        if dice.random() < share:
            one = replace(bare[one.item], weight=one.weight)
        return replace(one, item=-1)

    return draw
