"""The whole of `demur tune`: measure, search by first tokens, judge the best, choose, check once on unseen prompts.

Every stage leaves files in the folder and is skipped when they are there, so that a killed search goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demur import leaks
from demur.assemble import build_benchmarks, build_judges
from demur.errors import ConfigError
from demur.explain.observed import spread as evenly
from demur.files import lock, read_json, write_json
from demur.fitting import examples, outcomes
from demur.interventions import load as load_intervention
from demur.lm import load as load_lm
from demur.measure import Progress, collect_prompts
from demur.pipeline import Job, answered_plain
from demur.recipes import ModelSettings, Recipe, SelectSettings
from demur.records import LoadedRun, RunFolder
from demur.settings import parse_part
from demur.tuning import study
from demur.tuning.clock import Clock
from demur.tuning.fits import Fits, check_fitted
from demur.tuning.front import spread, worth_judging
from demur.tuning.judging import Calibration, Judged, Judging, calibrate, kept
from demur.tuning.record import read, write
from demur.tuning.result import Tested, Tuned, best, chosen
from demur.tuning.screening import INSTRUCTED, PRICED, Limits, Screening, answered, sample, threshold_of
from demur.tuning.settings import Tuning, claim, fitted_of
from demur.tuning.space import Space, axes
from demur.tuning.strengths import Strengths, hopeless
from demur.tuning.study import Trial
from demur.types import FitData, Prompt, Sampling

EXTRA = "tune"
JUDGED = "judged.json"
SPARE = 1.3
"""How much longer than measured the final check may take before the search's time is up."""


def tune(
    what: Tuning, out: Path, *, choose: int = 0, overwrite: bool = False, progress: Progress | None = None
) -> Tuned:
    """Search, or what of it `out` does not hold yet, and check the chosen point on unseen prompts.

    Args:
        what: what is searched, on which prompts, under which limits.
        out: the folder of everything.
        choose: the number of a point on the list, from 1; 0: the one that answers most.
        overwrite: start anew where `out` holds another search.
        progress: told of every stage.

    Raises:
        Unavailable: without Optuna.
        ConfigError: when `out` holds another search, for candidates that do not fit, or a number that is not listed.
        DataError: when a group of prompts that a method needs is missing, or what is fitted on is tested on.
    """
    study.require()
    with lock(out):
        claim(what, out, overwrite=overwrite)
        search = Search.begin(what, out, progress or (lambda stage, done, total: None))
        ended = search.ended(choose)
        trials, calibration = search.screened(0 if ended else what.trials)
        judged = search.judged(trials, calibration, go_on=not ended)
        trials = [*trials, *search.strengths.trials]
        pareto = best(judged, search.base_answered)
        choice, reason = chosen(pareto, judged, choose)
        tested = search.tested(choice)
        made = write(search.what, out, search.facts(), trials, calibration, judged, (pareto, choice, reason, tested))
        search.clock.keep()
    return Tuned(
        folder=out,
        trials=tuple(trials),
        calibration=calibration,
        judged=tuple(judged),
        pareto=tuple(pareto),
        choice=choice,
        reason=reason,
        tested=tested,
        record=made,
    )


@dataclass(kw_only=True)
class Search:
    """One search over a loaded model."""

    what: Tuning
    out: Path
    job: Job
    space: Space
    fits: Fits
    dev: LoadedRun
    before: LoadedRun
    instructed: LoadedRun
    screening: Screening
    agreement: float
    """Share of the untouched model's screened answers on which the screen and the judge agree."""
    strengths: Strengths
    clock: Clock
    tell: Progress

    @classmethod
    def begin(cls, what: Tuning, out: Path, tell: Progress) -> Search:
        """Load the model, measure it untouched, and make ready what is fitted and screened on."""
        clock = Clock.of(out, what.minutes)
        fitted = fitted_of(what.candidates)
        lm = load_lm(**ModelSettings(id=what.model).arguments())
        space = Space(methods={m: axes(m, lm.n_layers) for m in what.searched}, fitted=check_fitted(lm, fitted))
        if not space.names:
            raise ConfigError("nothing to search: name a --method or a --candidate")
        leaks.check(_stages(what), out, allowed=what.allow_overlap)
        job = Job(recipe=_recipe(what), out=out, lm=lm, tell=tell)
        contrast, openers, dev = job.fitted()
        before = job.measured("before", [parse_part(t) for t in what.test])
        instructed = job.measured("instructed/validation", [parse_part(t) for t in what.instructed()[0]])
        data = FitData(
            examples=(*examples(RunFolder.load(out / "fit"), "fit"), *examples(dev, "dev")),
            judge=build_judges(what.judges, build_benchmarks([parse_part(t) for t in what.dev]))[0][1],
        )
        fits = Fits(lm=lm, data=data, contrast=contrast, fitted={f.name: f for f in fitted}, out=out)
        prompts = sample(dev.prompts, what.screened)
        threshold, agreement = threshold_of(lm, dev, prompts, openers)
        limits = Limits(margin=what.margin, keep_instructed=what.keep_instructed)
        plain = answered_plain(dev)
        screening = Screening(
            lm=lm,
            openers=openers,
            threshold=threshold,
            limits=limits,
            allowances=limits.allowances(dev.prompts),
            prompts=prompts,
            instructed=[instructed.prompts[i] for i in evenly(list(range(len(instructed.prompts))), INSTRUCTED)],
            neutral=[plain[i] for i in evenly(list(range(len(plain))), PRICED)],
        )
        strengths = Strengths(
            out=out, space=space, allowances=screening.allowances, evaluate=lambda point: screening(fits.of(point))
        )
        clock.keep()
        return cls(
            what=what,
            out=out,
            job=job,
            space=space,
            fits=fits,
            dev=dev,
            before=before,
            instructed=instructed,
            screening=screening,
            agreement=agreement,
            strengths=strengths,
            clock=clock,
            tell=tell,
        )

    @property
    def base_answered(self) -> float:
        """What the untouched model answers of the validation prompts."""
        return answered(outcomes(self.dev))

    def ended(self, choose: int) -> bool:
        """Say whether the search is over: another point is asked for, or it ended with these very budgets."""
        old = read(self.out)
        return bool(old) and (choose > 0 or old["budgets"] == budgets(self.what))

    def screened(self, most: int) -> tuple[list[Trial], Calibration]:
        """Screen points until their number or their time is used up, and see on a few what the screen is worth."""
        first = min(most, max(study.STARTUP, len(self.space.starts())))
        trials = self._search(first, 0.0)
        calibration = self._calibrated(trials)
        if most > first:
            left = self.clock.left - self._final(calibration)
            judging = min(self.what.judged * self._one(calibration), left / 2)
            trials = self._search(most, self._final(calibration) + judging)
        return trials, calibration

    def judged(self, trials: Sequence[Trial], calibration: Calibration, *, go_on: bool) -> list[Judged]:
        """Judge the front and near misses: those judged before, then more while there is time and need."""
        judge = Judging(
            job=self.job,
            what=self.what,
            fits=self.fits,
            dev=self.dev,
            instructed=self.instructed,
            capability=self._capability,
        )
        path = self.out / JUDGED
        ids: list[str] = read_json(path) if path.is_file() else []
        by_id = {t.id: t for t in (*trials, *self.strengths.trials)}
        made = [judge(by_id[i]) for i in ids if i in by_id]
        base, slack = answered(self.screening.base), calibration.error
        rated = [_corrected(t, calibration.slope) for t in trials]
        waiting = [by_id[t.id] for t in worth_judging(rated, base, slack, 3 * self.what.judged) if t.id not in ids]
        while go_on and (len(made) < self.what.judged or not best(made, self.base_answered)):
            if made and self.clock.left < self._final(calibration) + made[-1].seconds:
                break
            trial = self._next(made, waiting, trials)
            if trial is None:
                break
            write_json(path, [*(j.trial.id for j in made), trial.id])
            self.tell("judged", len(made), max(self.what.judged, len(made) + 1))
            made.append(judge(trial))
            self.clock.keep()
        self.tell("judged", len(made), len(made))
        return made

    def _next(self, made: Sequence[Judged], waiting: list[Trial], screened: Sequence[Trial]) -> Trial | None:
        """Return another strength of the last point, where it may yet be the best; else a point not judged yet."""
        known = {j.trial.id for j in made}
        other = self.strengths.after(made, screened)
        kept_best = [j.trial.scores.answered for j in best(made, self.base_answered)]
        most = max(kept_best, default=answered(self.screening.base))  # by first tokens, as the other's is
        if other is not None and other.id not in known and other.scores.answered >= most:
            return other
        while waiting:
            trial = waiting.pop(0)
            if trial.id not in known and not hopeless(trial, made):
                return trial
        return None

    def tested(self, choice: Judged | None) -> Tested | None:
        """Check the chosen point once on prompts that the search never saw."""
        self._forget_other(choice)
        if choice is None:
            return None
        folder = self.out / "intervention"
        if not (folder / "intervention.json").is_file():
            self.fits.save(choice.trial.point, folder)
        made = load_intervention(folder)
        after = self.job.measured("after", [parse_part(t) for t in self.what.test], made, self.before)
        told = [parse_part(t) for t in self.what.instructed()[1]]
        obeyed = (
            self.job.measured("instructed/before", told),
            self.job.measured("instructed/after", told, made),
        )
        floor = self.job.floor(self.before, after)
        if floor is None:  # cannot happen: there is an `after`
            raise ConfigError("the chosen point was not measured")
        self.job.priced(made, self.before)
        paid = read_json(self.out / "price.json") if (self.out / "price.json").is_file() else {}
        return Tested(
            point=str(choice.trial.point),
            answered=answered(outcomes(after)),
            answered_before=answered(outcomes(self.before)),
            price=paid.get("price_kl"),
            floor=floor,
            instructed=kept(*obeyed),
            before=tuple(self.before.metrics),
            after=tuple(after.metrics),
        )

    def facts(self) -> dict[str, Any]:
        """Return what is known of the untouched model and of the screen, as JSON values."""
        validation = self.job.validation(self.dev)
        validation["base"]["screen"] = {"answered": answered(self.screening.base)}
        return {
            "seconds": self.clock.seconds,
            "cpu_seconds": self.clock.cpu_seconds,
            "base_answered": self.base_answered,
            "validation": validation,
            "screen": {
                "prompts": len(self.screening.prompts),
                "instructed": len(self.screening.instructed),
                "threshold": self.screening.threshold,
                "agreement": self.agreement,
                "allowances": self.screening.allowances,
            },
        }

    def _search(self, most: int, reserve: float) -> list[Trial]:
        def told(trial: Trial) -> None:
            self.clock.keep()
            self.tell("screened", trial.number + 1, most)

        return study.search(
            self.space,
            lambda point: self.screening(self.fits.of(point)),
            self.out,
            trials=most,
            seed=self.what.seed,
            more=lambda: self.clock.left > reserve,
            tell=told,
        )

    def _calibrated(self, trials: Sequence[Trial]) -> Calibration:
        wanted = {p.id for p in self.screening.prompts}
        judge = self.fits.data.judge
        if judge is None:  # cannot happen: `begin` sets it
            raise ConfigError("no judge")
        first = [t for t in trials if t.number < study.STARTUP]
        return calibrate(
            self.job.lm,
            self.fits,
            spread(first, self.what.calibrated),
            [o for o in outcomes(self.dev) if o.prompt.id in wanted and o.sample == 0],
            judge,
            self.what.longest,
            self.out / "calibration.json",
        )

    def _one(self, calibration: Calibration) -> float:
        """Seconds that judging a point on all validation prompts takes, about."""
        return calibration.seconds_a_prompt * (len(self.dev.prompts) + len(self.instructed.prompts))

    def _final(self, calibration: Calibration) -> float:
        """Seconds that the check on unseen prompts takes, about."""
        return SPARE * calibration.seconds_a_prompt * (len(self.before.prompts) + 2 * len(self.instructed.prompts))

    def _capability(self, intervention: Any) -> dict[str, float]:
        """Return how much each task's score changes; empty where no task is named."""
        if not self.what.tasks:
            return {}
        from demur.capability import Tasks, capability

        folder = Path(self.what.tasks_in) if self.what.tasks_in else None
        tasks = Tasks(names=self.what.tasks, folder=folder, limit=self.what.task_items or None)
        found = capability(self.job.lm, tasks, intervention)
        return {f"{c.task} {c.metric}": c.delta.value for c in found if c.delta is not None}

    def _forget_other(self, choice: Judged | None) -> None:
        """Remove the check of a point that was chosen before; its figures stay in `tune.json`."""
        old = read(self.out).get("choice")
        if old is None or (choice is not None and old == choice.trial.id):
            return
        for name in ("after", "intervention", "instructed/after"):
            shutil.rmtree(self.out / name, ignore_errors=True)
        for name in ("floor.json", "price.json"):
            (self.out / name).unlink(missing_ok=True)


def _corrected(trial: Trial, slope: float) -> Trial:
    """Return a trial whose screened rate is less by what answers of its price break after their first token."""
    scores = trial.scores
    return replace(trial, scores=replace(scores, answered=scores.answered - slope * scores.price))


def budgets(what: Tuning) -> dict[str, float]:
    """Return what a search may spend."""
    return {"trials": what.trials, "minutes": what.minutes, "judged": what.judged}


def _recipe(what: Tuning) -> Recipe:
    """Return the recipe whose stages a search uses."""
    return Recipe(
        name="tune",
        seed=what.seed,
        model=ModelSettings(id=what.model),
        benchmarks=tuple(parse_part(t) for t in what.test),
        judges=tuple(parse_part(t) for t in what.judges),
        sampling=Sampling(max_new_tokens=what.longest),
        select=SelectSettings(
            margin=what.margin,
            fit=tuple(parse_part(t) for t in what.fit),
            validation=tuple(parse_part(t) for t in what.dev),
        ),
    )


def _stages(what: Tuning) -> dict[str, list[Prompt]]:
    """Return the prompts by stage, instructed ones among them."""
    instructed = what.instructed()
    named = {"fit": what.fit, "validation": (*what.dev, *instructed[0]), "test": (*what.test, *instructed[1])}
    return {name: collect_prompts(build_benchmarks([parse_part(t) for t in parts])) for name, parts in named.items()}
