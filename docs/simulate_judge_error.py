"""How often corrected and uncorrected intervals cover the truth: writes the table in `docs/judge-error.md`.

`python docs/simulate_judge_error.py` simulates every combination of the grids below (about ten minutes on one core) and
writes the table between the page's markers. Cells outside the band are simulated again with more repetitions, so that
chance alone puts none there.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from demur import stats
from demur.checks import Check, Counts
from demur.correction import corrected, corrected_metrics
from demur.types import Part, Prompt, Response, Verdict

PAGE = Path(__file__).with_name("judge-error.md")
START, END = "<!-- table -->", "<!-- end of table -->"
RATES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
QUALITY = (0.8, 0.9, 0.99)
ANSWERS = (100, 300, 1000)
CHECKED = (100, 300, 1000)
"""Labelled answers in the check, half of them refusals."""
NOMINAL, BAND = 0.95, 0.02
AGAIN = 10


class Cell(NamedTuple):
    """One combination, and the shares of repetitions whose interval held the truth."""

    checked: int
    answers: int
    sensitivity: float
    specificity: float
    rate: float
    corrected: float = 0.0
    raw: float = 0.0


def simulate(cell: Cell, repetitions: int, seed: int, n_draws: int = 1000) -> Cell:
    """Draw runs and checks, and count how often the corrected and the raw interval hold the true rate."""
    rng = np.random.default_rng(seed)
    observed = cell.rate * cell.sensitivity + (1 - cell.rate) * (1 - cell.specificity)
    half = cell.checked // 2
    k = rng.binomial(cell.answers, observed, repetitions)
    tp, tn = rng.binomial(half, cell.sensitivity, repetitions), rng.binomial(half, cell.specificity, repetitions)
    held = []
    for start in range(0, repetitions, 500):
        at = slice(start, start + 500)
        check = Counts(tp=tp[at], fn=half - tp[at], fp=half - tn[at], tn=tn[at])  # type: ignore[arg-type]
        found = corrected(k[at], cell.answers, check, n_draws=n_draws, seed=seed + start)
        held.append((found.low <= cell.rate) & (cell.rate <= found.high))
    plain = [stats.wilson(int(value), cell.answers) for value in range(cell.answers + 1)]
    raw = np.array([low <= cell.rate <= high for low, high in plain])[k]
    return cell._replace(corrected=float(np.concatenate(held).mean()), raw=float(raw.mean()))


def cells() -> Iterator[Cell]:
    """Give every combination of the grids."""
    for checked, answers, se, sp, rate in itertools.product(CHECKED, ANSWERS, QUALITY, QUALITY, RATES):
        yield Cell(checked, answers, se, sp, rate)


def run(repetitions: int) -> list[Cell]:
    """Simulate every cell, those outside the band again with ten times the repetitions."""
    found = []
    for seed, cell in enumerate(cells()):
        made = simulate(cell, repetitions, seed=seed * 100_000)
        if abs(made.corrected - NOMINAL) > BAND * 0.8:
            made = simulate(cell, AGAIN * repetitions, seed=seed * 100_000 + 50_000_000)
        found.append(made)
    return found


class Clusters(NamedTuple):
    """Prompts in groups: a share of the groups is refused whole, and a share of all rows is cut off."""

    groups: int
    size: int
    rate: float
    faults: float


def clusters() -> Iterator[Clusters]:
    """Give the combinations that are simulated with prompts in groups."""
    for groups, rate, faults in itertools.product((30, 100), (0.0, 0.05, 0.3), (0.0, 0.05)):
        yield Clusters(groups, 4, rate, faults)


def simulate_clusters(case: Clusters, repetitions: int, seed: int) -> float:
    """Return how often the interval of the corrected answered rate holds the true one.

    The judge has sensitivity and specificity .9, and its check 300 labelled answers, half of them refusals.
    """
    rng = np.random.default_rng(seed)
    n, quality, half = case.groups * case.size, 0.9, 150
    prompts = [
        Prompt(id=f"s/{i}", text="?", expected="comply", source="s", group=f"g{i // case.size}") for i in range(n)
    ]
    truth, held = (1 - case.rate) * (1 - case.faults), 0
    for _ in range(repetitions):
        refused = np.repeat(rng.random(case.groups) < case.rate, case.size)
        seen = np.where(refused, rng.random(n) < quality, rng.random(n) > quality)
        cut = rng.random(n) < case.faults
        answers = [
            Response(prompt_id=p.id, text="x", finish="length" if c else "stop")
            for p, c in zip(prompts, cut, strict=True)
        ]
        said = [
            Verdict(prompt_id=p.id, judge="j", question="refusal", label="refusal" if s else "compliance")
            for p, s in zip(prompts, seen, strict=True)
        ]
        tp, tn = rng.binomial(half, quality, 2)
        check = Check(judge="j", source="s", classes={"comply": Counts(tp=tp, fn=half - tp, fp=half - tn, tn=tn)})
        judges = [Part(name="j", settings={})]
        rows = corrected_metrics(prompts, answers, said, benchmark="s", judges=judges, checks=[check])
        found = next(m for m in rows if (m.name, m.slice) == ("answered_rate_corrected", "all"))
        held += found.low is not None and found.high is not None and found.low <= truth <= found.high
    return held / repetitions


def table(found: Sequence[Cell]) -> str:
    """Return the table: coverage by size of check and of run, and every cell outside the band."""
    lines = [
        "| labelled answers | answers judged | cells | corrected: mean | lowest | highest | within .02 "
        "| uncorrected: mean | lowest | within .02 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for checked, answers in itertools.product(CHECKED, ANSWERS):
        own = [c for c in found if (c.checked, c.answers) == (checked, answers)]
        lines.append(f"| {checked} | {answers:,} | {len(own)} | {_cells(own)} |")
    lines.append(f"| all | all | {len(found)} | {_cells(found)} |")
    out = [c for c in found if abs(c.corrected - NOMINAL) > BAND]
    lines += ["", f"Cells outside {NOMINAL - BAND:.2f} to {NOMINAL + BAND:.2f}: {len(out)} of {len(found)}.", ""]
    if out:
        lines += ["| labelled | judged | sensitivity | specificity | true rate | corrected | uncorrected |"]
        lines += ["|---|---|---|---|---|---|---|"]
    for c in sorted(out, key=lambda c: c.corrected):
        lines.append(
            f"| {c.checked} | {c.answers:,} | {c.sensitivity} | {c.specificity} | {c.rate} "
            f"| {c.corrected:.3f} | {c.raw:.3f} |"
        )
    return "\n".join(lines)


def _cells(own: Sequence[Cell]) -> str:
    fixed, raw = np.array([c.corrected for c in own]), np.array([c.raw for c in own])
    inside = [int((np.abs(x - NOMINAL) <= BAND).sum()) for x in (fixed, raw)]
    numbers = (fixed.mean(), fixed.min(), fixed.max())
    shown = " | ".join(f"{x:.3f}" for x in numbers)
    return f"{shown} | {inside[0]} | {raw.mean():.3f} | {raw.min():.3f} | {inside[1]}"


def main() -> int:
    """Simulate and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--print", action="store_true", help="print the table instead of writing the page")
    parser.add_argument("--groups", action="store_true", help="print the coverage with prompts in groups, and end")
    options = parser.parse_args()
    if options.groups:
        for case in clusters():
            print(*case, simulate_clusters(case, options.repetitions, seed=0), flush=True)
        return 0
    made = table(run(options.repetitions))
    if options.print:
        print(made)
        return 0
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    PAGE.write_text(f"{head}{START}\n\n{made}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
