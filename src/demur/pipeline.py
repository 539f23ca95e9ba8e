"""The main job, stages joined: measure → fit → select → measure again → floor, price, explanation → report.

Every stage leaves files in the recipe's folder and is skipped when they are there, so a killed run goes on. A
folder that holds another recipe is refused, with the setting that differs.
"""

from __future__ import annotations

import random
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from demur import floor as safety
from demur import leaks
from demur.assemble import build_benchmarks, build_judges
from demur.cache import opened
from demur.decoding import decode
from demur.errors import ConfigError, DemurError
from demur.explain.boundary import explain
from demur.explain.experiments import Settings
from demur.explain.observed import Observed, spread
from demur.files import fingerprint, lock, read_json, write_json, write_rows, write_text
from demur.fitting import examples, outcomes, refusal_labels
from demur.headline import brief, headline, rates
from demur.interventions import load as load_intervention
from demur.interventions.gated import Gated
from demur.interventions.wrapped import Wrapped
from demur.lm import load as load_lm
from demur.measure import Measurement, Progress, collect_prompts, measure
from demur.methods._choice import Decoded
from demur.methods._contrast import Contrast
from demur.methods._learnable import rows as rows_of
from demur.named import choose_named
from demur.price import price
from demur.readout import Openers, find_openers
from demur.recipes import Recipe, recipe_from, recipe_toml
from demur.records import LoadedRun
from demur.residuals import capture
from demur.select import Candidate, Judged, Screened, candidates, choose, correctness_kept, front, screen, shortlist
from demur.types import ATTACK, Example, FitData, Generator, Metric, Part, Prompt, Response, Sampling, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demur.lm import LM
    from demur.plan import Intervention

NEUTRAL_PROMPTS = 200
"""How many plain prompts the price is taken on."""
FLIPPED = 90
"""How many prompts the explanation flips by steering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a recipe came to."""

    folder: Path
    choice: str | None
    reason: str
    before: tuple[Metric, ...]
    after: tuple[Metric, ...] | None
    floor: safety.FloorResult | None

    @property
    def passed(self) -> bool:
        """Whether something was chosen and keeps the safety floor on the test split."""
        return self.floor is not None and self.floor.passed

    def record(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {**to_json(self), "folder": str(self.folder), "passed": self.passed}


def run(recipe: Recipe, out: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Outcome:
    """Do the whole job of a recipe, or what of it `out` does not hold yet.

    Args:
        recipe: what to measure, how to choose.
        out: the recipe's folder.
        overwrite: start anew where `out` holds another recipe.
        progress: told of every stage.

    Raises:
        ConfigError: when `out` holds another recipe.
    """
    tell = progress or (lambda stage, done, total: None)
    with lock(out):
        _claim(recipe, out, overwrite)
        _check_overlap(recipe, out)
        job = Job(recipe=recipe, out=out, lm=load_lm(**recipe.model.arguments()), tell=tell)
        before = job.measured("before", recipe.benchmarks)
        choice, reason = job.selected()
        intervention = job.kept_intervention(choice)
        after = job.measured("after", recipe.benchmarks, intervention, before) if intervention else None
        floor = job.floor(before, after)
        job.priced(intervention, before)
        job.explained(before, intervention, after)
    return Outcome(
        folder=out,
        choice=choice,
        reason=reason,
        before=tuple(before.metrics),
        after=tuple(after.metrics) if after else None,
        floor=floor,
    )


@dataclass(kw_only=True)
class Job:
    """The stages of one recipe over one loaded model; each returns what it left on disk."""

    recipe: Recipe
    out: Path
    lm: LM
    tell: Progress
    _contrast: Contrast | None = field(default=None, init=False)
    _examples: tuple[Example, ...] = field(default=(), init=False)
    """What the contrast was made from, in its order."""

    def measured(
        self,
        name: str,
        benchmarks: Sequence[Any],
        intervention: Intervention | None = None,
        known: LoadedRun | None = None,
    ) -> LoadedRun:
        """Measure the model, or the model under an intervention, into the folder `name`.

        `known` is the untouched model's run on the same prompts: rows whose gate stays closed take its answers.
        """
        chosen = build_benchmarks(benchmarks)
        what = Measurement(
            model=self.lm.ref,
            benchmarks=chosen,
            judges=build_judges(self.recipe.judges, chosen),
            generator=(self._generator_part(), self._generator(intervention, known)),
            sampling=self.recipe.sampling,
            intervention=intervention_part(intervention) if intervention else None,
            device=self.lm.choice,
        )
        return measure(what, self.out / name, progress=lambda s, d, t: self.tell(f"{name}: {s}", d, t), cache=opened())

    def fitted(self) -> tuple[Contrast, Openers, LoadedRun]:
        """Label the fit and validation prompts with the model's own answers and capture the contrast states."""
        settings = self.recipe.select
        fit = self.measured("fit", settings.fit)
        dev = self.measured("validation", settings.validation)
        openers = find_openers(self.lm, fit.responses, fit.verdicts)
        if self._contrast is None:
            self._examples = (*examples(fit, "fit"), *examples(dev, "dev"))
            self._contrast = Contrast.of(self.lm, FitData(examples=self._examples))
        return self._contrast, openers, dev

    def selected(self) -> tuple[str | None, str]:
        """Screen and judge the candidates; return the chosen one's id, and why. Skipped when on disk."""
        path = self.out / "select.json"
        if path.is_file():
            record = read_json(path)
            return record["choice"], record["reason"]
        if self.recipe.method is not None:
            return choose_named(self)
        contrast, openers, dev = self.fitted()
        settings = self.recipe.select
        found = self.candidates()
        prompts = screening_prompts(dev.prompts, settings.screen_prompts)
        base, scores = screen(self.lm, prompts, contrast, openers, found, self.tell)
        by_id = {c.id: c for c in found}
        tried = shortlist(found, scores, base, margin=settings.margin, most=settings.judged_trials)
        judged = {c.id: self.judged(c, contrast, dev) for c in tried}
        choice, reason = choose(judged, headline(dev, "answered_rate", "borderline").value or 0.0)
        if choice is not None:
            by_id[choice].method.of(contrast).save(self.out / "intervention")
        write_json(path, self._selection(found, base, scores, judged, dev, choice, reason))
        return choice, reason

    def candidates(self) -> list[Candidate]:
        """Return what is tried where the recipe names no method: the grid of `[select]`."""
        return candidates(self.recipe.select, self.lm.n_layers)

    def judged(self, candidate: Candidate, contrast: Contrast, dev: LoadedRun) -> Judged:
        """Measure one candidate on the whole validation set and hold it to the floor at half the margin.

        The fitted intervention is kept beside its answers, so that a resumed trial goes on with the very same one.
        """
        name = f"trials/{fingerprint([candidate.record(), contrast.data_sha])}"
        saved = self.out / name / "intervention"
        if not (saved / "intervention.json").is_file():
            candidate.method.of(contrast).save(saved)
        trial = self.measured(f"{name}/run", self.recipe.select.validation, load_intervention(saved), known=dev)
        correct = headline(trial, "oracle_correct_rate")
        return Judged(
            answered=headline(trial, "answered_rate", "borderline"),
            held=headline(trial, "held_rate"),
            correct=correct if correct.value is not None else None,
            floor=self._floor(dev, trial, choosing=True),
            correct_kept=correctness_kept(outcomes(dev), outcomes(trial)),
        )

    def kept_intervention(self, choice: str | None) -> Intervention | None:
        """Return the chosen intervention as saved, or None where the base model is kept."""
        return load_intervention(self.out / "intervention") if choice is not None else None

    def floor(self, before: LoadedRun, after: LoadedRun | None) -> safety.FloorResult | None:
        """Apply the safety floor once, to the chosen one, on the test split."""
        if after is None:
            return None
        result = self._floor(before, after, choosing=False)
        write_json(self.out / "floor.json", to_json(result))
        return result

    def priced(self, intervention: Intervention | None, before: LoadedRun) -> None:
        """Write what the intervention costs on neutral prompts, in KL; what changes the prompts themselves has none."""
        path = self.out / "price.json"
        if intervention is None or isinstance(intervention, Wrapped) or path.is_file():
            return
        plain = answered_plain(before)
        rows = [plain[i] for i in spread(list(range(len(plain))), NEUTRAL_PROMPTS)]
        self.tell("price", 0, 1)
        write_json(path, to_json(price(self.lm, [p for p, _ in rows], [r for _, r in rows], intervention)))
        self.tell("price", 1, 1)

    def explained(self, before: LoadedRun, intervention: Intervention | None, after: LoadedRun | None) -> None:
        """Write the boundary view of the test prompts (attacked ones left out), before and after."""
        path = self.out / "explain.json"
        if path.is_file() or not self.recipe.report.boundary:
            return
        contrast, openers, _ = self.fitted()
        labels = refusal_labels(before)
        prompts = [p for p in before.prompts if not p.category.startswith(ATTACK)]
        later = refusal_labels(after) if after and not isinstance(intervention, Wrapped) else None
        record, rows, _ = explain(
            contrast,
            self._examples,
            Observed(prompts=prompts, labels=[labels[p.id] for p in prompts]),
            openers,
            Settings(layer=self._chosen_layer(), seed=self.recipe.seed, flipped=FLIPPED, controlled=FLIPPED // 5),
            after=(intervention, [later[p.id] for p in prompts]) if intervention and later else None,
            tell=self.tell,
        )
        write_rows(self.out / "coordinates.jsonl", rows)
        write_json(path, record)

    def _chosen_layer(self) -> int | None:
        record = read_json(self.out / "select.json")
        for trial in record["trials"]:
            if trial["id"] == record["choice"]:
                return cast(int, trial["layer"])
        return None

    def _floor(self, before: LoadedRun, after: LoadedRun, *, choosing: bool) -> safety.FloorResult:
        return safety.check(outcomes(before), outcomes(after), margin=self.recipe.select.margin, choosing=choosing)

    def _generator_part(self) -> Part:
        settings = {"model": self.recipe.model.id, "dtype": self.recipe.model.dtype}
        return Part(name="local", settings=settings, fingerprint=fingerprint(settings))

    def _generator(self, intervention: Intervention | None, known: LoadedRun | None) -> Generator:
        def generate(prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
            closed = closed_rows(self.lm, prompts, intervention) if intervention and known else set()
            rest = [p for p in prompts if p.id not in closed]
            if known:
                yield from (r for r in known.responses if r.prompt_id in closed)
            if rest and isinstance(intervention, Wrapped):
                yield from intervention.around(Decoded(lm=self.lm))(rest, sampling)
            elif rest:
                yield from decode(self.lm, rest, sampling, intervention)

        return generate

    def _selection(
        self,
        found: Sequence[Candidate],
        base: Screened,
        scores: dict[str, Screened],
        judged: dict[str, Judged],
        dev: LoadedRun,
        choice: str | None,
        reason: str,
    ) -> dict[str, Any]:
        trials = []
        for candidate in found:
            row = candidate.record()
            row["screen"] = to_json(scores[candidate.id])
            done = judged.get(candidate.id)
            row["judged"] = None
            row["floor"] = None
            if done is not None:
                row["judged"] = rates(done.answered, done.held, done.correct)
                row["floor"] = {"passed": done.floor.passed, "text": done.floor.verdict}
            trials.append(row)
        made = {"choice": choice, "reason": reason, **self.validation(dev), "front": front(judged), "trials": trials}
        made["base"]["screen"] = to_json(base)
        return made

    def judged_rates(self, trial: LoadedRun) -> dict[str, Any]:
        """Return the rates of a trial's answers as JSON values."""
        return rates(
            headline(trial, "answered_rate", "borderline"),
            headline(trial, "held_rate"),
            headline(trial, "oracle_correct_rate"),
        )

    def validation(self, dev: LoadedRun) -> dict[str, Any]:
        """Return what select.json says of the validation prompts and of the untouched model on them."""
        answered, held = headline(dev, "answered_rate", "borderline"), headline(dev, "held_rate")
        return {
            "margin": self.recipe.select.margin / 2,
            "split": "validation",
            "base": {"answered": brief(answered), "held": brief(held)},
            "n": {"borderline": answered.n, "harmful": held.n},
            "groups": {"borderline": answered.groups, "harmful": held.groups},
        }


def intervention_part(intervention: Intervention) -> Part:
    """Return the record of an intervention: its kind, what it says of itself, and the hash of its content."""
    described = intervention.describe()
    return Part(name=described["kind"], settings=described, fingerprint=intervention.fingerprint())


def closed_rows(lm: LM, prompts: Sequence[Prompt], intervention: Intervention) -> set[str]:
    """Return the ids of prompts on which an intervention does nothing, because its gate stays closed.

    On these the model is untouched, token by token. Interventions without a gate have none.
    """
    if not isinstance(intervention, Gated):
        return set()
    gate, probe = intervention.gate, intervention.gate.probe
    simple = probe is not None and len(probe.layers) == 1 and not probe.minus and not probe.branch
    if probe is None or not simple or probe.position != "last_prompt" or gate.lifetime != "request":
        return set()
    states = capture(lm, list(prompts), layers=probe.layers, points=(probe.point,), positions=probe.position)
    opened = gate.opens(states[:, 0]).tolist()
    return {p.id for p, is_open in zip(prompts, opened, strict=True) if not is_open}


def screening_prompts(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """Draw at most `most` prompts, the same each time: half borderline, a quarter harmful, a quarter attacked."""
    attacked = [p for p in prompts if p.expected == "refuse" and p.category.startswith(ATTACK)]
    harmful = [p for p in prompts if p.expected == "refuse" and not p.category.startswith(ATTACK)]
    plain = [p for p in prompts if not p.category.startswith(ATTACK)]
    borderline = [p for p in plain if p.expected == "comply" and p.kind == "borderline"]
    parts = ((borderline, most // 2), (harmful, most // 4 if attacked else most // 2), (attacked, most // 4))
    draw = random.Random(0)
    return [prompt for part, count in parts for prompt in draw.sample(part, min(count, len(part)))]


def _check_overlap(recipe: Recipe, out: Path) -> None:
    """Stop or warn where what is fitted or chosen on stands in what is tested on, before a model is loaded."""
    named = {"fit": recipe.select.fit, "validation": recipe.select.validation, "test": recipe.benchmarks}
    stages = {name: collect_prompts(build_benchmarks(parts)) for name, parts in named.items()}
    if recipe.method is not None and recipe.method.settings.get("file"):
        stages["fit"] = [e.prompt for e in rows_of(Path(recipe.method.settings["file"]))]
    leaks.check(stages, out, allowed=recipe.select.allow_overlap)


def _claim(recipe: Recipe, out: Path, overwrite: bool) -> None:
    """Write recipe.toml, or check that the folder holds this very recipe."""
    path, text = out / "recipe.toml", recipe_toml(recipe)
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    if old is not None and _now(old) != text:
        if not overwrite:
            was, now = _first_difference(old, text)
            raise ConfigError(
                f"folder {out} holds another recipe: there {was!r}, here {now!r}. "
                "Choose another --out, or start anew with --overwrite."
            )
        for name in ("before", "after", "fit", "validation", "fitting", "trials", "intervention"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("select.json", "floor.json", "price.json", "explain.json", "coordinates.jsonl", leaks.FILE):
            (out / name).unlink(missing_ok=True)
    write_text(path, text)


def _now(old: str) -> str:
    """Return a recipe that was written earlier as it would be written now, new settings at their defaults."""
    try:
        return recipe_toml(recipe_from(tomllib.loads(old)))
    except (tomllib.TOMLDecodeError, DemurError):
        return old


def _first_difference(old: str, new: str) -> tuple[str, str]:
    ours, theirs = new.splitlines(), old.splitlines()
    for was, now in zip(theirs, ours, strict=False):
        if was != now:
            return was, now
    return (theirs[len(ours)], "nothing") if len(theirs) > len(ours) else ("nothing", ours[len(theirs)])


def answered_plain(run: LoadedRun) -> list[tuple[Prompt, Response]]:
    """Return the plain prompts that a run answered, with the answers: what a price is taken on."""
    labels = refusal_labels(run)
    answers = {r.prompt_id: r for r in run.responses if r.sample == 0}
    return [(p, answers[p.id]) for p in run.prompts if p.kind == "plain" and labels[p.id] == "compliance"]
