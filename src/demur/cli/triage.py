"""`demur triage`: what one's own unlabelled traffic says about over-refusal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from demur.cli._console import MISSED, console, emit_json, progress, table
from demur.types import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.triage import Triage


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Find refusals in your own logs, draw a review queue, estimate over-refusals per 1,000 requests.")
    def triage(
        logs: list[Path] = typer.Argument(..., help="JSONL, CSV or TSV files: prompts with answers, or chat logs."),
        map_: str = typer.Option("", "--map", help="Columns, as in `prompt=input.text,response=output`."),
        judge: str = typer.Option(DEFAULT_JUDGE, help="A part that finds refusals."),
        harm: str = typer.Option("", help="A part that says which refused prompts are harmful [default: none]"),
        labels: Path | None = typer.Option(None, help="A labelled queue [default: the one in --out]"),
        queue: int = typer.Option(200, min=1, help="Rows in the review queue."),
        redact: str = typer.Option("", help="A Python file with redact(text) -> str, or `none` [default: built in]"),
        max_over_refusals: float | None = typer.Option(None, min=0.0, help="Per 1,000: more must be excluded, or 100."),
        out: Path = typer.Option(Path("runs/triage"), help="Folder for the queue, triage.json and the page."),
        seed: int = typer.Option(0, help="Seed of the draw."),
        overwrite: bool = typer.Option(False, help="Replace a queue that holds labels of another draw."),
        as_json: bool = typer.Option(False, "--json", help="Print triage.json."),
    ) -> None:
        from typing import cast

        from demur.files import replace
        from demur.settings import build, parse_part, part_of
        from demur.triage import Work, read_logs, redactor, remote
        from demur.triage import triage as look_through
        from demur.triage.page import render
        from demur.types import Judge, Part, to_json

        def made(text: str) -> tuple[Part, Judge]:
            judge = cast(Judge, build("judges", text))
            return part_of("judges", judge), judge

        work = Work(
            judge=made(judge),
            harm=made(harm) if harm else None,
            redact=redactor(redact),
            queue=queue,
            seed=seed,
            labels=labels,
        )
        for part, _ in filter(None, (work.judge, work.harm)):
            if places := remote(part):
                console(stderr=True).print(
                    f"judge {part.name} works at {', '.join(places)}: it is sent "
                    f"{'texts as they are' if redact == 'none' else 'redacted texts'}",
                    highlight=False,
                )
        columns = {key: str(value) for key, value in parse_part(f"map:{map_}").settings.items()} if map_ else {}
        read = read_logs(logs, columns)
        with progress(quiet=as_json) as tell:
            found = look_through(read, out, work, overwrite=overwrite, progress=tell)
        page = out / "triage.html"
        replace(page, render(found).encode("utf-8", "backslashreplace"))
        if as_json:
            emit_json(to_json(found))
        else:
            _show(found, page)
        if found.refused is None or (harm and found.refused and found.likely_over_refusals is None):
            raise typer.Exit(1)
        if max_over_refusals is not None and _above(found, max_over_refusals):
            raise typer.Exit(MISSED)


def _above(found: Triage, limit: float) -> bool:
    """Say whether more over-refusals than the limit are not excluded; unmeasured is above."""
    return found.estimate.high is None or found.estimate.high > limit


def _show(found: Triage, page: Path) -> None:
    """Print counts, strata and groups; no text of the logs."""
    out = console()

    def say(line: str, **how: Any) -> None:
        out.print(line, highlight=False, markup=False, **how)

    say(f"{found.rows} requests read, {found.skipped} rows skipped")
    for where, reason in found.first_skipped:
        say(f"  skipped {where}: {reason}", style="dim")
    say("answers: " + ", ".join(f"{state.replace('_', ' ')} {n}" for state, n in found.states.items()))
    if found.refused is None:
        say("refused: no data; the judge labelled no answer")
    else:
        say(f"refused: {found.refused} of {found.scored} scored ({1000 * found.refused / found.scored:.1f} per 1,000)")
    if found.likely_over_refusals is not None:
        name = found.judges[-1][0]
        share = 1000 * found.likely_over_refusals / found.scored
        say(
            f"of these with prompts that {name} calls benign: {found.likely_over_refusals} "
            f"({share:.1f} per 1,000, not corrected for its errors)"
        )
    elif len(found.judges) > 1:
        say(f"of these with prompts that {found.judges[-1][0]} calls benign: no data; it labelled none")
    else:
        say("likely over-refusals: not asked; name a judge of prompts with --harm, or label the queue")
    if found.triggers:
        rows = [[t.name, str(t.refused), str(t.answered), f"{t.z or 0:.1f}"] for t in found.triggers]
        table(f"Triggers, of {found.grouped}", ("word", "refused", "answered", "z"), rows, right=(1, 2, 3))
    if found.topics:
        rows = [[t.name, str(t.refused)] for t in found.topics]
        table(f"Topics, of {found.grouped}", ("words", "refused"), rows, right=(1,))
    rows = [
        [
            s.name,
            str(s.size),
            str(s.drawn),
            f"{s.inclusion:.3f}",
            str(s.labelled),
            str(s.hits) if s.labelled else "no label",
        ]
        for s in found.strata
    ]
    columns = ("stratum", "rows", "in the queue", "inclusion", "labelled", "over-refusals")
    table("Review queue", columns, rows, right=range(1, 6))
    say(found.verdict)
    say(f"queue: {found.queue}\npage: {page}")
