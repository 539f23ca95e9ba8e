"""The model card of an exported artefact: both axes, the floor, what it rests on, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from demur.floor import StratumResult
from demur.floor_records import FloorRecord, real
from demur.records import LoadedRun
from demur.types import Metric

LIBRARIES = {"merged": "transformers", "lora": "peft", "gguf_vector": "gguf"}
BANNERS = {
    "kept": "**Safety floor kept.** {reason}. This says what was looked at, and does not say that the model is safe.",
    "missed": "**Safety removed.** The safety floor is missed: {reason}.",
    "not measured": "**Not measured.** Nothing is known of what this does to harmful requests: {reason}.",
}
RATES = (
    ("answered_rate", "answered, of prompts that deserve an answer"),
    ("held_rate", "held, of prompts that must be refused"),
    ("harmful_compliance_rate", "harmful compliance rate"),
    ("broken_rate", "broken (gibberish, truncated, unscored)"),
)


def card(record: Mapping[str, Any], found: FloorRecord, price: Mapping[str, Any] | None) -> str:
    """Return the card as Markdown.

    Args:
        record: what `demur.json` holds.
        found: the floor's record.
        price: `price.json` of the same folder, where there is one.
    """
    model, intervention = record["model"], record["intervention"]
    lines = [
        *_front(record),
        f"# {model['id']} with `{intervention['kind']}`, as {record['target'].replace('_', '-')}",
        "",
        BANNERS[found.state].format(reason=found.reason.rstrip(".")),
    ]
    if record["below_floor"]:
        lines += ["", "It was exported with `--below-floor`: whoever did so took the responsibility for its use."]
    lines += [
        "",
        "## What it does",
        "",
        *(f"- {line}" for line in record["plan"]),
        *(f"- {n}" for n in record["notes"]),
    ]
    lines += ["", "## Both axes", "", *_axes(found), "", "## The safety floor", "", *_floor(found)]
    if price:
        kl = "{price_kl_first:.4f} nats at the first answer token, {price_kl:.4f} over the first 32".format(**price)
        lines += ["", f"Price on {price['prompts']} neutral prompts, in KL from the untouched model: {kl}."]
    lines += ["", "## What it rests on", "", *_sources(record, found), "", "## How it was made", ""]
    lines += ["```sh", record["command"], "```", "", f"Read back and compared: {record['checked']['text']}."]
    lines += ["", f"{record['versions']}. The licence of the base model goes on to hold.", ""]
    return "\n".join(lines)


def _front(record: Mapping[str, Any]) -> Iterator[str]:
    yield "---"
    if "/" in record["model"]["id"] and not record["model"]["revision"].startswith("sha256:"):
        yield f"base_model: {record['model']['id']}"
    if library := LIBRARIES.get(record["target"]):
        yield f"library_name: {library}"
    yield from ("tags:", "- demur", "- over-refusal", f"- {record['floor']['words'].replace(' ', '-')}", "---", "")


def _axes(found: FloorRecord) -> list[str]:
    if found.before is None or found.after is None:
        return ["No measurement of this intervention on this model was found."]
    judge = found.before.spec.judges[0].name
    lines = ["| prompts | measure | untouched | with it | n | groups |", "|---|---|---|---|---|---|"]
    for benchmark in dict.fromkeys(m.benchmark for m in found.before.metrics):
        label = "synthetic world (says nothing of real prompts)" if benchmark == "world" else benchmark
        for name, words in RATES:
            old, new = (_metric(run, benchmark, judge, name) for run in (found.before, found.after))
            if old is not None and old.value is not None:
                lines.append(f"| {label} | {words} | {_value(old)} | {_value(new)} | {old.n} | {old.groups} |")
    lines += ["", f"Judged by `{judge}`; intervals are 95 %, groups of prompts resampled."]
    if any(p.system is not None for p in found.before.prompts):
        lines.append("Some prompts had a system text: without it the figures may differ.")
    return lines


def _metric(run: LoadedRun, benchmark: str, judge: str, name: str) -> Metric | None:
    wanted = (benchmark, judge, name, "all")
    return next((m for m in run.metrics if (m.benchmark, m.judge, m.name, m.slice) == wanted), None)


def _value(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "no data"
    bounds = "" if metric.low is None or metric.high is None else f" [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
    return f"{100 * metric.value:.1f} %{bounds}"


def _floor(found: FloorRecord) -> list[str]:
    if found.floor is None:
        return [f"Not measured: {found.reason.rstrip('.')}."]
    lines = ["| stratum | held before | held after | lost | n | groups | finding |", "|---|---|---|---|---|---|---|"]
    lines += [_stratum(s) for s in found.floor.strata if s.n]
    missing = [s.name for s in found.floor.strata if not s.n]
    lines += ["", "Real prompts alone; computed anew from the two runs."]
    if missing:
        lines.append(f"Not measured: {', '.join(missing)}.")
    lines.append(f"Newly unsafe prompts: {len(found.floor.newly_unsafe)}.")
    return lines


def _stratum(s: StratumResult) -> str:
    rates = [f"{100 * rate:.1f} %" if rate is not None else "no data" for rate in (s.before, s.after)]
    return f"| {s.name} | {rates[0]} | {rates[1]} | {s.losses} | {s.n} | {s.groups} | {s.verdict} |"


def _sources(record: Mapping[str, Any], found: FloorRecord) -> list[str]:
    model, intervention = record["model"], record["intervention"]
    weights, template = model["revision"] or "unknown", model["template_sha"] or "none"
    lines = [
        f"- model `{model['id']}`, weights `{weights}`, {model['dtype']}, chat template `{template}`",
        f"- intervention `{intervention['fingerprint']}` ({intervention['kind']}), "
        + (f"fitted by `{intervention['method']}`" if intervention["method"] else "how it was fitted is not recorded"),
        *(f"- fitted on data `{sha}`" for sha in intervention["data"]),
    ]
    if found.before is not None and found.after is not None:
        for part in found.before.spec.benchmarks:
            lines.append(f"- benchmark `{part.name}`, settings and content `{part.fingerprint}`")
        lines.append(f"- {len(real(found.before.prompts))} of {len(found.before.prompts)} prompts are real ones")
        for run in (found.before, found.after):
            lines += [f"- `{run.path.name}/{name}` sha256 `{sha}`" for name, sha in run.hashes()]
    return lines
