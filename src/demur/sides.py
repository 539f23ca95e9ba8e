"""The two sides of a verification: what a user wrote, measured into two run folders that a killed process goes on with.

A side is a model (`organism`, a folder, a hub id), a generator (`http:base_url=…`) or the folder of a finished run,
with a system prompt, an intervention and a guard of its own.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur import registry, suites
from demur.assemble import measurement
from demur.errors import ConfigError
from demur.files import fingerprint
from demur.fitting import outcomes
from demur.measure import Measurement, Progress, collect_prompts, measure, with_system
from demur.records import LABELS, LoadedRun, RunFolder
from demur.settings import PartSpec, parse_part, spec_of
from demur.types import Sampling

if TYPE_CHECKING:
    from demur.capability import Change, Tasks
    from demur.lm import LM

BENCHMARKS = ("world", "world:attack=all")
"""What is measured where nobody says: all strata of the floor, on the embedded model."""

FOLDERS = ("before", "after")
"""The folders of A and B: those that a report of two runs reads."""

PRICED = 200
"""Plain prompts on which the price is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two things compared."""

    what: str
    """A model, a generator part, or a run folder."""
    system: str | None = None
    """Given to every prompt without a system prompt of its own; None gives none."""
    intervention: Path | None = None
    """Folder of a saved intervention."""
    guard: str = ""
    """A guard part that stands in front, or ""."""

    @property
    def run(self) -> Path | None:
        """The finished run that this side names, if it names one."""
        path = Path(self.what).expanduser()
        return path if RunFolder(path).exists() else None

    @property
    def name(self) -> str:
        """A short name with what was put on: `organism + system prompt 3f2a91`."""
        marks = []
        if self.system is not None:
            marks.append(f"system prompt {fingerprint(self.system)[:6]}")
        if self.intervention is not None:
            marks.append(f"intervention {self.intervention.name}")
        if self.guard:
            marks.append(f"guard {self.guard.partition(':')[0]}")
        return " + ".join([self.what, *marks])

    def generator(self) -> PartSpec:
        """Return the generator that gives this side's answers, without what is put on it."""
        name = self.what.partition(":")[0]
        if Path(self.what).expanduser().is_dir():
            return PartSpec("local", {"model": self.what})
        if name in registry.names("generators") or name.endswith(".py") or "=" in self.what:
            return parse_part(self.what)
        return PartSpec("local", {"model": self.what})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure on both sides."""

    a: Side
    b: Side
    benchmarks: tuple[str, ...] = ()
    """Parts; none: those of a run folder among the sides, else `BENCHMARKS`."""
    judges: tuple[str, ...] = ()
    """Parts; none: those of a run folder among the sides, else the benchmarks' own."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `Sampling` that were given; the others are a run folder's, else the defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Both runs, and the price of B's intervention where it can be measured."""

    before: LoadedRun
    after: LoadedRun
    price: float | None = None
    capability: tuple[Change, ...] = ()


def read_system(text: str | None) -> str | None:
    """Return a system prompt as given: the text, or the content of the file after `@`.

    Raises:
        ConfigError: where that file cannot be read.
    """
    if text is None or not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the system prompt {text!r}: {error}; give TEXT or @FILE") from None


def suite_parts(name: str) -> tuple[str, ...]:
    """Return the benchmarks of a suite, as parts.

    Raises:
        NotFound: for an unknown suite.
    """
    return tuple(suites.find(name).parts)


def both(
    plan: Plan,
    out: Path,
    *,
    overwrite: bool = False,
    priced: bool = False,
    tasks: Tasks | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure what `out` does not hold yet: A in `before/`, B in `after/`.

    Args:
        plan: the two sides, the benchmarks and the judges.
        out: the folder that holds both runs; the same command goes on where it was killed.
        overwrite: start anew where it holds other runs.
        priced: also measure the price of B's intervention.
        tasks: lm-eval tasks on which B's intervention is held against the bare model.
        progress: told of every row.

    Raises:
        ConfigError: where `out` holds other runs, or a run folder is given options that only measuring heeds.
    """
    if plan.a.run and plan.b.run and (plan.benchmarks or plan.judges or plan.sampling):
        raise ConfigError(
            "both sides are finished runs: benchmarks, judges and sampling are theirs and cannot be given"
        )
    model = next((RunFolder.load(side.run) for side in (plan.a, plan.b) if side.run), None)
    sides = (plan.a, plan.b)
    works = [None if side.run else _measurement(plan, side, model) for side in sides]  # all checked before any is run
    runs = []
    for side, what, name in zip(sides, works, FOLDERS, strict=True):
        folder = out / name
        if what is not None:
            if not overwrite:
                _check_system(folder, what)
            runs.append(measure(what, folder, overwrite=overwrite, progress=_labelled(progress, name)))
        elif side.run:
            _adopt(side, side.run, folder, overwrite)
            runs.append(RunFolder.load(folder))
    price = _price(works, plan, runs[0]) if priced else None
    alone = _alone(works, plan) if tasks is not None else None
    return Measured(
        before=runs[0],
        after=runs[1],
        price=price,
        capability=_capability(alone, plan, tasks, progress) if alone is not None and tasks is not None else (),
    )


def _measurement(plan: Plan, side: Side, model: LoadedRun | None) -> Measurement:
    """Build one side's measurement; what nobody gave is taken over from the run folder on the other side."""
    benchmarks: Sequence[str | PartSpec] = plan.benchmarks
    judges: Sequence[str | PartSpec] = plan.judges
    sampling = Sampling()
    if model is not None:
        benchmarks = benchmarks or [spec_of(part) for part in model.spec.benchmarks]
        judges = judges or [spec_of(part) for part in model.spec.judges]
        sampling = model.spec.sampling
    made = measurement(
        benchmarks=benchmarks or BENCHMARKS,
        judges=judges,
        generator=side.generator(),
        sampling=dataclasses.replace(sampling, **plan.sampling),
        intervention=side.intervention,
        guard=side.guard,
    )
    return dataclasses.replace(made, system=side.system)


def _adopt(side: Side, source: Path, folder: Path, overwrite: bool) -> None:
    """Copy a finished run into the folder, so that the comparison stands by itself."""
    if side.system is not None or side.intervention is not None or side.guard:
        raise ConfigError(f"{source} is a finished run: a system prompt, intervention or guard cannot be put on it")
    if source.resolve() == folder.resolve():
        return
    found = RunFolder.load(source)
    if found.missing or not found.metrics:
        raise ConfigError(f"{source} holds an unfinished run; finish it with the `demur measure` that began it")
    if folder.exists() and not overwrite:
        if RunFolder(folder).exists() and RunFolder.load(folder).hashes() == found.hashes():
            return
        raise ConfigError(f"folder {folder} holds something other than {source}; choose another --out, or --overwrite")
    _replace(source, folder)


def _replace(source: Path, folder: Path) -> None:
    """Copy a run folder in one step: a copy that is cut short leaves nothing that looks like a run."""
    made, old = (folder.with_name(f".{folder.name}.{what}") for what in ("copy", "old"))
    for left in (made, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, made)
    if folder.exists():
        if (folder / LABELS).is_file() and not (made / LABELS).exists():
            shutil.copy2(folder / LABELS, made)  # labels by people are never removed
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _check_system(folder: Path, what: Measurement) -> None:
    """Say clearly that a folder was measured under another system prompt, before the record does by its hash."""
    if not RunFolder(folder).exists():
        return
    held = {p.id: p.system for p in RunFolder.load(folder).prompts}
    now = {p.id: p.system for p in with_system(collect_prompts(what.benchmarks), what.system)}
    if held.keys() == now.keys() and held != now:
        raise ConfigError(
            f"folder {folder} holds a run under another system prompt; choose another --out, or start anew with "
            "--overwrite"
        )


def _labelled(progress: Progress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, done, total: progress(f"{name}: {stage}", done, total)


def _alone(works: Sequence[Measurement | None], plan: Plan) -> LM | None:
    """Return the local model of both sides where they differ by B's intervention alone, else None."""
    a, b = works
    if a is None or b is None or not plan.b.intervention or plan.a.intervention or a.model != b.model:
        return None
    lm = getattr(b.generator[1], "lm", None)
    return None if lm is None or plan.a.system != plan.b.system else lm()


def _capability(lm: LM, plan: Plan, tasks: Tasks, progress: Progress | None) -> tuple[Change, ...]:
    """Return what B's intervention does to the tasks."""
    from demur.capability import capability
    from demur.interventions import load

    return tuple(capability(lm, tasks, load(plan.b.intervention or ""), tell=progress))


def _price(works: Sequence[Measurement | None], plan: Plan, before: LoadedRun) -> float | None:
    """Return B's price against A in nats per token; None unless they differ by B's intervention alone."""
    lm = _alone(works, plan)
    if lm is None or plan.b.intervention is None:
        return None
    from demur.interventions import load
    from demur.price import price

    plain = [o for o in outcomes(before) if o.prompt.kind == "plain" and o.answered and o.sample == 0]
    answers = {r.prompt_id: r for r in before.responses if r.sample == 0}
    step = max(1, len(plain) // PRICED)
    prompts = [o.prompt for o in plain[::step]][:PRICED]
    return price(lm, prompts, [answers[p.id] for p in prompts], load(plan.b.intervention)).price_kl if prompts else None
