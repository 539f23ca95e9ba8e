"""The strength at which a judged point just keeps the constraints: softer while it misses, then between.

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
FILE = "strengths.json"
LEAST, MOST = 0.6, 0.93
"""Shares of the strength that a step down keeps."""
UNKNOWN = 0.8
"""Share that is kept where what is missed is no stratum's loss."""
STEPS = 5
"""Strengths of the same settings that may miss before no softer one is tried."""
CLOSE = 1.05
"""Factor between a strength that keeps the constraints and one that misses within which nothing more is tried."""


@dataclass(kw_only=True)
class Strengths:
    """Makes other strengths of judged points, each screened once and kept in the folder."""

    out: Path
    space: Space
    allowances: Mapping[str, float]
    """Stratum of the floor -> share of its prompts that may be lost."""
    evaluate: Callable[[Point], Scores]
    trials: list[Trial] = field(init=False)
    """All that were screened, earlier runs' among them."""

    def __post_init__(self) -> None:
        path = self.out / FILE
        self.trials = [_trial(row) for row in read_json(path)] if path.is_file() else []

    def after(self, judged: Sequence[Judged], screened: Sequence[Trial]) -> Trial | None:
        """Return the trial of the next strength of the point that was judged last.

        Args:
            judged: all points so far.
            screened: what the study has, each once; a point among them is not screened again.

        Returns:
            None where nothing was judged, the point has no strength, or its strength is known well enough.
        """
        scale = self._next(judged) if judged else None
        if scale is None:
            return None
        point = replace(judged[-1].trial.point, scale=scale)
        known = next((trial for trial in (*screened, *self.trials) if trial.id == identity(point)), None)
        if known is not None:
            return known
        start = time.perf_counter()
        scores = self.evaluate(point)
        number = len(screened) + len(self.trials)
        made = Trial(number=number, point=point, scores=scores, seconds=time.perf_counter() - start)
        self.trials.append(made)
        write_json(self.out / FILE, [to_json(trial) for trial in self.trials])
        return made

    def _next(self, judged: Sequence[Judged]) -> float | None:
        last = judged[-1]
        alike = [j for j in judged if same_settings(j.trial, last.trial)]
        missed = min((j.trial.point.scale for j in alike if j.misses), default=None)
        if missed is None:
            return None
        held = max((j.trial.point.scale for j in alike if not j.misses and j.trial.point.scale < missed), default=None)
        if held is not None:
            return rounded(math.sqrt(held * missed)) if missed / held > CLOSE else None
        if sum(bool(j.misses) for j in alike) >= STEPS:
            return None
        axes = {**self.space.methods, **self.space.fitted}[last.trial.point.candidate]
        low = next((axis.low for axis in axes if axis.name == SCALE), math.inf)
        scale = rounded(missed * kept(last, self.allowances))
        return scale if scale >= low else None


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
    return any(j.misses and same_settings(j.trial, trial) and j.trial.point.scale <= trial.point.scale for j in judged)


def same_settings(one: Trial, other: Trial) -> bool:
    """Whether two trials differ in their strength alone."""
    a, b = one.point, other.point
    return (a.candidate, a.settings) == (b.candidate, b.settings)


def _trial(row: Mapping[str, Any]) -> Trial:
    point, scores = Point(**row["point"]), Scores(**row["scores"])
    return Trial(number=row["number"], point=point, scores=scores, seconds=row["seconds"])
