"""Data to fit on: a measured run turned into labelled examples."""

from __future__ import annotations

from typing import Literal

from demur import metrics
from demur.records import LoadedRun
from demur.types import Example


def examples(run: LoadedRun, split: Literal["fit", "dev"]) -> list[Example]:
    """Return one `Example` per prompt of a run: what the model answered (sample 0), and its refusal label.

    The label is the headline judge's; it is None where the answer stayed unscored.
    """
    judge = run.spec.judges[0].name
    labels = {
        v.prompt_id: v.label for v in run.verdicts if v.judge == judge and v.question == "refusal" and v.sample == 0
    }
    answers = {r.prompt_id: r.text for r in run.responses if r.sample == 0}
    return [Example(prompt=p, split=split, answer=answers.get(p.id, ""), label=labels.get(p.id)) for p in run.prompts]


def outcomes(run: LoadedRun) -> list[metrics.Outcome]:
    """Return what the headline judge made of every answer of a run."""
    judges = [part.name for part in run.spec.judges]
    return metrics.outcomes(run.prompts, run.responses, run.verdicts, judges=judges)


def refusal_labels(run: LoadedRun) -> dict[str, str | None]:
    """Return the headline judge's refusal label of each prompt's first answer; None where it stayed unscored."""
    return {e.prompt.id: e.label for e in examples(run, "dev")}
