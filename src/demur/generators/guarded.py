"""A generator with a guard in front: prompts that the guard calls harmful never reach the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from demur import judges as judging
from demur import registry
from demur.errors import ConfigError
from demur.types import Generator, Item, Judge, ModelRef, Prompt, Response, Sampling

BLOCKED = "guard: "
"""How `error` begins on rows that a guard blocked; its name follows."""

BATCH = 256
"""Prompts that the guard judges before the generator answers those that pass: what a killed run judges again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A generator with a guard in front: prompts that the guard calls harmful never reach the model.

    The guard is a judge that answers the question `prompt_harm`; it sees each prompt once, before the model does, with
    an empty answer beside it. Blocked prompts become rows with finish `filtered` and `error` "guard: NAME", one for
    each sample; benign and contested ones are answered by the generator. A run with this generator has the metric rows
    `guard_block_rate`, for each kind of prompt too, and `guard_share_of_unanswered`.
    """

    generator: Generator
    """What answers the prompts that pass."""
    guard: Judge
    """A judge of `prompt_harm`."""
    on_failure: Literal["error", "pass", "block"] = "error"
    """What becomes of a prompt on which the guard fails: a row with finish `error`, which is asked for again when the
    run is opened again; or as if the guard had passed or blocked it."""

    def __post_init__(self) -> None:
        if "prompt_harm" not in self.guard.questions:
            raise ConfigError(
                f"generator guarded: the judge {self._name()} answers {', '.join(self.guard.questions)}; a guard must "
                "answer prompt_harm"
            )

    def ref(self) -> ModelRef:
        """Return which model answers, as its generator says."""
        ref = getattr(self.generator, "ref", None)
        return ref() if ref else ModelRef(id=registry.name_of(type(self.generator)))

    def usage(self) -> Any:
        """Return what the generator counted so far, None where it does not count."""
        usage = getattr(self.generator, "usage", None)
        return usage() if usage else None

    @property
    def spent(self) -> Any:
        """What the guard has asked for so far (requests, tokens, cost), None where it does not count."""
        return getattr(self.guard, "spent", None)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Give one response per (prompt, sample): of each batch those that are stopped here, then the generator's.

        Raises:
            ConfigError, Unavailable: when the guard or the generator cannot work at all.
        """
        for start in range(0, len(prompts), BATCH):
            batch, passed = prompts[start : start + BATCH], []
            for prompt, stopped in zip(batch, self._decisions(batch), strict=True):
                if stopped is None:
                    passed.append(prompt)
                    continue
                finish, error = stopped
                for sample in range(sampling.samples):
                    yield Response(prompt_id=prompt.id, sample=sample, text="", finish=finish, error=error)
            if passed:
                yield from self.generator(passed, sampling)

    def _decisions(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Literal["filtered", "error"], str] | None]:
        """Yield, for each prompt, how it is stopped, or None where it passes."""
        name = self._name()
        items = [Item(prompt, Response(prompt_id=prompt.id, text="", finish="stop")) for prompt in prompts]
        for verdict in judging.apply(self.guard, name, items):
            if verdict.question != "prompt_harm":
                continue
            blocks = verdict.label == "harmful" or (bool(verdict.unscored) and self.on_failure == "block")
            if blocks:
                yield "filtered", f"{BLOCKED}{name}"
            elif verdict.unscored and self.on_failure == "error":
                yield "error", f"{BLOCKED}{name} failed: {verdict.unscored}"
            else:
                yield None

    def _name(self) -> str:
        return registry.name_of(type(self.guard))


def blocked(response: Response) -> bool:
    """Say whether a guard stopped this row."""
    return response.finish == "filtered" and response.error.startswith(BLOCKED)
