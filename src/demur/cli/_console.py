"""Where the command line prints: tables and progress for people, JSON for machines."""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from demur.checks import Validation
    from demur.measure import Progress
    from demur.types import Metric, Verdict

NO_CACHE: Any = typer.Option(
    False, "--no-cache", callback=lambda off: _no_cache(off), help="Make everything anew; keep nothing for other runs."
)
"""The option that switches the cache of answers and verdicts off for this process and those it starts."""
ENGINE: Any = typer.Option("", help="Where the work is done, as in `ray:workers=4` [default: this process].")
"""The option that names an engine, for `engines.opened`."""
MISSED = 100
"""Exit status when a floor or threshold is missed."""


def console(*, stderr: bool = False) -> Console:
    """Return a rich console; 100 columns wide where the output is no terminal."""
    from rich.console import Console

    target = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if target.isatty() else 120, soft_wrap=not target.isatty())


def harmless(text: str) -> str:
    """Return a text without control characters (C0 and C1; line ends and tabs stay), so that it drives no terminal.

    What a model or a server wrote goes through this before it is printed.
    """
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def fail(message: str) -> None:
    """Print one error line on standard error."""
    print(f"error: {harmless(message)}", file=sys.stderr)


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    print(f"warning: {harmless(message)}", file=sys.stderr)


def emit_json(value: Any) -> None:
    """Print a value as JSON, for `--json`."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a table; `right` lists the columns that hold numbers."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        made.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(harmless(cell)) for cell in row))
    console().print(made)


def _no_cache(off: bool) -> bool:
    if off:
        os.environ["DEMUR_NO_CACHE"] = "1"
    return off


@contextmanager
def progress(label: str = "", *, quiet: bool = False) -> Iterator[Progress]:
    """Show stages with bars on a terminal, and a line every ten seconds elsewhere; always on standard error."""
    if quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        yield from _bars(label)
    else:
        yield _Lines(label)


def _bars(label: str) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{label} {stage}".strip(), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield tell


class _Lines:
    """Progress as plain lines: the end of each stage, and every ten seconds in between."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.last = time.monotonic()
        self.finished: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        ended = done >= total and stage not in self.finished
        if ended:
            self.finished.add(stage)
        if ended or now - self.last > 10:
            self.last = now
            print(f"{self.label} {stage}: {done} of {total}".strip(), file=sys.stderr, flush=True)


HEADLINES = (
    ("answered_rate", "answered, of prompts that deserve an answer"),
    ("held_rate", "held, of prompts that do not"),
    ("over_refusal_rate", "over-refusal rate"),
    ("harmful_compliance_rate", "harmful compliance rate"),
    ("answered_rate_corrected", "answered, corrected for judge error"),
    ("held_rate_corrected", "held, corrected for judge error"),
    ("over_refusal_rate_corrected", "over-refusal rate, corrected"),
    ("harmful_compliance_rate_corrected", "harmful compliance rate, corrected"),
    ("pair_accuracy", "pairs: answered, and the harmful twin held"),
    ("broken_rate", "broken (gibberish, truncated, unscored)"),
    ("oracle_correct_rate", "right, of the answers given (world only)"),
    ("balance", "balance (harmonic mean, macro over languages)"),
    ("filtered_rate", "filtered by the system around the model"),
    ("unscored_rate", "unscored"),
    ("guard_block_rate", "blocked by the guard"),
    ("guard_share_of_unanswered", "the guard's share of deserved answers not given"),
)
AXES = ("answered_rate", "held_rate")
"""Shown even without a value."""
WHERE_ANY = ("filtered_rate",)
"""Shown only where there are any."""
MODEL_SIDE = ("truncated", "filtered", "empty", "error")
"""How reasons begin that are no fault of the judge."""


def interval(metric: Metric | None) -> str:
    """Return `71.2 % [68.0, 74.1]`, or `no data`."""
    if metric is None or metric.value is None:
        return "no data"
    text = f"{100 * metric.value:.1f} %"
    if metric.low is not None and metric.high is not None:
        text += f" [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
    return text


def marked(metric: Metric | None, validations: Sequence[Validation], languages: Collection[str] = ()) -> str:
    """Return `interval`, with the mark of a number whose judge has no check in (some of) these languages."""
    from demur.checks import not_validated

    if metric is None or metric.value is None:
        return interval(metric)
    mark = not_validated(metric.name, metric.judge, validations, languages)
    return f"{interval(metric)} ({mark})" if mark else interval(metric)


def languages_of(metrics: Sequence[Metric], benchmark: str) -> set[str]:
    """Return the languages of a benchmark's prompts, as its slices name them."""
    parts = [m.slice.partition("=") for m in metrics if m.benchmark == benchmark]
    return {value for key, _, value in parts if key == "language"}


def validation_note(validations: Sequence[Validation]) -> None:
    """Print why numbers are marked as not validated, one line per reason."""
    from demur.checks import unvalidated

    for line in unvalidated(validations):
        console().print(line, highlight=False, markup=False)


def failure_note(verdicts: Sequence[Verdict]) -> None:
    """Print, for each judge that left answers without a label by its own fault, how many, and the commonest reason."""
    for judge, question in dict.fromkeys((v.judge, v.question) for v in verdicts):
        own = [v for v in verdicts if (v.judge, v.question) == (judge, question)]
        failed = Counter(v.unscored for v in own if v.unscored and not v.unscored.startswith(MODEL_SIDE))
        if failed:
            reason, times = failed.most_common(1)[0]
            console().print(
                f"{judge} gave no label on {question} for {sum(failed.values())} of {len(own)} answers, "
                f"mostly ({times}): {reason}",
                highlight=False,
                markup=False,
            )


def metric_rows(metrics: Sequence[Metric], validations: Sequence[Validation] = ()) -> list[list[str]]:
    """Return the headline rows of the first judge for each benchmark: name, value with interval, n, groups.

    Numbers of a judge without a check are marked *not validated*.
    """
    rows = []
    first: dict[str, str] = {}
    for m in metrics:
        first.setdefault(m.benchmark, m.judge)
    for benchmark, judge in first.items():
        here = languages_of(metrics, benchmark)
        name_of = benchmark if len(set(first.values())) == 1 else f"{benchmark} ({judge})"
        own = {m.name: m for m in metrics if m.benchmark == benchmark and m.slice == "all" and m.judge == judge}
        for name, text in HEADLINES:
            row = own.get(name)
            if row is not None and (row.value or name not in WHERE_ANY) and (row.value is not None or name in AXES):
                rows.append([name_of, text, marked(row, validations, here), str(row.n), str(row.groups)])
    return rows
