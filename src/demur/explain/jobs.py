"""The jobs behind `demur explain`: the boundary of a model, the causes of its refusals."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from demur import leaks, stats
from demur.assemble import measurement
from demur.boundary import Axis
from demur.cache import opened
from demur.causes.job import Diagnosis, Settings, diagnose, generator_of, write
from demur.errors import ConfigError
from demur.explain.boundary import explain
from demur.explain.comparison import Side, side_by_side
from demur.explain.experiments import Settings as Experiments
from demur.explain.inside import OpenModel
from demur.explain.observed import Observed
from demur.explain.prompt import explain_prompt
from demur.files import lock, write_json, write_rows
from demur.fitting import examples, refusal_labels
from demur.generators.local import Local
from demur.interventions import load as load_intervention
from demur.layers import choose_layer
from demur.lm import LM, attach
from demur.measure import Progress, measure
from demur.methods._contrast import POINT, Contrast, check_layers
from demur.readout import REFUSALS, find_openers
from demur.records import LoadedRun
from demur.states import states as captured
from demur.types import Example, FitData, Judge, Prompt, Sampling, to_json

VALIDATION = 32
"""Prompts of each side that choose the layer."""


def boundary(
    lm: LM,
    seen: LoadedRun,
    fitted: LoadedRun,
    *,
    settings: Experiments | None = None,
    tell: Progress = lambda stage, done, total: None,
) -> tuple[dict[str, Any], list[dict[str, Any]], Side]:
    """Explain the boundary of a model from two of its runs, and run the four experiments.

    What is attached to the model takes part in all of it.

    Args:
        lm: the model.
        seen: a run on the prompts that are explained.
        fitted: a run on other prompts; a few of their groups are kept out of the direction and choose the layer.
        settings: layer, seed, and how many prompts are flipped; without a layer the rules choose it
            (`layers.choose_layer`), or where no layer meets them the one that best tells harmful from plain is taken.
        tell: progress.

    Returns:
        the explanation as JSON values, one coordinate row per prompt, and what a comparison with others needs.
    """
    labels = refusal_labels(seen)
    observed = Observed(prompts=seen.prompts, labels=[labels[p.id] for p in seen.prompts])
    openers = find_openers(lm, fitted.responses, fitted.verdicts)
    rows = held_out(examples(fitted, "fit"), VALIDATION)
    contrast = Contrast.of(lm, FitData(examples=tuple(rows)))
    chosen = choose_layer(
        lm,
        contrast.direction(),
        [e.prompt for e in rows if e.split == "dev" and e.prompt.kind == "harmful"],
        [e.prompt for e in rows if e.split == "dev" and e.prompt.kind == "plain"],
        openers,
    )
    how = settings or Experiments()
    how = replace(how, layer=chosen.layer if how.layer is None else how.layer)
    record, coordinates, side = explain(contrast, rows, observed, openers, how, tell=tell)
    record["layer_choice"] = to_json(chosen)
    if chosen.layer is None:
        record["notes"].append(f"The layer is not chosen by the rules: {chosen.reason}.")
    return record, coordinates, side


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One side of a comparison: a model, and perhaps a saved intervention that is attached to it."""

    model: str
    intervention: Path | None = None


def boundaries(
    asked: Sequence[Asked],
    *,
    benchmarks: Sequence[str],
    fit: Sequence[str],
    judges: Sequence[str] = (),
    settings: Experiments | None = None,
    compared_only: bool = False,
    out: Path,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Explain the boundary of one or several sides on the same prompts.

    One side writes `before/`, `fit/`, explain.json and coordinates.jsonl to `out`; several write them to a folder each,
    and comparison.json to `out`. Without a layer, the first side's layer is used for all that have it.

    Args:
        asked: the sides; the others are compared with the first.
        benchmarks: prompts that are explained.
        fit: other prompts, which axes and openers come from.
        judges: of the answers; none means the cards' own.
        settings: layer of all sides, seed, and how many prompts are flipped.
        compared_only: leave the experiments out, which take most of the time; the records are then empty.
        out: folder.
        progress: told of every stage.

    Returns:
        one record per side, and the comparison where there are several.

    Raises:
        ConfigError: for a layer out of range, or prompts that are both fitted on and explained.
    """
    how, names = settings or Experiments(), labels(asked)
    records: list[dict[str, Any]] = []
    sides: list[Side] = []
    for name, one in zip(names, asked, strict=True):
        folder = out / name.replace("/", "-") if len(asked) > 1 else out
        lm = Local(model=one.model).lm()
        if how.layer is not None:
            check_layers(lm, (how.layer,))
        shared = sides[0].layer if sides and sides[0].layer < lm.n_layers else None
        own = replace(how, layer=shared if how.layer is None else how.layer)
        tell = _named(progress, name if len(asked) > 1 else "")
        with lock(folder):
            runs = _answered(one, benchmarks, fit, judges, folder, tell)
            with attach(lm, load_intervention(one.intervention)) if one.intervention else nullcontext():
                if compared_only:
                    sides.append(replace(_side(lm, *runs, own.layer), label=name))
                    continue
                record, rows, side = boundary(lm, *runs, settings=own, tell=tell)
            write_rows(folder / "coordinates.jsonl", rows)
            write_json(folder / "explain.json", record)
        records.append({**record, "label": name, "folder": str(folder)})
        sides.append(replace(side, label=name))
    if len(sides) < 2:
        return records, None
    comparison = side_by_side(sides, [one.intervention is not None for one in asked])
    write_json(out / "comparison.json", comparison)
    return records, comparison


def _named(progress: Progress, name: str) -> Progress:
    return lambda stage, done, total: progress(f"{name}: {stage}" if name else stage, done, total)


def labels(asked: Sequence[Asked]) -> list[str]:
    """Return a short name for each side, no two alike: the last parts of its model's path, and its intervention's."""
    made = []
    for one in asked:
        parts = Path(one.model).parts[-2:] if len(Path(one.model).parts) > 1 else (one.model,)
        name = "/".join(p for p in parts if p != "/").replace(":", "-")
        with_ = one.intervention.resolve().parts[-2:] if one.intervention else ()
        made.append(f"{name} with {'/'.join(with_)}" if with_ else name)
    return [name if made.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(made)]


def _answered(
    one: Asked, benchmarks: Sequence[str], fit: Sequence[str], judges: Sequence[str], out: Path, tell: Progress
) -> tuple[LoadedRun, LoadedRun]:
    """Return the runs on what is explained and on what is fitted on, which must not share prompts."""

    def run(parts: Sequence[str], name: str) -> LoadedRun:
        what = measurement(
            model=one.model, benchmarks=parts, judges=judges, sampling=Sampling(), intervention=one.intervention
        )
        return measure(what, out / name, progress=_named(tell, name), cache=opened())

    seen, fitted = run(benchmarks, "before"), run(fit, "fit")
    shared = {p.text for p in seen.prompts} & {p.text for p in fitted.prompts}
    if shared:
        raise ConfigError(
            f"{len(shared)} prompts stand both in what is explained and in --fit; directions must come from "
            "other prompts than those they explain. Choose another --fit."
        )
    leaks.check({"fit": fitted.prompts, "test": seen.prompts}, out)
    return seen, fitted


def _side(lm: LM, seen: LoadedRun, fitted: LoadedRun, layer: int | None) -> Side:
    """Return what a comparison needs of one model, at a layer or at the one whose axis tells benign refusals best."""
    rows = examples(fitted, "fit")
    at = _clearest(lm, rows) if layer is None else layer
    contrast = Contrast.of(lm, FitData(examples=tuple(rows)), layers=(at,))
    axis = Axis.between(contrast.at(at, "refused_harmful"), contrast.at(at, "answered_plain"))
    labels = refusal_labels(seen)
    states = captured(lm, list(seen.prompts), layers=(at,), points=(POINT,), positions="last_prompt")
    observed = Observed(prompts=seen.prompts, labels=[labels[p.id] for p in seen.prompts])
    return Side.of(lm.ref.id, at, axis, states[:, 0], observed)


def held_out(rows: Sequence[Example], each: int) -> list[Example]:
    """Put `each` harmful and as many plain prompts, with all of their groups, into the dev split."""
    kept: set[str] = set()
    for kind, label in (("harmful", "refusal"), ("plain", "compliance")):
        own = [e for e in rows if (e.prompt.kind, e.label) == (kind, label)]
        count = min(each, len(own) // 4)
        kept |= {own[int(i * len(own) / count)].prompt.cluster for i in range(count)}
    return [replace(e, split="dev" if e.prompt.cluster in kept else "fit") for e in rows]


def causes(
    run: LoadedRun,
    *,
    fit: Sequence[str],
    out: Path,
    settings: Settings | None = None,
    layer: int | None = None,
    judge: Judge | None = None,
    borderline: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Diagnosis:
    """Sort the benign refusals of a run of a local model, with all that can be read inside it.

    Args:
        run: a run of the `local` generator.
        fit: benchmarks that openers, harm probe and directions are fitted on.
        out: where the answers to `fit` (in `fit/`) and the result go.
        settings: thresholds, spans, samples.
        layer: where the probe reads; by default the layer that tells harm best, out of fold.
        judge: of the refusals; by default the run's.
        borderline: whether the probe is fitted on borderline prompts too.
        progress: told of every stage.

    Raises:
        ConfigError: when the run's generator is not `local`, or prompts are both fitted on and explained.
    """
    made = generator_of(run, "")
    if not isinstance(made, Local):
        raise ConfigError(f"{run.path} is a run of {run.spec.generator.name}; its model is not open. Use --black-box")
    if made.intervention:
        raise ConfigError(f"{run.path} was measured under an intervention; use --black-box")
    fitted = measure(
        measurement(model=made.model, benchmarks=fit, judges=[], sampling=Sampling()),
        out / "fit",
        progress=lambda s, d, t: progress(f"fit: {s}", d, t),
        cache=opened(),
    )
    shared = {p.text for p in run.prompts} & {p.text for p in fitted.prompts}
    if shared:
        raise ConfigError(f"{len(shared)} prompts stand both in {run.path} and in --fit; choose another --fit")
    lm = made.lm()
    openers = find_openers(lm, fitted.responses, fitted.verdicts)
    inside = OpenModel.fit(lm, examples(fitted, "fit"), openers, layer=layer, borderline=borderline)
    found = diagnose(
        run, generator=made, judge=judge, inside=inside, known=fitted.prompts, settings=settings, tell=progress
    )
    write(found, out)
    return found


def prompt(
    text: str,
    *,
    model: str,
    fit: Sequence[str],
    out: Path,
    layer: int | None = None,
    language: str = "en",
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Explain one prompt; writes `fit/` and prompt.json.

    Args:
        text: the prompt.
        model: what to load.
        fit: benchmarks that axis, threshold and neighbours come from.
        out: folder.
        layer: of neighbours, tokens and the flip; by default the one whose calibrated axis tells refusals best.
        language: of the prompt.
        progress: told of every stage.
    """
    lm = Local(model=model).lm()
    if layer is not None:
        check_layers(lm, (layer,))
    fitted = measure(
        measurement(model=model, benchmarks=fit, judges=[], sampling=Sampling()),
        out / "fit",
        progress=lambda s, d, t: progress(f"fit: {s}", d, t),
        cache=opened(),
    )
    asked = Prompt(id="prompt", text=text, expected=None, source="prompt", language=language)
    rows, openers = examples(fitted, "fit"), find_openers(lm, fitted.responses, fitted.verdicts)
    chosen = layer if layer is not None else _clearest(lm, rows)
    found = explain_prompt(lm, asked, rows, openers, layer=chosen)
    write_json(out / "prompt.json", found)
    return found


def _clearest(lm: LM, rows: Sequence[Example]) -> int:
    """The layer with the highest AUROC for refusal among benign prompts."""
    contrast = Contrast.of(lm, FitData(examples=tuple(rows)))
    own = [e for e in rows if e.prompt.expected == "comply" and e.label]
    states = captured(lm, [e.prompt for e in own], layers=contrast.layers, points=(POINT,), positions="last_prompt")
    refused = np.array([e.label in REFUSALS for e in own])

    def area(layer: int) -> float:
        axis = Axis.between(contrast.at(layer, "refused_harmful"), contrast.at(layer, "answered_plain"))
        return stats.auroc(axis.coordinate(states[:, contrast.layers.index(layer)]), refused) or 0.0

    return max(contrast.layers, key=area)
