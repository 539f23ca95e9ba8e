"""An asynchronous iterator, run by an event loop in a thread of its own and read here as a plain one."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
Job = TypeVar("Job")


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing in the box: how the iterator ended."""

    error: BaseException | None = None


def drain(make: Callable[[], AsyncGenerator[T, None]], *, ahead: int = 256) -> Iterator[T]:
    """Yield what an asynchronous generator gives, in its order.

    The loop and its thread live from the first item to the last. A reader that stops early (by `close`, an error of
    its own, an interrupt) cancels the generator and waits until it has cleaned up.

    Args:
        make: called in the loop's thread.
        ahead: how many items may wait for the reader.

    Raises:
        BaseException: whatever the generator raises, after the items before it.
    """
    box: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room = asyncio.Semaphore(ahead)
    begun = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def pump() -> None:
        task = asyncio.current_task()
        running.extend([(asyncio.get_running_loop(), task)] if task else [])
        begun.set()
        async with contextlib.aclosing(make()) as items:
            async for item in items:
                await room.acquire()
                box.put(item)

    def work() -> None:
        try:
            asyncio.run(pump())
            box.put(_End())
        except BaseException as error:
            box.put(_End(error))
        begun.set()

    thread = threading.Thread(target=work, name="demur-background", daemon=True)
    thread.start()
    try:
        begun.wait()
        while not isinstance(item := box.get(), _End):
            _tell(running[0][0], room.release)
            yield item
        if item.error:
            raise item.error
    finally:
        for loop, task in running:
            _tell(loop, task.cancel)
        thread.join()


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    """Have the loop call something; a loop that has ended needs nothing."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what)


async def gathered(
    jobs: Iterator[Job], work: Callable[[Job], Coroutine[Any, Any, T]], *, concurrency: int
) -> AsyncGenerator[T, None]:
    """Yield the result of `work` on each job in the order in which they finish, at most `concurrency` at a time.

    Jobs are taken one by one as places become free. The first error of `work` is raised and cancels the others.
    """
    running: set[asyncio.Task[T]] = set()
    ended: asyncio.Queue[asyncio.Task[T]] = asyncio.Queue()
    left = True
    try:
        while True:
            while left and len(running) < concurrency:
                for job in jobs:
                    task = asyncio.create_task(work(job))
                    task.add_done_callback(ended.put_nowait)
                    running.add(task)
                    break
                else:
                    left = False
            if not running:
                return
            task = await ended.get()
            running.discard(task)
            yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
