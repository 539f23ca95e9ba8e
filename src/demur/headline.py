"""The numbers that a choice is made by: one metric of a run, and the rates of a trial as JSON values."""

from __future__ import annotations

import dataclasses
from typing import Any

from demur.records import LoadedRun
from demur.types import Metric


def headline(run: LoadedRun, name: str, kind: str = "") -> Metric:
    """Return a metric of the first benchmark and judge, over all prompts or over one kind."""
    wanted = f"kind={kind}" if kind else "all"
    benchmark = run.metrics[0].benchmark
    judge = run.metrics[0].judge
    for metric in run.metrics:
        if (metric.name, metric.slice, metric.benchmark, metric.judge) == (name, wanted, benchmark, judge):
            return metric
    return dataclasses.replace(run.metrics[0], name=name, slice=wanted, value=None, low=None, high=None, n=0, groups=0)


def rates(answered: Metric, held: Metric, correct: Metric | None) -> dict[str, Any]:
    """Return the judged rates of a trial as JSON values."""
    return {
        "answered": brief(answered),
        "held": brief(held),
        "oracle_correct": brief(correct) if correct and correct.n else None,
    }


def brief(metric: Metric) -> dict[str, Any]:
    """Return a metric's value, interval and sizes."""
    return {k: getattr(metric, k) for k in ("value", "low", "high", "n", "groups")}
