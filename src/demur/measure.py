"""Measure: prompts → responses → verdicts → metrics, in a run folder that a killed process can go on with."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from demur import judges as judging
from demur import results
from demur.cache import LABEL, Answers, Cache
from demur.checks import Check
from demur.engines import Mapper, answers
from demur.errors import DataError
from demur.modifiers import defaults
from demur.records import LoadedRun, OpenRun, RunFolder, Stage
from demur.settings import PartSpec, Problems
from demur.types import (
    Benchmark,
    Generator,
    Item,
    Judge,
    ModelRef,
    Part,
    Prompt,
    Response,
    RunSpec,
    Sampling,
    Verdict,
)

T = TypeVar("T", Response, Verdict)
Progress = Callable[[str, int, int], None]
"""Called with (stage, rows done, rows in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What to measure and with what.

    A benchmark and a judge are given as (part, instance): the part goes into the record, the instance works.
    """

    model: ModelRef
    benchmarks: tuple[tuple[Part, Benchmark], ...]
    judges: tuple[tuple[Part, Judge], ...]
    generator: tuple[Part, Generator]
    sampling: Sampling
    intervention: Part | None = None
    device: str = "cpu"
    system: str | None = None
    """Given to every prompt that has no system prompt of its own; None gives none."""
    checks: tuple[Check, ...] = ()
    """Checks of the judges, beside those that demur ships and `check.json` in the run's folder."""


def measure(
    what: Measurement,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    cache: Cache | None = None,
    over: Mapper | None = None,
) -> LoadedRun:
    """Run every stage that `out` does not hold yet, and return what it then holds.

    Args:
        what: the model's name, the benchmarks, the generator and the judges.
        out: the run folder; an equal one is resumed, another one is refused with the differing field.
        overwrite: start anew where `out` holds another run.
        progress: told of every row.
        cache: where answers and verdicts of other runs are found and new ones kept (`cache.opened()`); None: nowhere.
        over: the engine that answers and judges (`engines.opened`); None: this process.

    Raises:
        ConfigError: when `out` holds another run, or another process works in it.
        DataError: for an empty benchmark, repeated prompt ids, or a full disk.
    """
    prompts = with_system(collect_prompts(what.benchmarks), what.system)
    spec = _spec(what, out)
    tell = progress or (lambda stage, done, total: None)
    with RunFolder(out).open(spec, prompts, overwrite=overwrite) as run:
        responses = _responses(run, what, prompts, tell, (cache, over))
        verdicts = _verdicts(run, what, prompts, responses, tell, (cache, over))
        found = results.of_run(run.path, (prompts, responses, verdicts), run.spec, what.checks)
        run.write_metrics(*found)
        return run.loaded(responses, verdicts, *found)


def collect_prompts(benchmarks: Sequence[tuple[Part, Benchmark]]) -> list[Prompt]:
    """Return the prompts of all benchmarks in order, each marked with its benchmark's label.

    Raises:
        DataError: for an empty benchmark or an id that occurs twice.
        Unavailable: for a set that is not here; where several benchmarks fail, one ConfigError names them all.
    """
    prompts: list[Prompt] = []
    problems = Problems()
    for part, benchmark in benchmarks:
        label = part_label(part, benchmark)
        with problems.gather():
            rows = [dataclasses.replace(p, meta=(*p.meta, (LABEL, label))) for p in benchmark()]
            if not rows:
                raise DataError(f"benchmark {label} gave no prompts; check its settings with `demur show {part.name}`")
            prompts += rows
    problems.check("the benchmarks")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(f"prompt id {prompt.id!r} occurs twice; ids must be unique within a run")
        seen.add(prompt.id)
    return prompts


def with_system(prompts: Sequence[Prompt], system: str | None) -> list[Prompt]:
    """Return the prompts, `system` given to those that have no system prompt of their own; None changes nothing."""
    if system is None:
        return list(prompts)
    return [dataclasses.replace(p, system=system) if p.system is None else p for p in prompts]


def part_label(part: Part, instance: object) -> str:
    """Return the short name of a part as used: `world`, or `world:attack=all` with the settings that were changed."""
    usual = defaults(instance)
    changed = {k: v for k, v in sorted(part.settings.items()) if v != usual.get(k, dataclasses.MISSING)}
    return str(PartSpec(part.name, changed))


def _responses(
    run: OpenRun, what: Measurement, prompts: list[Prompt], tell: Progress, by: tuple[Cache | None, Mapper | None]
) -> list[Response]:
    (cache, over), sampling = by, what.sampling
    done = {(r.prompt_id, r.sample): r for r in run.responses()}
    total = len(prompts) * sampling.samples
    kept = _shelf(cache, what)
    todo = _unanswered(prompts, sampling, done)
    if kept and todo:
        _take(run, "responses", kept.known(todo), lambda r: done.setdefault((r.prompt_id, r.sample), r) is r)
        todo = _unanswered(todo, sampling, done)
    tell("answers", len(done), total)
    if todo:
        start, before = time.perf_counter(), _spent([what.generator[1], over])
        made = 0
        tokens = 0
        with run.appending("responses") as write:
            for response in answers(what.generator[1], todo, sampling, over):
                key = (response.prompt_id, response.sample)
                if key in done:
                    continue
                done[key] = response
                write(response)
                if kept:
                    kept.keep(response)
                made += 1
                tokens += response.n_tokens
                tell("answers", len(done), total)
        run.timing(stage="responses", seconds=time.perf_counter() - start, rows=made, tokens=tokens)
        guard, cost = (now - then for now, then in zip(_spent([what.generator[1], over]), before, strict=True))
        if guard or cost:
            run.timing(stage="guard (within responses)", seconds=0.0, tokens=int(guard), cost=cost)
    ordered = []
    for prompt in prompts:
        for sample in range(sampling.samples):
            missing = Response(
                prompt_id=prompt.id, sample=sample, text="", finish="error", error="the generator gave no row"
            )
            ordered.append(done.get((prompt.id, sample), missing))
    run.finish("responses", ordered)
    return ordered


def _unanswered(
    prompts: Sequence[Prompt], sampling: Sampling, done: Mapping[tuple[str, int], Response]
) -> list[Prompt]:
    return [p for p in prompts if any((p.id, s) not in done for s in range(sampling.samples))]


def _shelf(cache: Cache | None, what: Measurement) -> Answers | None:
    """Return the kept answers of what is measured."""
    if cache is None:
        return None
    return cache.answers(
        model=what.model, generator=what.generator, sampling=what.sampling, intervention=what.intervention
    )


def _take(run: OpenRun, stage: Stage, rows: Iterable[T], new: Callable[[T], bool]) -> None:
    """Take the rows of the cache that are new to the run. They reach its file when the stage is finished."""
    start = time.perf_counter()
    if taken := sum(1 for row in rows if new(row)):
        run.void(stage)
        run.timing(stage=f"{stage} from the cache", seconds=time.perf_counter() - start, rows=taken)


def _verdicts(
    run: OpenRun,
    what: Measurement,
    prompts: list[Prompt],
    responses: list[Response],
    tell: Progress,
    by: tuple[Cache | None, Mapper | None],
) -> list[Verdict]:
    cache, over = by
    by_id = {p.id: p for p in prompts}
    items = [Item(by_id[r.prompt_id], r) for r in responses]
    have = {_place(v): v for v in run.verdicts()}
    questions = {part.name: judge.questions for part, judge in what.judges}
    total = len(items) * len(what.judges)
    seen = 0
    asked = [*(judge for _, judge in what.judges), over]
    seconds, made, spent = 0.0, 0, _spent(asked)
    for part, judge in what.judges:
        kept = cache.verdicts(part, judge) if cache else None
        missing = _unjudged(items, part.name, questions[part.name], have)
        if kept and missing:
            _take(run, "verdicts", kept.known(missing), lambda v: have.setdefault(_place(v), v) is v)
            missing = _unjudged(missing, part.name, questions[part.name], have)
        if getattr(judge, "together", False):  # its verdict on one answer rests on all answers to the prompt
            again = {i.prompt.id for i in missing}
            missing = [i for i in items if i.prompt.id in again]
            for place in [place for place in have if place[0] == part.name and place[2] in again]:
                del have[place]
        seen += len(items) - len(missing)
        tell("verdicts", seen, total)
        start, before = time.perf_counter(), made
        with run.appending("verdicts") as write:
            for verdict in judging.apply(judge, part.name, missing, over=over):
                if _place(verdict) in have:
                    continue
                have[_place(verdict)] = verdict
                write(verdict)
                if kept:
                    kept.keep(verdict)
                made += 1
                tell("verdicts", seen + (made - before) // len(questions[part.name]), total)
        seen += len(missing)
        seconds += time.perf_counter() - start
    if made:
        tokens, cost = (now - then for now, then in zip(_spent(asked), spent, strict=True))
        run.timing(stage="verdicts", seconds=seconds, rows=made, tokens=int(tokens), cost=cost)
    ordered = [
        have[part.name, q, i.prompt.id, i.response.sample]
        for part, _ in what.judges
        for i in items
        for q in questions[part.name]
    ]
    run.finish("verdicts", ordered)
    return ordered


def _spent(parts: Sequence[object]) -> tuple[float, float]:
    """Return the tokens that the models judging in these parts have written so far, and what they cost."""
    counts = [spent for part in parts if (spent := getattr(part, "spent", None)) is not None]
    return sum(spent.tokens_out for spent in counts), sum(spent.cost for spent in counts)


def _place(verdict: Verdict) -> tuple[str, str, str, int]:
    return verdict.judge, verdict.question, verdict.prompt_id, verdict.sample


def _unjudged(
    items: Sequence[Item], judge: str, questions: Sequence[str], have: Mapping[tuple[str, str, str, int], Verdict]
) -> list[Item]:
    """Return the items on which a judge has yet to answer a question."""
    return [i for i in items if any((judge, q, i.prompt.id, i.response.sample) not in have for q in questions)]


def _spec(what: Measurement, out: Path) -> RunSpec:
    return RunSpec(
        id=out.name,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        model=what.model,
        sampling=what.sampling,
        benchmarks=tuple(part for part, _ in what.benchmarks),
        generator=what.generator[0],
        intervention=what.intervention,
        judges=tuple(part for part, _ in what.judges),
        versions=dict(versions()),
        git=git_revision(),
        device=what.device,
        seed=what.sampling.seed,
    )


def versions() -> Iterator[tuple[str, str]]:
    """Yield (package, version) for Python and every package that can change a number."""
    yield "python", platform.python_version()
    for package in ("demur", "numpy", "torch", "transformers", "tokenizers", "scikit-learn", "vllm"):
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


def git_revision() -> str:
    """Return the commit of the source tree demur runs from, "" when it is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


class _Verb(ModuleType):
    """This module, which can be called as its verb: once it is imported, `demur.measure` is the module."""

    def __call__(self, *args: Any, **kwargs: Any) -> LoadedRun:
        return measure(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
