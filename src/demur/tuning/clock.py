"""How much time a search has: counted over all runs of the command, kept in the folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from demur.files import read_json, write_json

FILE = "clock.json"


@dataclass(slots=True)
class Clock:
    """Seconds of work, those of earlier runs included."""

    path: Path
    minutes: float
    spent: float = 0.0
    """By earlier runs."""
    spent_cpu: float = 0.0
    started: float = field(default_factory=time.monotonic)
    started_cpu: float = field(default_factory=time.process_time)

    @classmethod
    def of(cls, out: Path, minutes: float) -> Clock:
        """Go on from what the folder says was spent."""
        path = out / FILE
        old = read_json(path) if path.is_file() else {}
        return cls(path, minutes, float(old.get("seconds", 0)), float(old.get("cpu_seconds", 0)))

    @property
    def seconds(self) -> float:
        """Spent so far."""
        return self.spent + time.monotonic() - self.started

    @property
    def cpu_seconds(self) -> float:
        """Processor time spent so far, on all threads: what a busy machine does not stretch."""
        return self.spent_cpu + time.process_time() - self.started_cpu

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 when the time is up."""
        return 60 * self.minutes - self.seconds

    def keep(self) -> None:
        """Write down what was spent."""
        write_json(self.path, {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds})
