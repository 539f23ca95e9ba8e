"""A judged point that loses too much, again at less of its own strength.

The screen reads a sample by its first token, so that the best points by it often miss a constraint by a few prompts. No
drawn point need lie just below such a miss; less of the same strength does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from demur.files import read_json, write_json
from demur.tuning.front import losses
from demur.tuning.space import SCALE, Point, Space, rounded
from demur.tuning.study import Scores, Trial, identity
from demur.types import to_json

if TYPE_CHECKING:
    from pathlib import Path

    from demur.tuning.judging import Judged

EXTRA = "tune"
FILE = "softer.json"
LEAST, MOST = 0.6, 0.93
"""Shares of the strength that a step keeps."""
UNKNOWN = 0.8
"""Share that is kept where what is missed is no stratum's loss."""


@dataclass(kw_only=True)
class Softer:
    """Makes the softer points of one search, each screened once and kept in the folder."""

    out: Path
    space: Space
    allowances: Mapping[str, float]
    """Stratum of the floor -> share of its prompts that may be lost."""
    evaluate: Callable[[Point], Scores]
    trials: list[Trial] = field(default_factory=list)
    """All that were screened, earlier runs' among them."""

    def __post_init__(self) -> None:
        path = self.out / FILE
        self.trials = [_trial(row) for row in read_json(path)] if path.is_file() else []

    def than(self, judged: Judged, number: int) -> Trial | None:
        """Return the trial of the next softer point; None where it misses nothing, or has no less of its strength.

        Args:
            judged: the point.
            number: of the trial to be made.
        """
        axes = {**self.space.methods, **self.space.fitted}[judged.trial.point.candidate]
        low = next((axis.low for axis in axes if axis.name == SCALE), math.inf)
        own = judged.trial.point
        point = replace(own, scale=rounded(own.scale * kept(judged, self.allowances)))
        if not judged.misses or point.scale < low:
            return None
        for known in self.trials:
            if known.id == identity(point):
                return known
        start = time.perf_counter()
        scores = self.evaluate(point)
        made = Trial(number=number, point=point, scores=scores, seconds=time.perf_counter() - start)
        self.trials.append(made)
        write_json(self.out / FILE, [to_json(trial) for trial in self.trials])
        return made


def kept(judged: Judged, allowances: Mapping[str, float]) -> float:
    """Return the share of the strength to keep: the root of what may be lost over what is, on the worst stratum.

    The root takes the loss to grow with the square of the strength: up to the threshold of a prompt nothing is lost.
    """
    lost = losses(judged.floor)
    missed = [s.name for s in judged.floor.strata if not s.passed and lost.get(s.name, 0.0) > 0]
    if not missed:
        return UNKNOWN
    share = min(allowances.get(name, 0.0) / lost[name] for name in missed)
    return min(max(math.sqrt(share), LEAST), MOST)


def hopeless(trial: Trial, judged: Sequence[Judged]) -> bool:
    """Whether a judged point of the trial's settings missed something at as little strength."""
    own = trial.point
    return any(
        j.misses
        and (j.trial.point.candidate, j.trial.point.settings) == (own.candidate, own.settings)
        and j.trial.point.scale <= own.scale
        for j in judged
    )


def _trial(row: Mapping[str, Any]) -> Trial:
    point, scores = Point(**row["point"]), Scores(**row["scores"])
    return Trial(number=row["number"], point=point, scores=scores, seconds=row["seconds"])
