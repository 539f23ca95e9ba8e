"""Answers of a model on this machine, through demur's own decode loop."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from demur.errors import ConfigError
from demur.generators._ref import known, note
from demur.types import ModelRef, Prompt, Response, Sampling

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """Answers of a model on this machine, in one batched loop, with an intervention where one is named."""

    assistant_last: ClassVar[bool] = True
    """It sends a prompt whose `role` is assistant as the assistant's message."""

    model: str = "organism"
    """`organism`, `organism:base`, a folder, or an id on the Hugging Face hub."""
    revision: str = ""
    """Branch, tag or commit on the hub."""
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16` or `float16`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `mps`."""
    batch_tokens: int = 16384
    """Tokens held in the cache at most; lower it where memory runs out."""
    intervention: str = ""
    """Folder of a saved intervention that acts on every row."""
    thinking_budget: int = 0
    """Tokens of thinking at most, after which the block is closed and the answer written; 0: no limit."""
    thinking_markers: tuple[str, ...] = ()
    """Opening and closing mark of the thinking text; empty: the usual ones are recognised."""

    def __post_init__(self) -> None:
        if self.thinking_budget < 0:
            raise ConfigError(f"generator local: thinking_budget is {self.thinking_budget}; give 0 (no limit) or more")
        if len(self.thinking_markers) not in (0, 2):
            found = ", ".join(self.thinking_markers)
            raise ConfigError(f"generator local: thinking_markers is {found}; give an opening and a closing mark")

    neutral: ClassVar[tuple[str, ...]] = ("batch_tokens",)

    def lm(self) -> LM:
        """Return the model; loaded once per process for equal settings."""
        return _load(self.model, self.revision, self.dtype, self.device)

    def ref(self) -> ModelRef:
        """Return which weights these are, exactly; without loading them where they were loaded before."""
        named = (self.model, self.revision, self.dtype, self.device)
        ref = known(*named)
        if ref is None:
            ref = self.lm().ref
            note(*named, ref)
        return ref

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Answer the prompts, each as soon as it is finished."""
        from demur.interventions import load
        from demur.thinking import Thinking, think

        what = load(Path(self.intervention)) if self.intervention else None
        how = Thinking(budget=self.thinking_budget, markers=self.thinking_markers)
        yield from think(self.lm(), prompts, sampling, how, what, batch_tokens=self.batch_tokens)


@functools.lru_cache(maxsize=2)
def _load(model: str, revision: str, dtype: str, device: str) -> LM:
    from demur.lm import load

    return load(model, revision=revision, dtype=dtype, device=device)
