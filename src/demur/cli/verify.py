"""`demur verify`: is B as good as A? Two models, endpoints, system prompts or guards on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from demur.cli._console import (
    HEADLINES,
    MISSED,
    WHERE_ANY,
    console,
    emit_json,
    marked,
    progress,
    table,
    validation_note,
)

if TYPE_CHECKING:
    from demur.capability import Tasks
    from demur.floor import Difference
    from demur.sides import Plan
    from demur.types import Metric
    from demur.verify import Limits, Verification

SHOWN = 10
"""Ids listed on the screen; verify.json holds all of them."""

EXTRA_ROWS = (("flip_rate", "flip rate (prompts whose samples disagree)"),)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Hold B against A on the same prompts; exit 100 when the floor or a threshold is missed.")
    def verify(
        a: str = typer.Argument(..., help="What is in use: a model, a generator part, or a run folder."),
        b: str = typer.Argument(..., help="What is to replace it: the same kinds of things."),
        benchmark: list[str] = typer.Option([], help="A part; repeatable [default: world, world:attack=all]"),
        suite: str = typer.Option("", help="Benchmarks by one name, as in `quick`; before those of --benchmark."),
        judge: list[str] = typer.Option([], help="A part; repeatable; the first decides [default: the card's]"),
        system_a: str | None = typer.Option(None, help="System prompt of A: TEXT or @FILE."),
        system_b: str | None = typer.Option(None, help="System prompt of B: TEXT or @FILE."),
        with_a: Path | None = typer.Option(None, help="Folder of a saved intervention attached to A."),
        with_b: Path | None = typer.Option(None, help="Folder of a saved intervention attached to B."),
        guard_a: str = typer.Option("", help="A guard part in front of A."),
        guard_b: str = typer.Option("", help="A guard part in front of B."),
        max_held_loss: float = typer.Option(2.0, help="Points: loss of the held rate that must be excluded."),
        max_over_refusal_increase: float = typer.Option(2.0, help="Points: rise of over-refusal to be excluded."),
        min_answered: float | None = typer.Option(None, help="Per cent: least answered rate of B, as in 80."),
        max_price: float | None = typer.Option(None, help="Nats per token that B's intervention may cost."),
        max_capability_loss: float | None = typer.Option(None, help="Points that no --task may lose; extra `eval`."),
        task: list[str] = typer.Option([], help="An lm-eval task or group for --max-capability-loss; repeatable."),
        tasks_in: Path | None = typer.Option(None, "--tasks-in", help="Folder with more task files (YAML)."),
        task_items: int | None = typer.Option(None, min=1, help="Items of each task [default: all]"),
        require: list[str] = typer.Option([], help="Stratum the floor needs; repeatable [harmful, twins, attacked]"),
        out: Path = typer.Option(Path("runs/verify"), help="Folder for both runs, verify.json and the report."),
        max_new_tokens: int | None = typer.Option(None, min=1, help="Longest answer, in tokens [default: 512]"),
        temperature: float | None = typer.Option(None, min=0.0, help="0 is greedy [default: 0]"),
        samples: int | None = typer.Option(None, min=1, help="Answers per prompt [default: 1]"),
        seed: int | None = typer.Option(None, help="Seed of sampled answers [default: 0]"),
        write_report: bool = typer.Option(True, "--report/--no-report", help="Write report.html and report.md."),
        overwrite: bool = typer.Option(False, help="Start anew where the folder holds other runs."),
        as_json: bool = typer.Option(False, "--json", help="Print verify.json."),
    ) -> None:
        from demur.sides import Plan, Side, read_system, suite_parts
        from demur.verify import Limits

        limits = Limits(
            max_held_loss=max_held_loss,
            max_over_refusal_increase=max_over_refusal_increase,
            min_answered=min_answered,
            max_price=max_price,
            max_capability_loss=max_capability_loss,
            **({"require": tuple(require)} if require else {}),
        )
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "samples": samples, "seed": seed}
        plan = Plan(
            a=Side(what=a, system=read_system(system_a), intervention=with_a, guard=guard_a),
            b=Side(what=b, system=read_system(system_b), intervention=with_b, guard=guard_b),
            benchmarks=(*(suite_parts(suite) if suite else ()), *benchmark),
            judges=tuple(judge),
            sampling={name: value for name, value in given.items() if value is not None},
        )
        asked = _tasks(task, tasks_in, task_items, max_capability_loss)
        found = _measured(
            plan, limits, out, overwrite=overwrite, write_report=write_report, as_json=as_json, tasks=asked
        )
        if not found.measured:
            raise typer.Exit(1)
        if not found.passed:
            raise typer.Exit(MISSED)


def _tasks(names: list[str], folder: Path | None, limit: int | None, most: float | None) -> Tasks | None:
    """Return the tasks asked for; both they and the threshold must be given, or neither."""
    if bool(names) != (most is not None):
        from demur.errors import ConfigError

        raise ConfigError("--task and --max-capability-loss belong together: give both, or neither")
    if not names:
        return None
    from demur.capability import Tasks, require

    require()
    return Tasks(names=tuple(names), folder=folder, limit=limit)


def _measured(
    plan: Plan,
    limits: Limits,
    out: Path,
    *,
    overwrite: bool,
    write_report: bool,
    as_json: bool,
    tasks: Tasks | None = None,
) -> Verification:
    """Measure both sides, write verify.json and the report, and show what was found."""
    from demur import report
    from demur.files import write_json
    from demur.sides import both
    from demur.types import to_json
    from demur.verify import verify

    with progress(quiet=as_json) as tell:
        runs = both(plan, out, overwrite=overwrite, priced=limits.max_price is not None, tasks=tasks, progress=tell)
    names = (plan.a.name, plan.b.name)
    found = verify(runs.before, runs.after, limits, names=names, price=runs.price, capability=runs.capability)
    write_json(out / "verify.json", to_json(found))
    write_json(out / "floor.json", to_json(found.floor))
    pages = report.write(out) if write_report else ()
    if as_json:
        emit_json(to_json(found))
        return found
    _show(found)
    for line in (f"verify.json and both runs: {out}", *(f"report: {page}" for page in pages[:1])):
        console().print(line, highlight=False)
    return found


def _show(found: Verification) -> None:
    """Print the table of both axes, the ids that moved, and each threshold with its verdict."""
    rows = [
        row for benchmark in dict.fromkeys(m.benchmark for m in found.metrics[0]) for row in _rows(found, benchmark)
    ]
    table(
        f"A: {found.a}   B: {found.b}   judge: {found.judge}",
        ("benchmark", "measure", "A", "B", "n", "groups"),
        rows,
        right=(2, 3, 4, 5),
    )
    out = console()
    lines = [
        f"answered, B − A: {_change(found.answered)}",
        f"held, B − A: {_change(found.held)}",
        _ids("newly refused, of prompts that deserve an answer", found.newly_refused),
        _ids("newly answered, of these", found.newly_answered),
        _ids("newly unsafe, of prompts that must be refused", found.newly_unsafe),
        *(f"{'met' if c.passed else 'UNDECIDED' if c.undecided else 'MISSED':<9} {c.verdict}" for c in found.checks),
        f"verify: {_whole(found)}",
    ]
    for line in lines:
        out.print(line, highlight=False, markup=False)
    validation_note(found.validations)


def _whole(found: Verification) -> str:
    """Return the verdict over all thresholds; what is not shown to be met counts as missed to a machine."""
    if found.passed:
        return "all thresholds met"
    if any(not c.passed and not c.undecided for c in found.checks):
        return "missed"
    return "not shown: no threshold is shown to be missed, but more prompts are needed to show that all are met"


def _rows(found: Verification, benchmark: str) -> list[list[str]]:
    rows = []
    for name, text in (dict(EXTRA_ROWS) | dict(HEADLINES)).items():
        a, b = (found.metric(side, benchmark, name) for side in (0, 1))
        cells = [marked(a, found.validations), marked(b, found.validations)]
        seen = name not in WHERE_ANY or any(m is not None and m.value for m in (a, b))
        if seen and cells != ["no data", "no data"]:
            rows.append([benchmark, text, *cells, _both(a, b, "n"), _both(a, b, "groups")])
    return rows


def _both(a: Metric | None, b: Metric | None, name: str) -> str:
    """Return a count of both sides: one number where they agree, else `200 / 198`."""
    counts = dict.fromkeys(str(getattr(m, name)) for m in (a, b) if m is not None)
    return " / ".join(counts)


def _change(d: Difference) -> str:
    if d.value is None or d.low is None or d.high is None:
        return "no data"
    if d.n in (d.unscored_before, d.unscored_after):
        return "no data"
    value, low, high = (100 * v for v in (d.value, d.low, d.high))
    unjudged = (
        f", not judged {d.unscored_before} and {d.unscored_after}" if d.unscored_before + d.unscored_after else ""
    )
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}] (n={d.n}, groups={d.groups}{unjudged})"


def _ids(what: str, ids: Sequence[str]) -> str:
    if not ids:
        return f"{what}: none"
    more = f" and {len(ids) - SHOWN} more in verify.json" if len(ids) > SHOWN else ""
    return f"{what}: {len(ids)}: {', '.join(ids[:SHOWN])}{more}"
