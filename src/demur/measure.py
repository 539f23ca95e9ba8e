"""Measure: prompts → responses → verdicts → metrics, in a run folder that a killed process can go on with."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demur import correction, pairs
from demur import judges as judging
from demur import metrics as metric_rules
from demur.blocks import block_metrics
from demur.checks import Check, Validation, load_checks, validations
from demur.errors import DataError
from demur.modifiers import defaults
from demur.records import CHECK, CHECKS, METRICS, LoadedRun, OpenRun, RunFolder, lock, write_json
from demur.settings import PartSpec, Problems
from demur.types import (
    Benchmark,
    Generator,
    Item,
    Judge,
    Metric,
    ModelRef,
    Part,
    Prompt,
    Response,
    RunSpec,
    Sampling,
    Verdict,
)

Progress = Callable[[str, int, int], None]
"""Called with (stage, rows done, rows in all)."""

LABEL = "benchmark"
"""The key in `Prompt.meta` that says which of a run's benchmarks a prompt came from."""


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


def measure(what: Measurement, out: Path, *, overwrite: bool = False, progress: Progress | None = None) -> LoadedRun:
    """Run every stage that `out` does not hold yet, and return what it then holds.

    Args:
        what: the model's name, the benchmarks, the generator and the judges.
        out: the run folder; an equal one is resumed, another one is refused with the differing field.
        overwrite: start anew where `out` holds another run.
        progress: told of every row.

    Raises:
        ConfigError: when `out` holds another run, or another process works in it.
        DataError: for an empty benchmark, repeated prompt ids, or a full disk.
    """
    prompts = with_system(collect_prompts(what.benchmarks), what.system)
    spec = _spec(what, out)
    tell = progress or (lambda stage, done, total: None)
    with RunFolder(out).open(spec, prompts, overwrite=overwrite) as run:
        responses = _responses(run, what, prompts, tell)
        verdicts = _verdicts(run, what, prompts, responses, tell)
        run.write_metrics(*_results(out, (prompts, responses, verdicts), run.spec, what.checks))
    return RunFolder.load(out)


def remeasure(path: Path, *, checks: Sequence[Check] = ()) -> LoadedRun:
    """Compute a finished run's metrics again from what its folder holds: after labels were given, for instance.

    Args:
        path: the run folder.
        checks: of its judges, beside those that demur ships and `check.json` in the folder.

    Raises:
        ConfigError: where `path` is no run folder, or another process works in it.
        DataError: for a malformed file, or a run that was cut short.
    """
    run = RunFolder.load(path)
    if run.missing:
        raise DataError(f"run {path} lacks {run.missing} answers; finish it first with the command that began it")
    rows = run.prompts, run.responses, run.verdicts
    with lock(path):
        found, rests = _results(path, rows, run.spec, checks)
        write_json(path / METRICS, found)
        write_json(path / CHECKS, rests)
    return RunFolder.load(path)


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


def all_metrics(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    judges: Sequence[Part],
    *,
    checks: Sequence[Check] = (),
    style: str = "plain",
) -> list[Metric]:
    """Return the metric rows of every benchmark in the run, the first judge's rows first.

    Args:
        prompts: of all benchmarks.
        responses: to them.
        verdicts: on these.
        judges: as used, the headline first.
        checks: of the judges, beside those that demur ships.
        style: whose answers these are: `plain`, or `edited` where an intervention was attached.
    """
    names = tuple(part.name for part in judges)
    labels = list(dict.fromkeys(p.get(LABEL) for p in prompts))
    rows: list[Metric] = []
    for label in labels:
        own = [p for p in prompts if p.get(LABEL) == label]
        ids = {p.id for p in own}
        data = own, [r for r in responses if r.prompt_id in ids], [v for v in verdicts if v.prompt_id in ids]
        found = metric_rules.compute(*data, benchmark=label, judges=names)
        found += pairs.pair_metrics(*data, benchmark=label, judges=names)
        found += correction.corrected_metrics(*data, benchmark=label, judges=judges, checks=checks, style=style)
        rows += sorted(found, key=lambda m: names.index(m.judge))
    return rows


def _results(
    out: Path,
    rows: tuple[Sequence[Prompt], Sequence[Response], Sequence[Verdict]],
    spec: RunSpec,
    checks: Sequence[Check],
) -> tuple[list[Metric], list[Validation]]:
    """Return a run's metrics, and what the refusal verdicts of each judge rest on."""
    known = (*(load_checks(out / CHECK) if (out / CHECK).is_file() else ()), *checks)
    style = "edited" if spec.intervention else "plain"
    asked = {v.judge for v in rows[2] if v.question == "refusal"}
    languages = sorted({p.language for p in rows[0]})
    rests = validations([part for part in spec.judges if part.name in asked], languages, known, style)
    found = all_metrics(*rows, spec.judges, checks=known, style=style)
    if spec.generator.name == "guarded":
        found += block_metrics(*rows, judges=tuple(part.name for part in spec.judges))
    return found, rests


def _responses(run: OpenRun, what: Measurement, prompts: list[Prompt], tell: Progress) -> list[Response]:
    sampling = what.sampling
    done = {(r.prompt_id, r.sample): r for r in run.responses()}
    total = len(prompts) * sampling.samples
    todo = [p for p in prompts if any((p.id, s) not in done for s in range(sampling.samples))]
    tell("answers", len(done), total)
    if todo:
        start = time.perf_counter()
        made = 0
        tokens = 0
        with run.appending("responses") as write:
            for response in what.generator[1](todo, sampling):
                key = (response.prompt_id, response.sample)
                if key in done:
                    continue
                done[key] = response
                write(response)
                made += 1
                tokens += response.n_tokens
                tell("answers", len(done), total)
        run.timing(stage="responses", seconds=time.perf_counter() - start, rows=made, tokens=tokens)
    ordered = []
    for prompt in prompts:
        for sample in range(sampling.samples):
            missing = Response(
                prompt_id=prompt.id, sample=sample, text="", finish="error", error="the generator gave no row"
            )
            ordered.append(done.get((prompt.id, sample), missing))
    run.finish("responses", ordered)
    return ordered


def _verdicts(
    run: OpenRun, what: Measurement, prompts: list[Prompt], responses: list[Response], tell: Progress
) -> list[Verdict]:
    by_id = {p.id: p for p in prompts}
    items = [Item(by_id[r.prompt_id], r) for r in responses]
    have = {(v.judge, v.question, v.prompt_id, v.sample): v for v in run.verdicts()}
    questions = {part.name: judge.questions for part, judge in what.judges}
    total = len(items) * len(what.judges)
    seen = 0
    start, before = time.perf_counter(), _spent(what)
    made = 0
    with run.appending("verdicts") as write:
        for part, judge in what.judges:
            missing = [
                i
                for i in items
                if any((part.name, q, i.prompt.id, i.response.sample) not in have for q in questions[part.name])
            ]
            if getattr(judge, "together", False):  # its verdict on one answer rests on all answers to the prompt
                again = {i.prompt.id for i in missing}
                missing = [i for i in items if i.prompt.id in again]
                have = {key: v for key, v in have.items() if key[0] != part.name or key[2] not in again}
            seen += len(items) - len(missing)
            tell("verdicts", seen, total)
            for verdict in judging.apply(judge, part.name, missing):
                key = (part.name, verdict.question, verdict.prompt_id, verdict.sample)
                if key in have:
                    continue
                have[key] = verdict
                write(verdict)
                made += 1
                tell("verdicts", seen + made // len(questions[part.name]), total)
            seen += len(missing)
    if made:
        tokens, cost = (now - then for now, then in zip(_spent(what), before, strict=True))
        run.timing(stage="verdicts", seconds=time.perf_counter() - start, rows=made, tokens=int(tokens), cost=cost)
    ordered = [
        have[part.name, q, i.prompt.id, i.response.sample]
        for part, _ in what.judges
        for i in items
        for q in questions[part.name]
    ]
    run.finish("verdicts", ordered)
    return ordered


def _spent(what: Measurement) -> tuple[float, float]:
    """Return the tokens that the judges' models have written so far, and what they cost."""
    counts = [spent for _, judge in what.judges if (spent := getattr(judge, "spent", None)) is not None]
    return sum(spent.tokens_out for spent in counts), sum(spent.cost for spent in counts)


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
    for package in ("demur", "numpy", "torch", "transformers", "tokenizers", "scikit-learn"):
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
