"""A generator whose prompts are given a system text first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from demur.generators._wrapping import ref_of, usage_of
from demur.types import Generator, ModelRef, Prompt, Response, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A generator whose prompts are given a system text first; it stands before the prompt's own."""

    generator: Generator
    """What answers."""
    text: str
    """The system text; an empty one changes nothing."""

    def ref(self) -> ModelRef:
        """Return which model answers, as its generator says."""
        return ref_of(self.generator)

    def usage(self) -> Any:
        """Return what the generator counted so far, None where it does not count."""
        return usage_of(self.generator)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Give the generator's responses to the prompts with the text."""
        yield from self.generator([told(prompt, self.text) for prompt in prompts], sampling)


def told(prompt: Prompt, text: str) -> Prompt:
    """Return the prompt with a system text before its own."""
    texts = [part for part in (text, prompt.system) if part]
    return replace(prompt, system="\n\n".join(texts)) if text else prompt
