"""Runs of the same prompts side by side: both axes, every pair tested, and each run's safety floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demur import floor as safety
from demur.checks import Validation
from demur.differences import same
from demur.errors import ConfigError
from demur.fitting import outcomes
from demur.metrics import Outcome
from demur.pairwise import Contrast, Grid, contrasts, grid, unsafe
from demur.records import LoadedRun, RunFolder
from demur.types import Metric, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One run against the reference (the first), on the prompts both answered."""

    reference: str
    other: str
    answered: safety.Difference
    floor: safety.FloorResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything `demur compare` shows."""

    names: tuple[str, ...]
    benchmarks: tuple[str, ...]
    metrics: tuple[tuple[Metric, ...], ...]
    """The headline judge's metric rows of each run."""
    pairs: tuple[Pair, ...]
    validations: tuple[tuple[Validation, ...], ...] = ()
    """What each run's numbers rest on."""
    contrasts: tuple[Contrast, ...] = ()
    """Every pair of runs, in both rates, whole and by kind, category and language; p-values corrected by Holm."""
    newly_unsafe: tuple[tuple[int, int, int], ...] = ()
    """(one, other, count): how many harmful prompts the other run complies with and the one does not, both ways."""

    def metric(self, run: int, benchmark: str, name: str) -> Metric | None:
        """Return one headline metric over all prompts, or None where the run does not have it."""
        for m in self.metrics[run]:
            if (m.benchmark, m.name, m.slice) == (benchmark, name, "all"):
                return m
        return None


def compare_runs(folders: Sequence[Path], *, margin: float = 0.02) -> Comparison:
    """Compare runs on the prompts they share; the first is the reference.

    Raises:
        ConfigError: when two runs hold different prompts, or were judged by different judges.
        DataError: when a folder is no finished run.
    """
    return compare_loaded(load_runs(folders), [str(folder) for folder in folders], margin=margin)[0]


def load_runs(folders: Sequence[Path]) -> list[LoadedRun]:
    """Read run folders that hold the same prompts and the same judges; prompts that are equal are read once.

    Raises:
        ConfigError: when two runs hold different prompts, or were judged by different judges.
        DataError: when a folder is no finished run.
    """
    runs: list[LoadedRun] = []
    for folder in folders:
        run = RunFolder.load(folder, like=runs[0] if runs else None)
        if runs:
            check_same_prompts(runs[0], run)
            check_same_judges(runs[0], run)
        runs.append(run)
    return runs


def compare_loaded(runs: Sequence[LoadedRun], names: Sequence[str], *, margin: float = 0.02) -> tuple[Comparison, Grid]:
    """Compare runs that are in memory; return the comparison, and the rows that it counts.

    Args:
        runs: as `load_runs` gives them; the first is the reference.
        names: one for each.
        margin: of the safety floor.
    """
    found = [outcomes(run) for run in runs]
    rows = grid(found)
    pairs = [_pair((names[0], name), (found[0], one), margin) for name, one in zip(names[1:], found[1:], strict=True)]
    judge = runs[0].spec.judges[0].name
    complied = unsafe(rows)[1]
    both = [(one, other) for one in range(len(runs)) for other in range(len(runs)) if one != other]
    made = Comparison(
        names=tuple(names),
        benchmarks=tuple(dict.fromkeys(m.benchmark for m in runs[0].metrics)),
        metrics=tuple(tuple(m for m in run.metrics if m.judge == judge) for run in runs),
        pairs=tuple(pairs),
        validations=tuple(run.validations for run in runs),
        contrasts=contrasts(rows),
        newly_unsafe=tuple((one, other, int((complied[other] & ~complied[one]).sum())) for one, other in both),
    )
    return made, rows


def check_same_prompts(first: LoadedRun, other: LoadedRun) -> None:
    """Raise ConfigError where two runs do not hold the same prompt ids; system prompts may differ."""
    different = {p.id for p in first.prompts} ^ {p.id for p in other.prompts}
    if different:
        raise ConfigError(
            f"{other.path} and {first.path} hold different prompts: {len(different)} are in one only, such as "
            f"{min(different)!r}. Measure both with the same --benchmark settings."
        )


def check_same_judges(first: LoadedRun, other: LoadedRun) -> None:
    """Raise ConfigError where a question that enters the outcomes was answered by other judges in the other run."""
    one, two = _deciding(first), _deciding(other)
    for question in dict.fromkeys([*one, *two]):
        here, there = one.get(question), two.get(question)
        if here is None or there is None or not same(here, there):
            raise ConfigError(
                f"{question} was judged by {here.name if here else 'no judge'} in {first.path} and by "
                f"{there.name if there else 'no judge'} in {other.path}, or by other settings of it; measure both with "
                "the same --judge (answers are kept, only judged again)"
            )


def _deciding(run: LoadedRun) -> dict[str, Part]:
    """Return the judge whose verdicts decide each question, as `metrics.outcomes` picks it."""
    headline, *others = run.spec.judges
    given = {(v.judge, v.question) for v in run.verdicts}
    found = {"refusal": headline}
    for question in ("answer_harm", "quality"):
        if part := next((p for p in (headline, *others) if (p.name, question) in given), None):
            found[question] = part
    return found


def _pair(names: tuple[str, str], found: tuple[Sequence[Outcome], Sequence[Outcome]], margin: float) -> Pair:
    return Pair(
        reference=names[0],
        other=names[1],
        answered=safety.paired_difference(*found, "answered_rate"),
        floor=safety.check(*found, margin=margin),
    )
