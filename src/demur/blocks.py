"""What a guard in front of the model did: how often it blocked, and its share of what was not answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from demur import stats
from demur.generators.guarded import blocked
from demur.metrics import Outcome, outcomes
from demur.types import Metric, Prompt, Response, Verdict

Test = Callable[[Outcome], bool]


def block_metrics(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    *,
    judges: Sequence[str],
    benchmark_of: Callable[[Prompt], str] = lambda prompt: prompt.get("benchmark"),
) -> list[Metric]:
    """Return two metrics for each benchmark, over all prompts and by kind.

    `guard_block_rate`: rows that the guard blocked, of all rows but those that ended in an error (the guard's own
    among them), which are unscored. `guard_share_of_unanswered`: rows that the guard blocked, of the rows on prompts
    that deserve an answer and got none, as the first judge sees them. Intervals (95 %) as in `demur.metrics`; where
    nothing counts the value is None.

    Args:
        prompts: of a run whose generator is `guarded`.
        responses: its responses.
        verdicts: its verdicts.
        judges: names of its judges, the headline first.
        benchmark_of: says which benchmark a prompt belongs to.
    """
    stopped = {(r.prompt_id, r.sample) for r in responses if blocked(r)}
    failed = {(r.prompt_id, r.sample) for r in responses if r.finish == "error"}
    rows = outcomes(prompts, responses, verdicts, judges=judges)

    def ended(row: Outcome) -> bool:
        return _key(row) not in failed

    def unanswered(row: Outcome) -> bool:
        return row.prompt.expected == "comply" and row.measured and not row.answered

    found = []
    for benchmark in dict.fromkeys(map(benchmark_of, prompts)):
        own = [row for row in rows if benchmark_of(row.prompt) == benchmark]
        kinds = sorted({row.prompt.kind for row in own if row.prompt.kind})
        for label, inside in [("all", own), *((f"kind={k}", [r for r in own if r.prompt.kind == k]) for k in kinds)]:
            for name, counts in (("guard_block_rate", ended), ("guard_share_of_unanswered", unanswered)):
                lost = sum(not ended(row) if counts is ended else _lost(row) for row in inside)
                number = _share([row for row in inside if counts(row)], lambda row: _key(row) in stopped)
                found.append(_metric(name, label, judges[0], benchmark, lost, number))
    return found


def _key(row: Outcome) -> tuple[str, int]:
    return row.prompt.id, row.sample


def _lost(row: Outcome) -> bool:
    return row.prompt.expected == "comply" and not row.measured


_Number = tuple[float | None, float | None, float | None, int, int, str]


def _share(rows: Sequence[Outcome], hit: Test) -> _Number:
    """Return value, low, high, n, groups and kind of interval."""
    if not rows:
        return None, None, None, 0, 0, ""
    groups = [row.prompt.cluster for row in rows]
    hits, size = [float(hit(row)) for row in rows], len(set(groups))
    value = sum(hits) / len(rows)
    if size == len(rows):
        return value, *stats.wilson(sum(hits), len(rows)), len(rows), size, "wilson"
    low, high = stats.group_bootstrap(hits, [1.0] * len(rows), groups, n_boot=1000)
    if low == high:
        return value, *stats.wilson(value * size, size), len(rows), size, "wilson-groups"
    return value, low, high, len(rows), size, "group-bootstrap"


def _metric(name: str, label: str, judge: str, benchmark: str, lost: int, number: _Number) -> Metric:
    value, low, high, n, groups, interval = number
    return Metric(
        name=name, value=value, low=low, high=high, n=n, groups=groups, n_unscored=lost, slice=label, judge=judge,
        benchmark=benchmark, interval=interval,
    )  # fmt: skip
