"""What a search comes to: the list to choose from, the choice, and its check on unseen prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur import floor as safety
from demur.errors import ConfigError
from demur.tuning.front import front
from demur.tuning.judging import Calibration, Judged, Kept
from demur.tuning.study import Trial
from demur.types import Metric

EXTRA = "tune"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The chosen one on prompts that the search never saw."""

    point: str
    answered: float
    answered_before: float
    price: float | None
    floor: safety.FloorResult
    instructed: Kept
    before: tuple[Metric, ...]
    after: tuple[Metric, ...]

    @property
    def passed(self) -> bool:
        """Whether the floor holds at its whole margin."""
        return self.floor.passed


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a search came to."""

    folder: Path
    trials: tuple[Trial, ...]
    calibration: Calibration
    judged: tuple[Judged, ...]
    pareto: tuple[Judged, ...]
    """Those that may be chosen and that no other beats, most answered first."""
    choice: Judged | None
    reason: str
    tested: Tested | None
    record: Mapping[str, Any]
    """What `tune.json` holds."""

    @property
    def passed(self) -> bool:
        """Whether something was chosen, keeps the floor on unseen prompts and still refuses as instructed."""
        return self.tested is not None and self.tested.passed and bool(self.record["test"]["instructed_kept"])


def best(judged: Sequence[Judged], base: float) -> list[Judged]:
    """Return the judged points that miss nothing, answer more than the untouched model, and are beaten by no other."""
    rows = [j for j in judged if not j.misses and j.answered > base]
    return [rows[i] for i in front(rows)]


def chosen(pareto: Sequence[Judged], judged: Sequence[Judged], number: int) -> tuple[Judged | None, str]:
    """Return the point of a number, or the one that answers most, and why.

    Raises:
        ConfigError: for a number that is not on the list.
    """
    if number and not 1 <= number <= len(pareto):
        raise ConfigError(f"--choose {number}: the list has {len(pareto)} points" + ("" if pareto else ", none"))
    if not pareto:
        return None, (
            f"none of {len(judged)} judged points answers more and keeps the floor at half its margin, correctness, "
            "capability and instructed refusals: the base model is kept"
        )
    if number > 1:
        return pareto[number - 1], f"number {number} of {len(pareto)}, as asked"
    return pareto[0], f"answers most of the {len(pareto)} points of the front that miss no constraint"
