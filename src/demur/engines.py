"""Engines: where blocks of rows are worked on. An engine stands in for the builtin `map`, over processes.

Only work leaves the process. Rows come back to it in their order, are written by it as they come, and are found again
by it after a kill; so what a run folder holds does not depend on the engine, and neither do its record and the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import tee
from typing import Any, Protocol, TypeVar

from demur.errors import ConfigError, NotFound
from demur.settings import make, parse_part
from demur.types import Generator, Prompt, Response, Sampling

T = TypeVar("T")
R = TypeVar("R")

ENGINES = ("ray",)


class Mapper(Protocol):
    """Does what `map(work, blocks)` does, elsewhere."""

    @property
    def block(self) -> int:
        """Rows that make a block, where their number is free."""
        ...

    @property
    def spent(self) -> Any:
        """What the parts at work have asked models for so far, as judges count it; None for nothing."""
        ...

    def __call__(self, work: Callable[[list[T]], R], blocks: Iterable[list[T]], /) -> Iterator[R]:
        """Yield `work(block)` for each block, in order; each once, whatever becomes of a worker.

        `work` and the blocks are pickled. What `work` needs to load it loads when it is first called in a process.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ray:
    """Processes under Ray, on this machine or a cluster (extra `ray`).

    Each worker loads the models it needs once and keeps them. A worker that dies is replaced, and its block done again.
    """

    workers: int = 2
    """Processes at work."""
    block: int = 128
    """Rows handed over at a time; mining has blocks of its own."""
    cpus: float = 1.0
    """Cores that Ray sets aside for each worker; a worker computes with as many threads."""
    gpus: float = 0.0
    """GPUs that Ray sets aside for each worker, which sees no others."""
    retries: int = 3
    """How often a block is done again whose worker died; after that the run ends."""
    address: str = ""
    """A running cluster (`auto`, or as `ray status` names it); empty: one is started on loopback, and ended."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("block", 1), ("cpus", 0.01), ("gpus", 0), ("retries", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"engine ray: {name} is {getattr(self, name)}; it must be at least {least}")


def engine(text: str) -> Ray | None:
    """Read an engine as a part is written, `ray` or `ray:workers=4`; None for "", this process.

    Raises:
        ConfigError: for an unknown engine or setting.
    """
    if not text:
        return None
    spec = parse_part(text)
    if spec.name not in ENGINES:
        raise NotFound("engine", spec.name, ENGINES, where="--engine")
    made: Ray = make(Ray, spec.settings, where=f"engine {spec.name}")
    return made


@contextmanager
def opened(text: str) -> Iterator[Mapper | None]:
    """Give an engine for as long as the block lasts; it starts with the first work that is given to it.

    Raises:
        ConfigError: for an unknown engine or setting.
        Unavailable: where its extra is not installed.
    """
    how = engine(text)
    if how is None:
        yield None
        return
    from demur.ray_map import RayMap

    with RayMap(how) as over:
        yield over


def beside(work: Callable[[list[T]], R], blocks: Iterable[list[T]], over: Mapper | None) -> Iterator[tuple[list[T], R]]:
    """Yield each block with what `work` makes of it, here or over an engine."""
    kept, given = tee(blocks)
    yield from zip(kept, over(work, given) if over else map(work, given), strict=True)


@dataclass(frozen=True, slots=True)
class Answering:
    """A generator's answers to a block of prompts."""

    generator: Generator
    sampling: Sampling

    @property
    def spent(self) -> Any:
        """What a guard in front of the generator has asked for in this process."""
        return getattr(self.generator, "spent", None)

    def __call__(self, prompts: list[Prompt]) -> list[Response]:
        """Answer every prompt of the block."""
        return list(self.generator(prompts, self.sampling))


def answers(
    generator: Generator, prompts: Sequence[Prompt], sampling: Sampling, over: Mapper | None
) -> Iterator[Response]:
    """Yield the answers to prompts, made here by one call or over an engine in blocks."""
    if over is None:
        yield from generator(prompts, sampling)
        return
    blocks = (list(prompts[at : at + over.block]) for at in range(0, len(prompts), over.block))
    for made in over(Answering(generator, sampling), blocks):
        yield from made


@dataclass(frozen=True, slots=True)
class Spread:
    """A generator whose answers are made over an engine."""

    generator: Generator
    over: Mapper | None

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Answer every prompt."""
        return answers(self.generator, prompts, sampling, self.over)


def settings_of(part: Any) -> tuple[Callable[..., Any], tuple[type, dict[str, Any]]]:
    """Return how pickle makes a part anew: from its settings, whatever it keeps beside them."""
    return _anew, (type(part), {f.name: getattr(part, f.name) for f in fields(part)})


def _anew(cls: type, settings: dict[str, Any]) -> Any:
    return cls(**settings)
