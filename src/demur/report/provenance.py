"""Where a run's numbers come from: versions, hashes, seeds, the command, seconds, tokens."""

from __future__ import annotations

import shlex
from pathlib import Path

from demur.files import file_sha256
from demur.records import FILES, LoadedRun
from demur.report.data import RunFacts
from demur.settings import PartSpec
from demur.types import Part, RunSpec, Sampling


def run_facts(name: str, folder: Path, run: LoadedRun) -> RunFacts:
    """Return everything that decided a run, as (label, text), with the sha256 of its files."""
    spec = run.spec
    sampling = spec.sampling
    weights = " · ".join(t for t in (spec.model.revision, spec.model.dtype, spec.model.adapter) if t)
    facts = [
        ("Made", spec.created),
        ("Model", f"{spec.model.id} · {weights}" if weights else spec.model.id),
        ("Chat template", spec.model.template_sha),
        ("Intervention", _part(spec.intervention) if spec.intervention is not None else "none"),
        ("Benchmarks", "; ".join(_part(p) for p in spec.benchmarks)),
        ("Judges", "; ".join(_part(p) for p in spec.judges)),
        ("Generator", _part(spec.generator)),
        ("Sampling", _sampling(sampling)),
        ("Seed", str(spec.seed)),
        ("Device", spec.device),
        ("Versions", ", ".join(f"{k} {v}" for k, v in spec.versions.items())),
        ("Source", spec.git),
        ("Prompts", f"{len(run.prompts):,}"),
        ("Tokens made", f"{sum(r.n_tokens for r in run.responses):,}"),
        ("Seconds", _seconds(run)),
        ("Command", measure_command(spec)),
    ]
    files = tuple((f, file_sha256(folder / f)) for f in FILES if (folder / f).is_file())
    return RunFacts(name=name, facts=tuple((k, v) for k, v in facts if v), files=files)


def measure_command(spec: RunSpec) -> str:
    """Return the `demur measure` line that makes a run with this record."""
    words = ["demur", "measure", "--model", spec.model.id]
    for option, parts in (("--benchmark", spec.benchmarks), ("--judge", spec.judges)):
        for part in parts:
            words += [option, _short(part)]
    if spec.generator.name != "local":
        words += ["--generator", _short(spec.generator)]
    if spec.intervention is not None:
        words += ["--with", "intervention"]
    default = Sampling()
    for name in ("max_new_tokens", "temperature", "top_p", "samples", "thinking", "prefill", "seed"):
        value = getattr(spec.sampling, name)
        if value != getattr(default, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--out", spec.id])


def _short(part: Part) -> str:
    """Return a part as one writes it: the name, then its settings."""
    return str(PartSpec(part.name, {k: v for k, v in part.settings.items() if v not in ("", None, [], ())}))


def _part(part: Part) -> str:
    mark = f" #{part.fingerprint[:16]}" if part.fingerprint else ""
    text = _short(part)
    return f"{text if len(text) <= 200 else part.name}{mark}"


def _sampling(sampling: Sampling) -> str:
    drawn = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"
    parts = [drawn, f"at most {sampling.max_new_tokens:,} tokens", f"thinking {sampling.thinking}"]
    if sampling.samples != 1:
        parts.append(f"{sampling.samples} samples")
    if sampling.prefill:
        parts.append(f"prefill {sampling.prefill!r}")
    return ", ".join(parts)


def _seconds(run: LoadedRun) -> str:
    spent: dict[str, float] = {}
    for row in run.timings:
        stage, seconds = row.get("stage"), row.get("seconds")
        if isinstance(stage, str) and isinstance(seconds, int | float):
            spent[stage] = spent.get(stage, 0.0) + float(seconds)
    return ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in spent.items())
