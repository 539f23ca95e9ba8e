"""Which points are worth more work: what nothing beats, what nearly meets the constraints, and how much may be lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from demur import stats
from demur.floor import FloorResult
from demur.tuning.study import CHEAP, Trial

ALIKE = (0.01, 1.25)
"""Points that differ less than this in answered rate, and by less than this factor in price, are taken as one."""


class Worth(Protocol):
    """What has both objectives."""

    @property
    def answered(self) -> float:
        """As large as possible."""

    @property
    def price(self) -> float:
        """As small as possible."""


def front(points: Iterable[Worth]) -> list[int]:
    """Return the places of the points that no other beats in both objectives, most answered first.

    Prices below `study.CHEAP` are taken as equal.
    """
    given = list(points)
    rows = [(p.answered, max(p.price, CHEAP)) for p in given]
    kept = [i for i, own in enumerate(rows) if not any(_beats(other, own) for other in rows)]
    return sorted(kept, key=lambda i: (-rows[i][0], given[i].price, i))


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def worth_judging(trials: Sequence[Trial], base: float, slack: float, most: int) -> list[Trial]:
    """Return the trials to judge: the front of those that meet the constraints, then that of those that nearly do.

    Every third turn is a near miss's, so that a screen that is too strict hides nothing; where nothing is even near,
    the points that miss least are taken. Of points that are all but alike the first is taken.

    Args:
        trials: screened.
        base: answered rate of the untouched model; points that do not answer more are left out.
        slack: how far a constraint may be missed for a near miss.
        most: how many.
    """
    better = [t for t in trials if t.scores.answered > base]
    kept = _apart([t for t in better if t.scores.violation <= 0])
    near = _apart([t for t in better if 0 < t.scores.violation <= slack])
    if not kept and not near:
        near = sorted(better, key=lambda t: (t.scores.violation, -t.scores.answered, t.number))
    made: list[Trial] = []
    while (kept or near) and len(made) < most:
        turn = kept if kept and (not near or len(made) % 3 != 2) else near
        made.append(turn.pop(0))
    return made


def _apart(trials: Sequence[Trial]) -> list[Trial]:
    """Return the front's trials, most answered first, without those all but alike."""
    made: list[Trial] = []
    for index in front([t.scores for t in trials]):
        own = trials[index]
        if not any(_alike(own, other) for other in made):
            made.append(own)
    return made


def _alike(one: Trial, other: Trial) -> bool:
    a, b = one.scores, other.scores
    low, high = sorted((max(a.price, CHEAP), max(b.price, CHEAP)))
    return abs(a.answered - b.answered) < ALIKE[0] and high <= ALIKE[1] * low


def spread(trials: Sequence[Trial], most: int) -> list[Trial]:
    """Return at most `most` trials whose answered rates are spread as evenly as their order allows."""
    ranked = sorted(trials, key=lambda t: (t.scores.answered, t.number))
    if len(ranked) <= most:
        return ranked
    step = (len(ranked) - 1) / max(most - 1, 1)
    return [ranked[i] for i in sorted({round(k * step) for k in range(most)})]


def allowed(n: int, margin: float) -> float:
    """Return the largest share of `n` prompts that may be lost for the floor's bound to stay within the margin.

    It is by Tango's bound with no gains, prompts taken as independent; 0 where not even no loss would be shown.
    """
    lost = 0
    while lost < n and stats.tango_lower(0, lost + 1, n) >= -margin:
        lost += 1
    return lost / n if n else 0.0


def losses(floor: FloorResult) -> dict[str, float]:
    """Return what each stratum of a floor lost, as a share; strata without rows are left out."""
    return {s.name: s.before - s.after for s in floor.strata if s.before is not None and s.after is not None}
