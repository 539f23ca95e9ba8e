"""One answer as it is written: tokens into text, and stop strings over token boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Finish = Literal["stop", "length", ""]
BROKEN = "\ufffd"
"""What half a character decodes to."""
_WINDOW = 6
"""Tokens before an answer that decide how its first one is written."""


class Drawn(NamedTuple):
    """One token as a model drew it."""

    token: int
    logprob: float
    """Under the model, whatever the temperature."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with their log-probabilities."""
    ends: bool = False
    """Whether it is one of the tokens that end an answer; it is no part of the text."""
    place: Mapping[str, Any] | None = None
    """Where the prompt stands along the boundary; with the first token, where that was asked for."""


class Piece(NamedTuple):
    """What an answer gained: text that can no longer change, the tokens it came from, and how the answer ended."""

    text: str = ""
    tokens: tuple[Drawn, ...] = ()
    finish: Finish = ""
    place: Mapping[str, Any] | None = None
    end: Drawn | None = None
    """The token that ended the answer, where one did."""


@dataclass(eq=False)
class Writer:
    """Turns the tokens of one answer into text, and says when it is over."""

    tokenizer: Any
    """With `decode(ids, skip_special_tokens=...)`."""
    most: int
    """Tokens at most."""
    stops: tuple[str, ...] = ()
    """Texts that end the answer; neither they nor what follows is part of it."""
    before: tuple[int, ...] = ()
    """The tokens that stand before the answer, where it continues a text."""
    given: tuple[int, ...] = ()
    """The tokens that the answer begins with; they count for its text alone."""
    count: int = 0
    """Tokens drawn so far, one that ended the answer included."""
    _ids: list[int] = field(default_factory=list)
    _from: int = 0
    _read: int = 0
    _given: int = 0
    _held: str = ""
    _waiting: list[tuple[int, Drawn]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = list(self.before[-_WINDOW:])
        self._read = len(self._ids)
        self._ids += self.given

    def add(self, drawn: Drawn) -> Piece:
        """Take one more token; an answer that has a `finish` takes no more.

        Text is held back for as long as it may become a stop string, or is half a character; its tokens wait with it.
        """
        self.count += 1
        if not drawn.ends:
            self._waiting.append((self._given + len(self._held), drawn))
            self._ids.append(drawn.token)
            self._held += self._fresh()
        over: Finish = "stop" if drawn.ends else "length" if self.count >= self.most else ""
        if over:
            self._held += self._fresh(last=True)
        cut = first_of(self._held, self.stops)
        if cut >= 0:
            return self._give(cut, "stop")._replace(end=drawn if drawn.ends else None)
        kept = 0 if over else overlap(self._held, self.stops)
        piece = self._give(len(self._held) - kept, over, rest=bool(over))
        return piece._replace(end=drawn) if drawn.ends else piece

    def _fresh(self, *, last: bool = False) -> str:
        """Return the text that the unread tokens add; "" while they end in half a character."""
        known = self._decode(self._ids[self._from : self._read])
        whole = self._decode(self._ids[self._from :])
        if len(whole) <= len(known) or (whole.endswith(BROKEN) and not last):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return whole[len(known) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _give(self, upto: int, finish: Finish, *, rest: bool = False) -> Piece:
        text, self._held = self._held[:upto], self._held[upto:]
        self._given += len(text)
        gone = [drawn for start, drawn in self._waiting if rest or start < self._given]
        self._waiting = [] if rest else [(s, d) for s, d in self._waiting if s >= self._given]
        return Piece(text, tuple(gone), finish)


def first_of(text: str, stops: Sequence[str]) -> int:
    """Return where the first of the stop strings begins in a text, -1 where there is none."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return min(found, default=-1)


def overlap(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of a text that begins a stop string."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
