"""The dear evaluation: judged answers, of a few points to see what the screen is worth, of the best on all prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur import floor as safety
from demur import stats
from demur.files import read_json, write_json
from demur.fitting import outcomes
from demur.headline import brief, headline
from demur.interventions import load
from demur.methods._held_out import HeldOut
from demur.metrics import Outcome
from demur.records import LoadedRun
from demur.select import correctness_kept
from demur.tuning.fits import Fits
from demur.tuning.front import losses
from demur.tuning.screening import answered
from demur.tuning.settings import Tuning
from demur.tuning.study import Trial
from demur.types import Judge, Metric

if TYPE_CHECKING:
    from pathlib import Path

    from demur.lm import LM
    from demur.pipeline import Job

EXTRA = "tune"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How well the screen ranks settings, on the very prompts that it reads."""

    n: int
    spearman_answered: float | None
    """Rank correlation of screened and judged answered rates; None with fewer than two settings."""
    spearman_held: float | None
    slope: float
    """Answers that break after their first token: the screened rate is too high by this times the price, about."""
    spearman_corrected: float | None
    """As `spearman_answered`, the screened rate less slope times price, each point by the slope of the others."""
    error: float
    """Largest difference of a screened and a judged held rate."""
    screen_seconds: float | None
    """Of a trial, in the middle."""
    judged_seconds: float | None
    """Of the judged answers to the same prompts, in the middle."""
    rows: tuple[Mapping[str, Any], ...] = ()

    @property
    def seconds_a_prompt(self) -> float:
        """What one judged answer takes; 0 where it was not measured."""
        asked = max((int(r["prompts"]) for r in self.rows), default=0)
        return (self.judged_seconds or 0.0) / asked if asked else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Instructed refusals before and after."""

    before: float | None
    after: float | None
    share: float | None
    """after / before; None where the base model refuses none, or nothing was measured."""
    n: int
    gains: int
    losses: int

    def enough(self, least: float) -> bool:
        """Whether the base model's refusals are kept; where it has none there is nothing to keep."""
        return self.n > 0 and (self.share is None or self.share >= least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one trial did on the whole validation set."""

    trial: Trial
    answered: float
    price: float
    metrics: tuple[Metric, Metric, Metric]
    """answered (borderline), held and right, with their intervals."""
    floor: safety.FloorResult
    correct_kept: bool
    instructed: Kept
    capability: Mapping[str, float]
    """Change of each task's score."""
    misses: tuple[str, ...]
    """Which constraints it misses, in words; none: it may be chosen."""
    seconds: float


def calibrate(
    lm: LM, fits: Fits, chosen: Sequence[Trial], before: Sequence[Outcome], judge: Judge, longest: int, path: Path
) -> Calibration:
    """Let the model answer the screened prompts under a few trials, and compare with what the screen said.

    Args:
        lm: the model.
        fits: gives the interventions.
        chosen: the trials.
        before: what the untouched model made of the screened prompts.
        judge: of the answers.
        longest: tokens of an answer.
        path: where each row is kept, so that a killed search asks for none twice.
    """
    rows: list[dict[str, Any]] = read_json(path) if path.is_file() else []
    known = {row["id"] for row in rows}
    held_out = HeldOut(before=tuple(before), judge=judge, max_new_tokens=longest)
    for trial in chosen:
        if trial.id in known:
            continue
        start = time.perf_counter()
        score = held_out.score(lm, fits.of(trial.point))
        said = {"screen": [trial.scores.answered, trial.scores.facts["held"]], "seconds": trial.seconds}
        benign = score["borderline"] if score["borderline"] is not None else score["answered"]
        made = {"judged": [benign, score["held"]], "judged_seconds": time.perf_counter() - start}
        rows.append({"id": trial.id, "point": str(trial.point), **said, **made, "prompts": len(before)})
        write_json(path, rows)
    prices = {trial.id: trial.scores.price for trial in chosen}
    return compared([{**row, "price": prices[row["id"]]} for row in rows if row["id"] in prices])


def compared(rows: Sequence[Mapping[str, Any]]) -> Calibration:
    """Return how well screened and judged rates agree.

    Args:
        rows: `screen` and `judged`, each [answered, held], with the price and the seconds that either took.
    """
    pairs = [[(row["screen"][k], row["judged"][k]) for row in rows if row["judged"][k] is not None] for k in (0, 1)]
    ranks = [stats.spearman(*zip(*side, strict=True)) if len(side) > 1 else None for side in pairs]
    benign = [row for row in rows if row["judged"][0] is not None]
    others = [[row for row in benign if row is not own] for own in benign]
    corrected = [own["screen"][0] - _slope(rest) * own["price"] for own, rest in zip(benign, others, strict=True)]
    return Calibration(
        n=len(rows),
        spearman_answered=ranks[0],
        spearman_held=ranks[1],
        slope=_slope(benign),
        spearman_corrected=stats.spearman(corrected, [row["judged"][0] for row in benign]),
        error=max((abs(a - b) for a, b in pairs[1]), default=0.0),
        screen_seconds=_middle([row["seconds"] for row in rows]),
        judged_seconds=_middle([row["judged_seconds"] for row in rows]),
        rows=tuple(rows),
    )


def _slope(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return how much the screen overrates for each nat of price: least squares through 0, none below 0."""
    over = sum(row["price"] * (row["screen"][0] - row["judged"][0]) for row in rows)
    paid = sum(row["price"] ** 2 for row in rows)
    return max(0.0, over / paid) if paid else 0.0


def kept(before: LoadedRun | None, after: LoadedRun | None) -> Kept:
    """Compare instructed refusals of two runs on the same prompts; what could not be judged counts as lost."""
    if before is None or after is None:
        return Kept(before=None, after=None, share=None, n=0, gains=0, losses=0)
    found = safety.paired_difference(outcomes(before), outcomes(after), "held_rate")
    share = found.after / found.before if found.before and found.after is not None else None
    return Kept(before=found.before, after=found.after, share=share, n=found.n, gains=found.gains, losses=found.losses)


@dataclass(kw_only=True)
class Judging:
    """Judged answers to all validation prompts, in a folder per trial that a killed search goes on with."""

    job: Job
    what: Tuning
    fits: Fits
    dev: LoadedRun
    instructed: LoadedRun | None
    capability: Callable[[Any], Mapping[str, float]]

    def __call__(self, trial: Trial) -> Judged:
        """Judge one trial."""
        start = time.perf_counter()
        name = f"trials/{trial.id}"
        saved = self.job.out / name / "intervention"
        if not (saved / "intervention.json").is_file():
            self.fits.save(trial.point, saved)
        made = load(saved)
        run = self.job.measured(f"{name}/run", self.what.dev, made, known=self.dev)
        obeyed = self.instructed and self.job.measured(
            f"{name}/instructed", self.what.instructed()[0], made, known=self.instructed
        )
        before, after = outcomes(self.dev), outcomes(run)
        result = safety.check(before, after, margin=self.what.margin, choosing=True)
        right = correctness_kept(before, after, self.what.correct_loss)
        still, lost = kept(self.instructed, obeyed or None), self.capability(made)
        return Judged(
            trial=trial,
            answered=answered(after),
            price=trial.scores.price,
            metrics=(
                headline(run, "answered_rate", "borderline"),
                headline(run, "held_rate"),
                headline(run, "oracle_correct_rate"),
            ),
            floor=result,
            correct_kept=right,
            instructed=still,
            capability=lost,
            misses=tuple(misses(self.what, result, right, still, lost)),
            seconds=time.perf_counter() - start,
        )


def misses(
    what: Tuning, floor: safety.FloorResult, right: bool, instructed: Kept, capability: Mapping[str, float]
) -> list[str]:
    """Return which constraints are missed, in words."""
    below = [s.name for s in floor.strata if not s.passed]
    found = [] if floor.passed else [f"floor: {', '.join(below) or 'a severe category'}"]
    found += [] if right else [f"answers are less often right by more than {100 * what.correct_loss:g} points"]
    if not instructed.enough(what.keep_instructed):
        share = "not measured" if instructed.share is None else f"{100 * instructed.share:.1f} % kept"
        found.append(f"instructed refusals: {share}, at least {100 * what.keep_instructed:g} % are asked for")
    found += [
        f"capability: {task} falls by {-100 * change:.1f} points"
        for task, change in capability.items()
        if change < -what.capability_loss
    ]
    return found


def record(judged: Judged) -> dict[str, Any]:
    """Return a judged trial as JSON values."""
    names = ("answered", "held", "oracle_correct")
    return {
        "id": judged.trial.id,
        "point": str(judged.trial.point),
        "answered": judged.answered,
        "price_kl": judged.price,
        **{f"{name}_rate": brief(metric) for name, metric in zip(names, judged.metrics, strict=True)},
        "floor": {"passed": judged.floor.passed, "text": judged.floor.verdict, "losses": losses(judged.floor)},
        "correct_kept": judged.correct_kept,
        "instructed": {"share": judged.instructed.share, "n": judged.instructed.n, "before": judged.instructed.before},
        "capability": dict(judged.capability),
        "misses": list(judged.misses),
        "seconds": judged.seconds,
    }


def _middle(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None
