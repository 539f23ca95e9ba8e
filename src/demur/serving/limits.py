"""What a server takes: sizes, lengths, times, places in the queue."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from demur.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a server; a request beyond one is refused and told which."""

    rows: int = 32
    """Answers written at once."""
    queue: int = 256
    """Answers that may wait."""
    body: int = 1_000_000
    """Bytes of a request."""
    body_seconds: float = 30.0
    """How long a request may take to arrive."""
    context: int = 4096
    """Tokens of prompt and answer together; a model's own limit holds where it is lower."""
    answer: int = 2048
    """Tokens of one answer."""
    choices: int = 16
    """Answers to one request."""
    seconds: float = 300.0
    """How long a request may wait and be answered."""
    reuse: int = 256
    """Megabytes for what was computed of the beginnings of prompts, which later prompts that begin alike need not
    compute again; 0 reads every prompt whole."""
    drain: float = 30.0
    """How long a server that is told to end goes on with what it has accepted."""

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value, least = getattr(self, one.name), "0 or above" if one.name == "reuse" else "above 0"
            if value < 0 or (value == 0 and one.name != "reuse"):
                raise ConfigError(f"limit {one.name} is {value}; it must be {least}")
