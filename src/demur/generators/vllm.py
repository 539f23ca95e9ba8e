"""Answers of a model in a vLLM engine of this process."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from demur.errors import ConfigError
from demur.types import ModelRef, Prompt, Response, Sampling

if TYPE_CHECKING:
    from demur.vllm_engine import Engine

EXTRA = "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vllm:
    """Answers of a model in a vLLM engine of this process, for many prompts at a time on a GPU.

    Prompts are rendered and answers read as by `local`: the engine is given tokens and gives tokens. Every (prompt,
    sample) is a request of its own with a seed of its own; the row keeps the mean of the raw log-probabilities.

    An intervention is run as the engine can hold it: a trained adapter as a LoRA request, changes of weights as merged
    weights that are written to a temporary folder first and checked there, a system text in the prompt, AdaCD and other
    contrastive decoding by two requests for each token it lasts (greedy only, from the `top` likeliest tokens). What
    acts on the residual stream while the model writes is refused; `local` and `demur serve` run it.

    For a vLLM server there is `http`. What was tried of this, and what not: `docs/vllm.md`.
    """

    model: str = "organism"
    """`organism`, `organism:base`, a folder, or an id on the Hugging Face hub."""
    revision: str = ""
    """Branch, tag or commit on the hub."""
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16` or `float16`."""
    intervention: str = ""
    """Folder of a saved intervention that acts on every row."""
    tensor_parallel: int = 1
    """GPUs that share the model."""
    gpu_memory: float = 0.9
    """Share of a GPU's memory that the engine takes."""
    max_model_len: int = 0
    """Tokens of prompt and answer at most; 0: what the model was made for."""
    batch: int = 512
    """Rows handed to the engine at a time; a run that is cut off loses those in hand."""
    top: int = 100
    """Likeliest tokens looked at in contrastive decoding; -1: all, which is slow."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """More arguments of `vllm.LLM`, as in `engine.quantization=fp8`; they win over demur's own."""

    assistant_last: ClassVar[bool] = True
    neutral: ClassVar[tuple[str, ...]] = ("tensor_parallel", "gpu_memory", "batch")

    def __post_init__(self) -> None:
        for name, fits, allowed in (
            ("tensor_parallel", self.tensor_parallel >= 1, "at least 1"),
            ("gpu_memory", 0 < self.gpu_memory <= 1, "above 0 and at most 1"),
            ("max_model_len", self.max_model_len >= 0, "at least 1, or 0 for the model's own"),
            ("batch", self.batch >= 1, "at least 1"),
            ("top", self.top == -1 or self.top >= 2, "at least 2, or -1 for all"),
        ):
            if not fits:
                raise ConfigError(f"generator vllm: {name} is {getattr(self, name)}; it must be {allowed}")

    @property
    def fingerprint(self) -> str:
        """What decides answers beside the settings: the engine's version."""
        try:
            return f"vllm {importlib.metadata.version('vllm')}"
        except importlib.metadata.PackageNotFoundError:
            return ""

    def ref(self) -> ModelRef:
        """Return which weights these are, without starting the engine."""
        from demur.vllm_engine import ref_of

        return ref_of(self.model, self.revision, self.dtype)

    def started(self) -> Engine:
        """Return the engine; started once per process for equal settings, and ended when another one is.

        Raises:
            ConfigError: for an intervention that vLLM cannot hold.
            ModelError: where the engine does not start.
        """
        own = {"tensor_parallel_size": self.tensor_parallel, "gpu_memory_utilization": self.gpu_memory}
        own |= {"max_model_len": self.max_model_len} if self.max_model_len else {}
        more = json.dumps({**own, **self.engine}, sort_keys=True)
        return _started(self.model, self.revision, self.dtype, self.intervention, self.top, more)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Answer the prompts, a batch at a time.

        Raises:
            ConfigError: as `started`, and for a temperature that vLLM or the intervention does not take.
            Unavailable: where the engine has died.
        """
        if prompts:
            yield from self.started().answers(prompts, sampling, self.batch)


@functools.lru_cache(maxsize=1)
def _started(model: str, revision: str, dtype: str, intervention: str, top: int, more: str) -> Engine:
    from demur.vllm_engine import Engine

    return Engine(model, revision, dtype, intervention=intervention, top=top, more=json.loads(more))
