"""Where candidates come from: prompt sets, files too large for memory, or a model that rewrites harmful seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from demur.errors import ConfigError, DataError
from demur.files import file_sha256
from demur.mining.rows import Dropped, stream
from demur.types import Benchmark, Part, Prompt, from_json, to_json


class Source(Protocol):
    """Gives candidates, and what it had to drop; the same each time, or resumed from its work folder."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What decides the candidates, as JSON values."""
        ...

    def __call__(self, work: Path) -> Iterator[Prompt | Dropped]:
        """Yield candidates with their harmful twins, one by one.

        Args:
            work: a folder for what is expensive to make again.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """The prompts of a benchmark: harmful ones as twins, all others as candidates."""

    part: Part
    benchmark: Benchmark

    @property
    def record(self) -> Mapping[str, Any]:
        """The benchmark's name, settings and fingerprint."""
        return {"kind": "set", "part": to_json(self.part)}

    def __call__(self, work: Path) -> Iterator[Prompt | Dropped]:
        """Yield the prompts in their order.

        Raises:
            DataError: for a prompt of the synthetic world's test split, which is for the final measurement alone.
        """
        for prompt in self.benchmark():
            yield allowed(prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A JSONL file of `Prompt` or `Example` rows, read row by row, so that it may be larger than memory."""

    path: Path

    @property
    def record(self) -> Mapping[str, Any]:
        """The file's content hash."""
        if not self.path.is_file():
            raise ConfigError(f"no file {str(self.path)!r} of candidates; give a JSONL file of prompts, or a benchmark")
        return {"kind": "rows", "name": self.path.name, "sha256": file_sha256(self.path)}

    def __call__(self, work: Path) -> Iterator[Prompt | Dropped]:
        """Yield the prompts in the file's order; a row that is none is dropped with the reason."""
        for number, row in enumerate(stream(self.path), start=1):
            inner = row.get("prompt")
            try:
                yield allowed(from_json(Prompt, inner if isinstance(inner, dict) else row))
            except DataError as error:
                if isinstance(error, _TestSplitError):
                    raise
                name = f"{self.path.stem}/{number}"
                yield Dropped(id=name, stage="generate", reason="not a prompt row", detail=str(error)[:200])


class _TestSplitError(DataError):
    """A candidate comes from the world's test split."""


def allowed(prompt: Prompt) -> Prompt:
    """Return a candidate with a kind; refuse those that must never be mined from.

    Raises:
        DataError: for a prompt of the synthetic world's test split.
    """
    if prompt.source == "world" and prompt.get("split") == "test":
        raise _TestSplitError(
            f"prompt {prompt.id} is of the world's test split, which is kept for the final measurement; "
            "mine from world:split=train or world:split=validation"
        )
    if prompt.expected == "refuse" and prompt.kind != "harmful":
        return replace(prompt, kind="harmful")
    return prompt


def is_twin(prompt: Prompt) -> bool:
    """Say whether a row is a harmful twin rather than a candidate."""
    return prompt.kind == "harmful"
