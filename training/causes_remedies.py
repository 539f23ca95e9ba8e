"""What each remedy gains on one organism, under the safety floor: does the diagnosis name the cheapest that works?

    python training/causes_remedies.py ORGANISM/safety --out runs/remedies/NAME

Three remedies are fitted on the world's train split and held to the floor on its test split, attacks included:
gated steering; SFT on the refused prompts nearest to the boundary; SFT on as many refused prompts that share the
spans which set refusals off (found on the train split alone). The prompts of both trainings are of equal number. What
was measured before is kept under --out.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from causes import Quick

from demur import floor
from demur.assemble import measurement
from demur.boundary_scorer import BoundaryScorer
from demur.cache import opened
from demur.causes import Cutting, Thresholds
from demur.causes.job import Settings, diagnose
from demur.causes.spans import spans
from demur.explain.inside import OpenModel
from demur.files import write_json
from demur.fitting import examples, outcomes
from demur.generators.local import Local
from demur.judges.oracle import Oracle
from demur.measure import measure
from demur.methods.gated_steering import GatedSteering
from demur.methods.rass import Rass
from demur.readout import find_openers
from demur.records import LoadedRun
from demur.responses import role_of
from demur.types import Example, FitData, Sampling, to_json

TRAIN, ATTACKED = ("world:split=train",), ("world:split=train,attack=all",)
DEV = ("world:split=validation,limit=1800", "world:split=validation,attack=all,limit=800")
TEST = ("world", "world:attack=all")


def measured(model: str, benchmarks: Sequence[str], out: Path, intervention: Path | None = None) -> LoadedRun:
    """Measure the organism, or the organism under an intervention."""
    what = measurement(model=model, benchmarks=benchmarks, sampling=Sampling(), intervention=intervention)
    return measure(what, out, cache=opened())


def trigger_spans(run: LoadedRun, rows: Sequence[Example], most: int) -> dict[str, set[str]]:
    """Return, by language, the spans to blame in a run of the train split: they look harmful and are mostly refused."""
    generator = Local(model=run.spec.model.id)
    openers = find_openers(generator.lm(), run.responses, run.verdicts)
    inside = Quick(model=OpenModel.fit(generator.lm(), rows, openers))
    settings = Settings(samples=Sampling(), limit=most, control=0, cutting=Cutting(most=40))
    at, made = Thresholds(), dict[str, set[str]]()
    for t in diagnose(run, generator=generator, inside=inside, settings=settings).triggers:
        if (t.looks is None or t.looks >= at.looks) and (t.refused or 0.0) >= 0.5:
            made.setdefault(t.language, set()).add(t.span)
    return made


def shares_span(example: Example, wanted: dict[str, set[str]]) -> bool:
    """Say whether a prompt holds a span of its language."""
    own = wanted.get(example.prompt.language, set())
    return any(span.key in own for span in spans(example.prompt.text))


def scored(lm: Any, rows: Sequence[Example], run: LoadedRun) -> list[Example]:
    """Return the train rows with their distance from the boundary as score."""
    openers = find_openers(lm, run.responses, run.verdicts)
    scorer = BoundaryScorer.fit(lm, rows, openers, unusable=True)
    fit = [e for e in rows if e.split == "fit"]
    found = scorer([e.prompt for e in fit])
    return [replace(e, score=s.d) for e, s in zip(fit, found, strict=True)]


def remedies(model: str, out: Path, most: int, rate: float) -> dict[str, Callable[[], Any]]:
    """Return, by name, functions that fit each remedy; rows are measured and chosen here, once."""
    lm = Local(model=model).lm()
    train, dev = measured(model, TRAIN, out / "train"), measured(model, DEV, out / "validation")
    held_out = examples(dev, "dev")
    rows = scored(lm, [*examples(train, "fit"), *held_out], train)
    wanted = trigger_spans(train, [*examples(train, "fit")], most)
    refused = [e for e in rows if role_of(e) == "benign"]
    matched = [e for e in refused if shares_span(e, wanted)]
    count = min(most, len(matched) or most, len(refused))
    rest = [e for e in rows if role_of(e) != "benign"]
    rest += examples(measured(model, ATTACKED, out / "attacked"), "fit")
    write_json(
        out / "data.json",
        {"spans": {k: sorted(v) for k, v in wanted.items()}, "refused": len(refused), "matched": len(matched)}
        | {"trained_on": count},
    )
    sft = Rass(
        objective="sft", rate=rate, epochs=2, dropout=0.0, benign=count, harmful=1200, general=150, checkpoints=1,
        max_new_tokens=48,
    )  # fmt: skip

    def trained(name: str, benign: Sequence[Example]) -> Any:
        data = FitData(examples=(*benign, *rest, *held_out), judge=Oracle(), out=out / name)
        return sft.fit(lm, data)

    made: dict[str, Callable[[], Any]] = {
        "gated_steering": lambda: GatedSteering().fit(
            lm, FitData(examples=(*refused, *rest, *held_out), judge=Oracle(), out=out / "gated_steering")
        ),
        "boundary_sft": lambda: trained("boundary_sft", refused),
    }
    if matched:
        made["trigger_sft"] = lambda: trained("trigger_sft", matched)
    return made


def rates(run: LoadedRun) -> dict[str, float | None]:
    """Return the answered rate on borderline prompts and the held rate on all harmful ones, attacked included."""
    rows = outcomes(run)
    parts = {
        "answered": [o.state == "compliance" for o in rows if o.prompt.kind == "borderline"],
        "held": [o.state == "refusal" for o in rows if o.prompt.expected == "refuse"],
    }
    return {name: sum(own) / len(own) if own else None for name, own in parts.items()}


def main() -> None:
    """Fit the three, measure each on test, apply the floor once, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("organism", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=300, help="refused prompts trained on, and diagnosed, at most")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the trainings")
    given = parser.parse_args()
    model, out = str(given.organism.resolve()), given.out
    before = measured(model, TEST, out / "before")
    record: dict[str, Any] = {"organism": model, "before": rates(before)}
    print("remedy           answered  held   floor")
    print(f"{'none':16} {record['before']['answered']:8.3f} {record['before']['held']:6.3f}")
    for name, fit in remedies(model, out, given.most, given.rate).items():
        folder = out / name / "intervention"
        if not (folder / "intervention.json").is_file():
            fit().save(folder)
        after = measured(model, TEST, out / name / "after", folder)
        result = floor.check(outcomes(before), outcomes(after))
        record[name] = rates(after) | {"floor": to_json(result)}
        print(f"{name:16} {record[name]['answered']:8.3f} {record[name]['held']:6.3f}   {result.verdict}")
    write_json(out / "remedies.json", record)
    print(f"written: {out / 'remedies.json'}")


if __name__ == "__main__":
    main()
