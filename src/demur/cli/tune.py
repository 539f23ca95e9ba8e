"""`demur tune`: search for what answers most under the safety floor, and check it on unseen prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from demur.cli._console import MISSED, NO_CACHE, console, emit_json, progress, table

if TYPE_CHECKING:
    from demur.tuning.result import Tuned


METHOD: Any = typer.Option(
    [], "--method", help="A part; repeatable; what it sets is not searched; `none` for candidates alone [default: all]"
)
CANDIDATE: Any = typer.Option(
    [], help="Folder of an intervention fitted before, as a trained adapter; its scale is searched; repeatable."
)
DEV: Any = typer.Option([], help="Benchmarks that the search sees [default: the world's validation split]")
TEST: Any = typer.Option([], help="Benchmarks for the one check at the end [default: the world's test split]")
OBEYED: Any = typer.Option([], help="Prompts that a system prompt has refused [default: the world's, or `instructed`]")
KEEP: Any = typer.Option(0.95, help="Least share of instructed refusals that must be kept.")
LONGEST: Any = typer.Option(0, help="Longest answer, in tokens [default: 512; the organism: 48]")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Search methods and settings for what answers most under the safety floor; check it once.")
    def tune(
        model: str = typer.Argument("organism", help="organism, organism:base, a local folder, or a hub id."),
        methods: list[str] = METHOD,
        candidate: list[str] = CANDIDATE,
        fit_on: list[str] = typer.Option([], "--fit", help="Benchmarks to fit on [default: the world's train split]"),
        dev: list[str] = DEV,
        test: list[str] = TEST,
        instructed_dev: list[str] = OBEYED,
        instructed_test: list[str] = typer.Option([], help="The same for the check at the end."),
        judge: list[str] = typer.Option([], help="Judges of the answers; repeatable [default: the cards']"),
        minutes: float = typer.Option(15.0, help="Minutes of work, over all runs of this command."),
        trials: int = typer.Option(150, help="Points that are screened, at most."),
        judged: int = typer.Option(8, help="Points whose answers are judged on all of --dev."),
        calibrated: int = typer.Option(8, help="Points whose answers tell how well the screen ranks."),
        screened: int = typer.Option(1200, help="Prompts of --dev whose first answer token is read for each point."),
        margin: float = typer.Option(0.02, help="Of the safety floor; the search uses half of it."),
        keep_instructed: float = KEEP,
        task: list[str] = typer.Option([], help="lm-eval task on which a judged point must not lose; repeatable."),
        tasks_in: str = typer.Option("", "--tasks-in", help="Folder with more task files (YAML)."),
        task_items: int = typer.Option(0, help="Items of each task [default: all]"),
        max_capability_loss: float = typer.Option(2.0, help="Points that a task may lose."),
        max_new_tokens: int = LONGEST,
        seed: int = typer.Option(0, help="Seed of the search."),
        choose: int = typer.Option(0, help="Take another point of the list, by its number, and check that."),
        out: Path = typer.Option(Path("runs/tune"), help="Folder for everything; the same command goes on in it."),
        overwrite: bool = typer.Option(False, help="Start anew where the folder holds another search."),
        allow_overlap: bool = typer.Option(False, help="Go on where what is fitted on stands in --dev or --test."),
        no_cache: bool = NO_CACHE,
        as_json: bool = typer.Option(False, "--json", help="Print tune.json."),
    ) -> None:
        words = {"methods": methods, "candidates": candidate, "fit": fit_on, "dev": dev, "test": test}
        words |= {"instructed_dev": instructed_dev, "instructed_test": instructed_test, "judges": judge, "tasks": task}
        budget = {"minutes": minutes, "trials": trials, "judged": judged, "calibrated": calibrated}
        limits = {"margin": margin, "keep_instructed": keep_instructed, "capability_loss": max_capability_loss / 100}
        rest = {"tasks_in": tasks_in, "task_items": task_items, "max_new_tokens": max_new_tokens, "seed": seed}
        given: dict[str, Any] = {key: tuple(value) for key, value in words.items() if value}
        given |= {"model": model, "screened": screened, "allow_overlap": allow_overlap, **budget, **limits, **rest}
        found = _tuned(given, out, choose=choose, overwrite=overwrite, quiet=as_json)
        if as_json:
            emit_json(found.record)
        else:
            _show(found)
        if not found.passed:
            raise typer.Exit(MISSED)


def _tuned(given: Mapping[str, Any], out: Path, *, choose: int, overwrite: bool, quiet: bool) -> Tuned:
    """Search, and write the report."""
    from demur import report
    from demur.tuning.settings import Tuning
    from demur.tuning.study import require

    what = Tuning(**given)
    require()
    from demur.tuning.job import tune

    with progress(quiet=quiet) as tell:
        found = tune(what, out, choose=choose, overwrite=overwrite, progress=tell)
    report.write(out)
    return found


def _show(found: Tuned) -> None:
    """Print what the screen is worth, the list to choose from, and the check on unseen prompts."""
    record, out = found.record, console()
    for line in (*_screen(record), ""):
        out.print(line, highlight=False)
    rows = [_row(str(row["number"]), row) for row in record["pareto"]]
    listed = {row["id"] for row in record["pareto"]}
    others = [row for row in record["judged"] if row["id"] not in listed]
    rows += [_row("", row) for row in sorted(others, key=lambda row: -row["answered"])]
    columns = ("", "point", "answered", "price", "held", "right", "instructed", "misses")
    table("judged on the validation prompts: the front by number, then the others", columns, rows, right=(2, 3, 4, 5))
    out.print(f"chosen: {record['chosen'] or 'nothing: the base model is kept'} ({found.reason})", highlight=False)
    for line in _checked(record):
        out.print(line, highlight=False, markup=False)
    if len(record["tested"]) > 1:
        out.print(f"{len(record['tested'])} points were checked on these prompts: they are no longer unseen.")
    where = f"tune.json, report.html: {found.folder}"
    out.print(f"{where}\nanother point: the same command with --choose NUMBER", highlight=False)


def _screen(record: Mapping[str, Any]) -> list[str]:
    c, screen = record["calibration"], record["screen"]
    lines = [f"{record['trials']} points screened by the first answer token of {screen['prompts']} prompts"]
    if c["spearman_answered"] is not None:
        ranks = " and ".join(
            f"{c[f'spearman_{name}']:.2f} ({name})"
            for name in ("answered", "held")
            if c[f"spearman_{name}"] is not None
        )
        more = "" if c["spearman_corrected"] is None else f"; {c['spearman_corrected']:.2f} answered, price allowed for"
        lines.append(f"rank correlation with judged answers of {c['n']} points: {ranks}{more}")
        lines.append(f"seconds a point: {c['screen_seconds']:.1f} screened, {c['judged_seconds']:.1f} judged")
    return lines


def _row(number: str, row: Mapping[str, Any]) -> list[str]:
    share = row["instructed"]["share"]
    return [
        number,
        row["point"],
        _per_cent(row["answered"]),
        f"{row['price_kl']:.4f}",
        _per_cent(row["held_rate"]["value"]),
        _per_cent(row["oracle_correct_rate"]["value"]),
        "no data" if share is None else _per_cent(share),
        "; ".join(row["misses"]),
    ]


def _checked(record: Mapping[str, Any]) -> list[str]:
    """Return what the chosen one does on unseen prompts, in words."""
    test, flatter = record["test"], record["optimism"]
    if test is None:
        return []
    kept = test["instructed"]["share"]
    price = "not measured" if test["price_kl"] is None else f"{test['price_kl']:.4f} nats a token"
    return [
        f"on unseen prompts: answered {_per_cent(test['answered_before'])} → {_per_cent(test['answered'])}, "
        f"price {price}",
        f"safety floor: {test['floor']['text']}; newly unsafe prompts: {test['newly_unsafe']}",
        f"instructed refusals kept: {'no data' if kept is None else _per_cent(kept)}",
        f"optimism: {100 * flatter['answered']:+.1f} points of what is answered on validation, "
        f"{100 * flatter['gained']:+.1f} of what is gained",
    ]


def _per_cent(value: float | None) -> str:
    return "no data" if value is None else f"{100 * value:.1f} %"
