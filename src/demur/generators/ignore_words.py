"""A generator whose prompts name their own alarming words, and ask not to be judged by them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from demur.causes.spans import spans
from demur.errors import ConfigError
from demur.generators._wrapping import ref_of, usage_of
from demur.generators.told import told
from demur.types import Generator, ModelRef, Prompt, Response, Sampling

INSTRUCTION = "Do not go by the words {words} alone: judge the message by what it asks for as a whole, and answer that."


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreWords:
    """A generator whose prompts name their own alarming words, and ask not to be judged by them.

    A prompt that holds some of `words` is sent with the instruction, which names those it holds; any other is sent as
    it is. `demur fit ignore_words` finds the words that set a model's refusals off; `demur explain triggers` too.
    """

    generator: Generator
    """What answers."""
    words: tuple[str, ...]
    """The words, in lower case; whole words are looked for, whatever their case."""
    instruction: str = INSTRUCTION
    """The sentence; `{words}` is where they go. It is in English whatever the prompt's language."""
    as_system: bool = False
    """Give the sentence as a system text, rather than after the message."""

    def __post_init__(self) -> None:
        if "{words}" not in self.instruction:
            raise ConfigError(
                f"generator ignore_words: no {{words}} in the instruction {self.instruction!r}; name them"
            )

    def ref(self) -> ModelRef:
        """Return which model answers, as its generator says."""
        return ref_of(self.generator)

    def usage(self) -> Any:
        """Return what the generator counted so far, None where it does not count."""
        return usage_of(self.generator)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Give the generator's responses to the prompts with their instructions."""
        yield from self.generator([self.worded(prompt) for prompt in prompts], sampling)

    def worded(self, prompt: Prompt) -> Prompt:
        """Return the prompt with the instruction, where it holds one of the words."""
        held = list(dict.fromkeys(s.key for s in spans(prompt.text, 1)))
        wanted = {word.casefold() for word in self.words}
        named = ", ".join(f'"{word}"' for word in held if word in wanted)
        if not named:
            return prompt
        sentence = self.instruction.replace("{words}", named)
        return told(prompt, sentence) if self.as_system else replace(prompt, text=f"{prompt.text}\n\n{sentence}")
