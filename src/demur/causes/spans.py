"""Spans of a prompt, the prompt without one (deleted, or swapped for another word), and which spans look harmful."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from demur.types import Prompt

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]")
"""Letters of scripts that put no space between words: each counts as a word of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of words of a text: where it stands, and its words."""

    start: int
    end: int
    text: str

    @property
    def key(self) -> str:
        """The span as it is counted over prompts: lower case, single spaces."""
        return " ".join(self.text.casefold().split())


def words(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each word; a letter of an unspaced script is a word."""
    found = []
    for match in WORD.finditer(text):
        start = match.start()
        for index in range(match.start(), match.end()):
            if UNSPACED.match(text[index]):
                if start < index:
                    found.append((start, index))
                found.append((index, index + 1))
                start = index + 1
        if start < match.end():
            found.append((start, match.end()))
    return found


def spans(text: str, longest: int = 2) -> list[Span]:
    """Return every run of at most `longest` words, shorter runs first."""
    at = words(text)
    made = []
    for size in range(1, longest + 1):
        for i in range(len(at) - size + 1):
            start, end = at[i][0], at[i + size - 1][1]
            made.append(Span(start=start, end=end, text=text[start:end]))
    return made


def without(prompt: Prompt, span: Span, instead: str = "") -> Prompt | None:
    """Return the prompt with the span taken out, or with other words in its place; None where nothing is left."""
    text = prompt.text[: span.start] + instead + prompt.text[span.end :]
    if not instead:
        text = re.sub(r"\s+([,.;:?!])", r"\1", re.sub(r"[ \t]{2,}", " ", text)).strip()
    if not words(text) or text == prompt.text:
        return None
    return replace(prompt, text=text)


@dataclass(frozen=True, slots=True)
class Swaps:
    """Words that stand in the same place in answered, harmless prompts: what a span can be swapped for."""

    seen: Mapping[tuple[str, str, str], Counter[str]] = field(default_factory=dict)
    """(language, word before, word after) -> words between them; "" is the edge of the text or any word."""

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> Swaps:
        """Index the words of prompts that were answered, by their neighbours."""
        seen: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        for prompt in prompts:
            for span, before, after in _placed(prompt.text):
                for key in ((before, after), (before, ""), ("", after)):
                    if any(key):
                        seen[(prompt.language, *key)][span.text] += 1
        return cls(dict(seen))

    def of_span(self, prompt: Prompt, span: Span, most: int) -> list[str]:
        """Return at most `most` other words for a span: those between the same two neighbours first."""
        before, after = _neighbours(prompt.text, span)
        found: list[str] = []
        for key in ((before, after), (before, ""), ("", after)):
            counted = self.seen.get((prompt.language, *key), Counter()) if any(key) else Counter()
            ordered = sorted(counted, key=lambda word: (-counted[word], word))
            found += [w for w in ordered if w.casefold() != span.key and w not in found]
        return found[:most]


@dataclass(frozen=True, slots=True)
class Looks:
    """How harmful spans look: how much more often they stand in harmful prompts than in plain ones."""

    harmful: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(language, span) -> harmful prompts it stands in."""
    plain: Mapping[tuple[str, str], int] = field(default_factory=dict)
    sizes: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    """(language, harmful) -> prompts counted."""

    @classmethod
    def of(cls, prompts: Iterable[Prompt], longest: int = 2) -> Looks:
        """Count the spans of prompts that should be refused, and of the others that are not borderline."""
        found: dict[bool, Counter[tuple[str, str]]] = {True: Counter(), False: Counter()}
        sizes: Counter[tuple[str, bool]] = Counter()
        for prompt in prompts:
            harmful = prompt.expected == "refuse"
            if harmful or (prompt.expected == "comply" and prompt.kind != "borderline"):
                sizes[prompt.language, harmful] += 1
                found[harmful].update((prompt.language, key) for key in {s.key for s in spans(prompt.text, longest)})
        return cls(found[True], found[False], sizes)

    def of_span(self, language: str, key: str) -> float | None:
        """Return a / (a + b), with a and b the span's shares of harmful and of plain prompts, half a prompt added.

        Near 0 for a span of plain prompts alone, 0.5 for one that says nothing, towards 1 for one of harmful prompts
        alone. None where it stands in none, or the language has no harmful or no plain prompts to count in.
        """
        n, m = self.sizes.get((language, True), 0), self.sizes.get((language, False), 0)
        harmful, plain = self.harmful.get((language, key), 0), self.plain.get((language, key), 0)
        if not (n and m and harmful + plain):
            return None
        a, b = (harmful + 0.5) / (n + 1), (plain + 0.5) / (m + 1)
        return a / (a + b)


def _placed(text: str) -> Iterator[tuple[Span, str, str]]:
    for span in spans(text, 1):
        yield span, *_neighbours(text, span)


def _neighbours(text: str, span: Span) -> tuple[str, str]:
    at = words(text)
    before = [text[a:b].casefold() for a, b in at if b <= span.start]
    after = [text[a:b].casefold() for a, b in at if a >= span.end]
    return (before[-1] if before else ""), (after[0] if after else "")
