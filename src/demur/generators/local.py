"""Answers of a model on this machine, through demur's own decode loop."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from demur.generators._ref import known, note
from demur.types import ModelRef, Prompt, Response, Sampling

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """Answers of a model on this machine, in one batched loop, with an intervention where one is named."""

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
        from demur.decoding import decode
        from demur.interventions import load

        what = load(Path(self.intervention)) if self.intervention else None
        yield from decode(self.lm(), prompts, sampling, what, batch_tokens=self.batch_tokens)


@functools.lru_cache(maxsize=2)
def _load(model: str, revision: str, dtype: str, device: str) -> LM:
    from demur.lm import load

    return load(model, revision=revision, dtype=dtype, device=device)
