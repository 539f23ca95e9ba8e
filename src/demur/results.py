"""From the rows of a run to everything that is counted: rates, pairs, corrected rates, answers, flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from demur import answers, correction, flips, metrics, pairs
from demur.blocks import block_metrics
from demur.cache import LABEL
from demur.checks import TRUTH, Check, Validation, load_checks, validations
from demur.errors import DataError
from demur.records import CHECK, CHECKS, METRICS, LoadedRun, RunFolder, lock, write_json
from demur.types import ATTACK, Metric, Part, Prompt, Response, RunSpec, Verdict

POOLED = "all benchmarks"
"""The benchmark that rows over a whole run are named by."""


def of_run(
    out: Path,
    rows: tuple[Sequence[Prompt], Sequence[Response], Sequence[Verdict]],
    spec: RunSpec,
    checks: Sequence[Check] = (),
) -> tuple[list[Metric], list[Validation]]:
    """Return a run's metrics, and what the refusal verdicts of each judge rest on.

    Args:
        out: the run folder; its `check.json`, where there is one, counts beside `checks`.
        rows: prompts, responses and verdicts.
        spec: what the run is.
        checks: of its judges, beside those that demur ships.
    """
    known = (*(load_checks(out / CHECK) if (out / CHECK).is_file() else ()), *checks)
    style = "edited" if spec.intervention else "plain"
    asked = {v.judge for v in rows[2] if v.question == "refusal"}
    languages = sorted({p.language for p in rows[0]})
    rests = validations([part for part in spec.judges if part.name in asked], languages, known, style)
    found = all_metrics(*rows, spec.judges, checks=known, style=style)
    if spec.generator.name == "guarded":
        found += block_metrics(*rows, judges=tuple(part.name for part in spec.judges))
    return found, rests


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
        found, rests = of_run(path, rows, run.spec, checks)
        write_json(path / METRICS, found)
        write_json(path / CHECKS, rests)
    return RunFolder.load(path)


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

    Where there are several benchmarks and none of them attacks the model, rows over all of them together come first,
    under the name `POOLED`: a suite's sets are small, and attacked prompts are another question.

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
    for label in [POOLED, *labels] if _poolable(prompts, labels) else labels:
        own = _apart(prompts) if label == POOLED else [p for p in prompts if p.get(LABEL) == label]
        ids = {p.id for p in own}
        data = own, [r for r in responses if r.prompt_id in ids], [v for v in verdicts if v.prompt_id in ids]
        found = metrics.compute(*data, benchmark=label, judges=names)
        found += pairs.pair_metrics(*data, benchmark=label, judges=names)
        found += correction.corrected_metrics(*data, benchmark=label, judges=judges, checks=checks, style=style)
        found += answers.compute(own, data[1], benchmark=label, judge=names[0])
        if len(data[1]) > len(own):
            found += flips.compute(own, data[2], benchmark=label, judges=names)
        mute = _mute(data[2], names)
        rows += sorted((m for m in found if m.judge not in mute), key=lambda m: names.index(m.judge))
    return rows


def _poolable(prompts: Sequence[Prompt], labels: Sequence[str]) -> bool:
    """Say whether benchmarks may be counted together: several, none attacked, all of the world or none of it."""
    worlds = {p.source == "world" for p in prompts}
    return len(labels) > 1 and len(worlds) == 1 and not any(p.category.startswith(ATTACK) for p in prompts)


def _mute(verdicts: Sequence[Verdict], judges: Sequence[str]) -> set[str]:
    """Return the judges of truth that know nothing of a benchmark: the oracle, outside its world, beside another."""
    said = {v.judge for v in verdicts if v.label is not None}
    return {name for name in judges if name in TRUTH and name not in said} if said else set()


def _apart(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return prompts whose groups bear their source's name: two sources may each have a group `0`.

    A prompt without a group goes with its twin, of whatever source that is.
    """
    sources = {p.id: p.source for p in prompts}
    homes = [p.source if p.group else sources.get(p.pair, p.source) for p in prompts]
    return [replace(p, group=f"{home}/{p.cluster}") for p, home in zip(prompts, homes, strict=True)]
