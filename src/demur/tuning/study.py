"""The search itself: an Optuna study of two objectives under constraints, kept in a journal that a kill cannot tear.

Every trial's sampler is seeded by the study's seed and by how many trials are finished, and a trial that a kill cut
short is begun again with the same parameters: so the finished trials of a killed and resumed study are those of an
undisturbed one, and at most one evaluation is lost.

Optuna's multi-objective TPE (Ozaki et al., GECCO 2020) with constraints: points that miss one rank below all that meet
them. Pruners do not serve studies of several objectives, so none is used; the cheap evaluation takes their place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from demur import registry
from demur.errors import ConfigError, Unavailable
from demur.files import fingerprint, mend, naming
from demur.tuning.space import Point, Space

JOURNAL = "study.journal"
STUDY = "demur"
KEPT = "demur"
"""The user attribute that holds a trial's point and facts."""
CHEAP = 0.001
"""Nats a token below which a price is as good as none: else a search spends itself on ever less of every method."""
STARTUP = 16
"""Trials before the sampler models what it has seen: defaults first, then drawn at random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one evaluation gave."""

    answered: float
    """Share of the borderline prompts that are answered; as large as possible."""
    price: float
    """`price_kl` in nats a token; as small as possible."""
    constraints: Mapping[str, float]
    """By name: above 0 misses."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else was measured, as JSON values."""

    @property
    def violation(self) -> float:
        """The largest miss; 0 or less where every constraint is met."""
        return max(self.constraints.values(), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One finished evaluation."""

    number: int
    """Counted among the finished ones, from 0."""
    point: Point
    scores: Scores
    seconds: float

    @property
    def id(self) -> str:
        """What it is called in records: 16 hex digits of the point."""
        return identity(self.point)


def identity(point: Point) -> str:
    """Return 16 hex digits of a point."""
    return fingerprint([point.candidate, dict(point.settings), point.scale])


def require() -> None:
    """Check that Optuna is there.

    Raises:
        Unavailable: where it is not, with the install command.
    """
    if registry.missing("tune"):
        raise Unavailable(f"tune needs optuna, which is not installed: {registry.install_hint('tune')}")


def search(
    space: Space,
    evaluate: Callable[[Point], Scores],
    out: Path,
    *,
    trials: int,
    seed: int = 0,
    more: Callable[[], bool] = lambda: True,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Evaluate points until there are `trials`, or `more` says no; return all finished ones, earlier runs' included.

    Args:
        space: what may be chosen.
        evaluate: what a point is worth. A point that was evaluated before is not evaluated again.
        out: the folder of the journal; it must be this process's alone (`files.lock`).
        trials: how many finished trials there are to be in all.
        seed: of the sampler.
        more: asked before every trial that is not among the defaults.
        tell: told of every finished trial, with what it took.

    Raises:
        Unavailable: without Optuna.
        ConfigError: where the journal holds a study of something else, or the folder cannot be written.
    """
    require()
    study = _open(out)
    for params in space.starts():
        study.enqueue_trial(params, skip_if_exists=True)
    known = {t.id: t for t in finished(out, space, study)}
    done = len(_complete(study))
    with naming(out / JOURNAL):
        while done < trials and (done < len(space.starts()) or more()):
            study.sampler = _sampler(seed, done)
            asked = _cut_short(study) or study.ask()
            point = space.suggest(asked)
            found = known.get(identity(point)) or _timed(evaluate, point, done)
            known.setdefault(found.id, found)
            _write(study, asked, found)
            done += 1
            tell(found)
    return finished(out, space, study)


def finished(out: Path, space: Space, study: Any = None) -> list[Trial]:
    """Return the finished trials of a folder in their order, points that came up again left out."""
    made: dict[str, Trial] = {}
    for number, trial in enumerate(_complete(study if study is not None else _open(out))):
        kept = trial.user_attrs[KEPT]
        point = Point(candidate=kept["candidate"], settings=kept["settings"], scale=kept["scale"])
        if point.candidate not in space.names:
            raise ConfigError(f"{out / JOURNAL} holds a study of {point.candidate!r}, which is not searched now")
        scores = Scores(
            answered=trial.values[0], price=kept["price"], constraints=trial.constraints, facts=kept["facts"]
        )
        one = Trial(number=number, point=point, scores=scores, seconds=kept["seconds"])
        made.setdefault(one.id, one)
    return list(made.values())


def _timed(evaluate: Callable[[Point], Scores], point: Point, number: int) -> Trial:
    start = time.perf_counter()
    scores = evaluate(point)
    return Trial(number=number, point=point, scores=scores, seconds=time.perf_counter() - start)


def _write(study: Any, asked: Any, found: Trial) -> None:
    """Finish a trial: all that is known of it goes to the journal before its values, which make it count."""
    already = study._storage.get_trial(asked._trial_id).constraints  # a kill may have come after these were set
    for name, value in found.scores.constraints.items():
        if name not in already:
            asked.set_constraint(name, value)
    point = found.point
    kept = {
        "candidate": point.candidate,
        "settings": dict(point.settings),
        "scale": point.scale,
        "price": found.scores.price,
    }
    asked.set_user_attr(KEPT, {**kept, "facts": dict(found.scores.facts), "seconds": found.seconds})
    study.tell(asked, [found.scores.answered, max(found.scores.price, CHEAP)])


def _complete(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _cut_short(study: Any) -> Any:
    """Return the trial that a kill left unfinished, with the parameters that it has; None where there is none."""
    from optuna.trial import Trial, TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return Trial(study, running[0]._trial_id) if running else None


def _sampler(seed: int, done: int) -> Any:
    """Return the sampler of the trial after `done` finished ones; what it draws depends on these and the seed alone."""
    from optuna.samplers import TPESampler

    return TPESampler(
        seed=int(fingerprint([seed, done])[:8], 16) % 2**31, n_startup_trials=STARTUP, constant_liar=False
    )


def _open(out: Path) -> Any:
    """Open the study of a folder, or begin it."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = out / JOURNAL
    with naming(path):
        out.mkdir(parents=True, exist_ok=True)
        mend(path)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=cast(Any, _Lock(path))))
        return optuna.create_study(
            study_name=STUDY, storage=storage, directions=["maximize", "minimize"], load_if_exists=True
        )


class _Lock:
    """A lock of the journal that ends with its process; Optuna's own outlive a kill."""

    def __init__(self, path: Path) -> None:
        self.path, self.handle = path.with_suffix(".lock"), -1

    def acquire(self) -> bool:
        """Take the lock."""
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give it back."""
        with contextlib.suppress(OSError):
            os.close(self.handle)
