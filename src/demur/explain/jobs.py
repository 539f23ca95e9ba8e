"""The jobs behind `demur explain`: the boundary of a model, the causes of its refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from demur import stats
from demur.assemble import measurement
from demur.boundary import Axis
from demur.cache import opened
from demur.causes.job import Diagnosis, Settings, diagnose, generator_of, write
from demur.errors import ConfigError
from demur.explain.boundary import Observed, explain
from demur.explain.experiments import by_language, experiments
from demur.explain.inside import OpenModel
from demur.explain.prompt import explain_prompt
from demur.files import write_json
from demur.fitting import examples, refusal_labels
from demur.generators.local import Local
from demur.layers import choose_layer
from demur.lm import LM
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
    layer: int | None = None,
    seed: int = 0,
    tell: Progress = lambda stage, done, total: None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Explain the boundary of a model from two of its runs, and run the four experiments.

    Args:
        lm: the model.
        seen: a run on the prompts that are explained.
        fitted: a run on other prompts; a few of their groups are kept out of the direction and choose the layer.
        layer: of densities, sweep and experiments; None takes the rules' choice (`layers.choose_layer`), or where no
            layer meets them the one that best tells harmful from plain.
        seed: of resampling and random directions.
        tell: progress.

    Returns:
        the explanation as JSON values, and one coordinate row per prompt.
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
    wanted = chosen.layer if layer is None else layer
    record, coordinates = explain(lm, contrast, observed, openers, layer=wanted, seed=seed, tell=tell)
    at = int(record["layer"])
    tell("experiments", 0, 1)
    states = captured(lm, list(seen.prompts), layers=contrast.layers, points=(POINT,), positions="last_prompt")
    own = states[:, contrast.layers.index(at)]
    languages = by_language(contrast, rows, at)
    record |= experiments(lm, contrast, languages, observed, openers, own, at, seed=seed)
    record["layer_choice"] = to_json(chosen)
    if chosen.layer is None:
        record["notes"].append(f"The layer is not chosen by the rules: {chosen.reason}.")
    tell("experiments", 1, 1)
    return record, coordinates


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
