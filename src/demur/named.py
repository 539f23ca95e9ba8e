"""The method that a recipe names: fitted, then judged on the validation prompts under the floor."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from demur import fitted
from demur import floor as safety
from demur.assemble import build_benchmarks, build_judges
from demur.files import fingerprint, write_json
from demur.fitting import examples, outcomes
from demur.footprint import metered
from demur.interventions import load as load_intervention
from demur.registry import reads
from demur.select import correctness_kept
from demur.settings import PartSpec, build
from demur.types import FitData

if TYPE_CHECKING:
    from demur.pipeline import Job

MISSED = "for comparison alone: "
"""How the reason begins where a method is tested that misses the floor on validation."""


def choose_named(job: Job) -> tuple[str | None, str]:
    """Fit the recipe's method on its fit and validation prompts, judge it on the latter, and write select.json.

    Returns:
        the method's id, or None where it may not be tested, and the reason.
    """
    settings, part = job.recipe.select, seeded(cast(PartSpec, job.recipe.method), job.recipe.seed)
    fit = examples(job.measured("fit", settings.fit), "fit") if "fit" in reads(part.name, part.settings) else []
    dev = job.measured("validation", settings.validation)
    data = FitData(
        examples=(*fit, *examples(dev, "dev")),
        judge=build_judges(job.recipe.judges, build_benchmarks(settings.validation))[0][1],
        out=job.out / "fitting",
    )
    name = f"trials/{fingerprint([str(part), dev.spec.model.id])}"
    saved = job.out / name / "intervention"
    if not (saved / "intervention.json").is_file():
        job.tell(f"fit {part.name}", 0, 1)
        made, spent = metered(lambda: cast(Any, build("methods", part)).fit(job.lm, data))
        made.save(saved)
        fitted.write(saved, part, spent)
        job.tell(f"fit {part.name}", 1, 1)
    intervention = load_intervention(saved)
    trial = job.measured(f"{name}/run", settings.validation, intervention, known=dev)
    floor = safety.check(outcomes(dev), outcomes(trial), margin=settings.margin, choosing=True)
    missing = "" if floor.passed else floor.verdict
    if not missing and not correctness_kept(outcomes(dev), outcomes(trial)):
        missing = "its answers are less often right"
    kept = not missing or settings.test_missed
    reason = "keeps the floor at half its margin on the validation prompts"
    if missing:
        reason = f"{MISSED if kept else ''}on the validation prompts {missing}"
    choice = str(part) if kept else None
    if kept:
        intervention.save(job.out / "intervention")
        fitted.write(job.out / "intervention", part, fitted.spent(saved))
    row: dict[str, Any] = {"id": str(part), "kind": part.name, "layer": part.settings.get("layer"), "screen": None}
    row |= {"judged": job.judged_rates(trial), "floor": {"passed": floor.passed, "text": floor.verdict}}
    write_json(job.out / "select.json", {"choice": choice, "reason": reason, **job.validation(dev), "trials": [row]})
    return choice, reason


def seeded(part: PartSpec, seed: int) -> PartSpec:
    """Return a method's settings with the recipe's seed, where the method has one and the recipe does not set it."""
    fields = {f.name for f in dataclasses.fields(cast(Any, build("methods", part)))}
    return PartSpec(part.name, {"seed": seed, **part.settings}) if "seed" in fields else part


__all__ = ["MISSED", "choose_named", "seeded"]
