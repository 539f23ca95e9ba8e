"""Requests that are made at once, worked on together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

EXTRA = "eval"
WAIT = 0.05
"""Seconds that the first of several requests waits for others."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class _Asked(Generic[T, R]):
    item: T
    found: R | None = None
    error: Exception | None = None
    done: bool = False


class Gathered(Generic[T, R]):
    """Calls a function of many items for coroutines that each have one.

    Whoever comes first waits a moment, then works on everything that was asked until then, in a thread; those that
    ask meanwhile are the next batch. An error is raised for every item of its batch.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], wait: float = WAIT) -> None:
        """Take the function, which must give one result per item, in order."""
        self._work = work
        self._wait = wait
        self._turn = anyio.Lock()
        self._waiting: list[_Asked[T, R]] = []

    async def __call__(self, item: T) -> R:
        """Return what the function gives for one item."""
        mine: _Asked[T, R] = _Asked(item)
        self._waiting.append(mine)
        async with self._turn:
            if not mine.done:
                await anyio.sleep(self._wait)
                batch, self._waiting = self._waiting, []
                await anyio.to_thread.run_sync(self._run, batch)
        if mine.error is not None:
            raise mine.error
        return mine.found  # type: ignore[return-value]  # it is set where there is no error

    def _run(self, batch: Sequence[_Asked[T, R]]) -> None:
        try:
            for asked, found in zip(batch, self._work([a.item for a in batch]), strict=True):
                asked.found = found
        except Exception as error:
            for asked in batch:
                asked.error = error
        for asked in batch:
            asked.done = True
