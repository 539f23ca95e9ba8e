"""The queue, and the one thread that owns the model: answers join and leave a running batch.

The thread works through a `Session`, the only thing here that knows of models: it hands over answers in the order in
which they came, and draws one token at a time for all that run. Whatever befalls an answer (its end, a time limit, a
client that has gone, an error) frees its place before the next token. Groups that cannot run at once take turns: a turn
is for those that wait when it begins, and for later ones as long as nobody of another group waits before them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from demur.errors import ModelError
from demur.serving.faults import Fault
from demur.serving.limits import Limits
from demur.serving.writing import Drawn, Piece, Writer

PATIENCE = 4
"""Tokens that run on before few waiting answers are read: reading several prompts costs hardly more than one."""
_LOG = logging.getLogger("demur.serve")

Event = tuple[int, Piece | Fault]
"""The index of a choice, and what became of it."""


@dataclass(eq=False, kw_only=True)
class Answer:
    """One answer to be written: what to read, under what, how to draw, and where its pieces go."""

    encoded: Any
    """The prompt's tokens (`demur.chats.Encoded`)."""
    told: dict[int, Any] = field(default_factory=dict)
    """What the plan's other branches are told, by their index."""
    plan: Any
    """What the model's forward pass must do to this row."""
    group: str = ""
    """Rows of one group share their weights; those of different groups cannot run at once."""
    rows: int = 1
    """Rows of the batch that it takes: two where the logits of another branch are mixed in."""
    temperature: float = 1.0
    top_p: float = 1.0
    top: int = 0
    """How many of the likeliest tokens to name."""
    place: bool = False
    """Whether to say where the prompt stands."""
    language: str = ""
    draws: random.Random
    writer: Writer
    deadline: float
    """On the monotonic clock."""
    index: int = 0
    events: asyncio.Queue[Event]
    """Where its pieces go; answers to one request share it."""
    gone: bool = False
    """Whether nobody waits for it any more."""
    number: int = 0
    """In the order of arrival."""


class Session(Protocol):
    """Rows that are decoded together; used by one thread alone."""

    def join(self, answers: Sequence[Answer]) -> list[tuple[Answer, Drawn]]:
        """Read prompts and return the first token of each."""
        ...

    def step(self) -> list[tuple[Answer, Drawn]]:
        """Return one more token of every row."""
        ...

    def drop(self, answers: Collection[Answer]) -> None:
        """Free the rows of answers."""
        ...

    def clear(self) -> None:
        """Free every row, after an error too."""
        ...

    def close(self) -> None:
        """Leave the model as it was."""
        ...


@dataclass(eq=False)
class Engine:
    """Runs a session in a thread of its own; `start`, `submit`, `cancel` and `close` belong to the event loop."""

    session: Session
    limits: Limits
    clock: Callable[[], float] = time.monotonic
    live: list[Answer] = field(default_factory=list)
    """Answers that run, known to the thread."""
    waiting: deque[Answer] = field(default_factory=deque)
    finished: int = 0
    tokens: int = 0
    _since: int = PATIENCE
    _arrived: int = 0
    _turn: tuple[str, int] = ("", 0)
    """The group that runs, and the last answer that had arrived when its turn began."""
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    _closing: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to work, on behalf of the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="demur-model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes more."""
        return self._thread is not None and self._thread.is_alive() and not self._closing

    def submit(self, answers: Sequence[Answer]) -> None:
        """Queue the answers to one request, all of them or none.

        Raises:
            Fault: 429 where the queue is full, 503 where the server is ending.
        """
        with self._changed:
            if not self.alive:
                raise Fault(503, "the server is ending and takes no more requests", "shutting_down")
            if len(self.waiting) + len(answers) > self.limits.queue:
                wait = self.retry_after()
                raise Fault(
                    429,
                    f"{len(self.waiting)} answers are waiting, at most {self.limits.queue} may; try again in {wait} s",
                    "queue_full",
                    headers={"Retry-After": str(wait)},
                )
            for answer in answers:
                self._arrived += 1
                answer.number = self._arrived
            self.waiting.extend(answers)
            self._changed.notify()

    def cancel(self, answers: Iterable[Answer]) -> None:
        """Give up answers that nobody waits for; those that have ended stay as they are."""
        with self._changed:
            for answer in answers:
                answer.gone = True
            self._changed.notify()

    def retry_after(self) -> int:
        """Return in how many seconds a quarter of the queue will be answered at the present pace, 1 to 60."""
        if len(self._ends) < 2:
            return 1
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return min(60, max(1, math.ceil(each * self.limits.queue / 4)))

    async def close(self, seconds: float) -> None:
        """Take no more, finish what was accepted, and end the thread; after `seconds` give up what is left."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        thread = self._thread
        if thread is None:
            return
        await asyncio.to_thread(thread.join, seconds)
        if thread.is_alive():
            with self._changed:
                for answer in (*self.live, *self.waiting):
                    answer.deadline = -math.inf
            await asyncio.to_thread(thread.join, seconds)

    # what follows runs in the thread

    def _work(self) -> None:
        try:
            while self._work_on():
                pass
        finally:
            self.session.close()

    def _work_on(self) -> bool:
        """Let answers leave and join, and draw a token for each that runs; False when there is nothing left to do."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self.waiting or self.live or self._closing))
            if self._closing and not (self.waiting or self.live):
                return False
            left = self._leaving()
            self.live = [answer for answer in self.live if answer not in left]
            self.waiting = deque(answer for answer in self.waiting if answer not in left)
        try:
            self.session.drop(left)
            fresh = self._joining()
            drawn = self.session.join(fresh) if fresh else self.session.step() if self.live else []
        except Exception as error:
            self._failed(error)
            return True
        self._settle(drawn)
        return True

    def _leaving(self) -> set[Answer]:
        """Return the answers whose client has gone or whose time is over, and tell the latter."""
        now = self.clock()
        late = [answer for answer in (*self.live, *self.waiting) if answer.deadline <= now and not answer.gone]
        what = f"the answer was not finished within {self.limits.seconds:g} s"
        fault = Fault(504, "the server is ending" if self._closing else what, "timeout")
        self._tell([(answer, fault) for answer in late])
        return {answer for answer in (*self.live, *self.waiting) if answer.gone or answer.deadline <= now}

    def _joining(self) -> list[Answer]:
        """Take the next waiting answers off the queue, once there are enough of them or the others have run a while."""
        with self._changed:
            found = self._fitting(self._next())
            enough = len(found) >= min(self.limits.rows, len(self.live) + len(found)) / 4
            if not found or not (enough or self._since >= PATIENCE):
                self._since += 1
                return []
            chosen = set(found)
            self.waiting = deque(answer for answer in self.waiting if answer not in chosen)
            self.live += found
            self._since = 0
            return found

    def _fitting(self, waiting: Sequence[Answer]) -> list[Answer]:
        """Return the first answers whose rows are free; one that runs alone may take more than there are."""
        free = self.limits.rows - sum(answer.rows for answer in self.live)
        found: list[Answer] = []
        for answer in waiting:
            if answer.rows > free and (found or self.live):
                break
            found.append(answer)
            free -= answer.rows
        return found

    def _next(self) -> list[Answer]:
        """Return the waiting answers that may join those that run; where none runs, the first begins a turn."""
        if not self.waiting:
            return []
        if not self.live:
            self._turn = (self.waiting[0].group, self._arrived)
        group, last = self._turn
        other = next((answer.number for answer in self.waiting if answer.group != group), math.inf)
        return [a for a in self.waiting if a.group == group and (a.number <= last or a.number < other)]

    def _settle(self, drawn: Sequence[tuple[Answer, Drawn]]) -> None:
        told: list[tuple[Answer, Piece | Fault]] = []
        over = set()
        for answer, token in drawn:
            piece = answer.writer.add(token)
            if token.place is not None:
                piece = piece._replace(place=token.place)
            if piece.text or piece.tokens or piece.finish or piece.place is not None:
                told.append((answer, piece))
            if piece.finish:
                over.add(answer)
        self.tokens += len(drawn)
        if over:
            self.session.drop(over)
            self.live = [answer for answer in self.live if answer not in over]
            self.finished += len(over)
            self._ends.append(self.clock())
        self._tell(told)

    def _failed(self, error: Exception) -> None:
        """Tell every answer that runs, free their rows, and go on with those that wait."""
        full = isinstance(error, MemoryError) or "memory" in str(error) or type(error).__name__ == "OutOfMemoryError"
        if full:
            fault = Fault(503, "out of memory while answering; send less at once, or lower --rows", "out_of_memory")
        elif isinstance(error, ModelError):
            fault = Fault(500, str(error), "model_error")
        else:
            fault = Fault(500, "the model failed while answering; the server's log says how", "model_error")
        _LOG.error("the model failed while answering", exc_info=error)
        lost, self.live = self.live, []
        self._tell([(answer, fault) for answer in lost])
        self.session.clear()

    def _tell(self, told: Sequence[tuple[Answer, Piece | Fault]]) -> None:
        if told and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, told)


def _deliver(told: Sequence[tuple[Answer, Piece | Fault]]) -> None:
    for answer, what in told:
        if not answer.gone:
            answer.events.put_nowait((answer.index, what))
