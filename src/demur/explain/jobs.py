"""The jobs behind `demur explain causes` and `demur explain prompt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demur.assemble import measurement
from demur.cache import opened
from demur.causes.job import Diagnosis, Settings, diagnose, generator_of, write
from demur.errors import ConfigError
from demur.explain.inside import OpenModel
from demur.fitting import examples
from demur.generators.local import Local
from demur.measure import Progress, measure
from demur.readout import find_openers
from demur.records import LoadedRun
from demur.types import Judge, Sampling


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
    found = diagnose(run, generator=made, judge=judge, inside=inside, settings=settings, tell=progress)
    write(found, out)
    return found
