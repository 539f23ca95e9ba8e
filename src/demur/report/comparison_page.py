"""The report of `demur compare`: many runs on one plane, every pair tested, and the prompts they differ on."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demur.comparison import Comparison
from demur.files import replace, write_json
from demur.pairwise import Grid
from demur.records import LoadedRun
from demur.report import comparison_tables, plane, text
from demur.report.data import Rate
from demur.report.picture import Picture
from demur.report.tables import Table
from demur.types import to_json

NAMES = ("compare.json", "compare.md", "compare.html")
BLOCK = 100
"""Rows in one block: a browser lays out only the blocks in view."""
LONG = 700
"""Characters of a prompt or an answer that the page holds; the run folder has the whole."""
MARKS = {
    "compliance": "A",
    "partial_refusal": "P",
    "refusal": "R",
    "filtered": "F",
    "gibberish": "G",
    "truncated": "T",
    "empty": "E",
    "unscored": "U",
}
"""How an outcome is written in the list of prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One prompt on which runs differ: what each made of it, and their answers, equal ones together."""

    id: str
    text: str
    about: str
    """Kind, category, language."""
    marks: tuple[str, ...]
    """Of each run; "" where it has no such row."""
    unsafe: str
    """The runs that are newly unsafe on it against the first, by number."""
    harmful: bool
    """Whether the prompt must be refused: its answers are folded away and never printed."""
    answers: tuple[tuple[str, str], ...]
    """(numbers of the runs, text)."""


def write(folder: Path, made: Comparison, rows: Grid, runs: Sequence[LoadedRun]) -> tuple[Path, ...]:
    """Write `compare.json`, `compare.md` and `compare.html` into a folder; return their paths.

    Args:
        folder: made where it is not there.
        made: the comparison.
        rows: what it counts.
        runs: whose answers are shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    json_path, md_path, html_path = (folder / name for name in NAMES)
    write_json(json_path, to_json(made))
    sections = comparison_tables.sections(made)
    picture = _picture(made)
    replace(md_path, _markdown(made, sections).encode("utf-8", "backslashreplace"))
    replace(html_path, _html(made, sections, picture, _lines(rows, runs)).encode("utf-8", "backslashreplace"))
    return json_path, md_path, html_path


def _picture(made: Comparison) -> Picture | None:
    """Draw every run that has both rates, pooled over benchmarks where there are several."""
    points = []
    for i in range(len(made.names)):
        found = [_rate(made, i, name) for name in ("answered_rate", "held_rate")]
        if found[0] is None or found[1] is None:
            continue
        kept = i == 0 or made.pairs[i - 1].floor.passed
        points.append((str(i + 1), found[0], found[1], kept))
    return plane.on_runs(points) if points and points[0][0] == "1" else None


def _rate(made: Comparison, run: int, name: str) -> Rate | None:
    metric = made.metric(run, made.benchmarks[0], name) if made.benchmarks else None
    if metric is None or metric.value is None:
        return None
    return Rate(value=metric.value, low=metric.low, high=metric.high, n=metric.n, groups=metric.groups)


def _lines(rows: Grid, runs: Sequence[LoadedRun]) -> Iterator[Line]:
    """Yield a line for each row on which the outcomes of the runs differ."""
    texts = [{(r.prompt_id, r.sample): r.text for r in run.responses} for run in runs]
    for i, (prompt, sample) in enumerate(zip(rows.prompts, rows.samples, strict=True)):
        states = [None if run[i] is None else run[i].state for run in rows.outcomes]  # type: ignore[union-attr]
        if len(set(states)) == 1:
            continue
        refuse = prompt.expected == "refuse"
        worse = np.flatnonzero(rows.complied[:, i] & ~rows.complied[0, i] & refuse)
        judged_bad = bool(rows.complied[:, i].any()) and prompt.kind == "harmful"
        yield Line(
            id=prompt.id + (f" #{sample}" if sample else ""),
            text=_cut(prompt.text),
            about=" · ".join(p for p in (prompt.kind, prompt.category, prompt.language) if p),
            marks=tuple(MARKS.get(s or "", "") for s in states),
            unsafe=", ".join(str(k + 1) for k in worse),
            harmful=refuse or judged_bad,
            answers=tuple(_together([t.get((prompt.id, sample), "") for t in texts])),
        )


def _together(answers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (numbers of runs, answer) of each different answer."""
    who: dict[str, list[str]] = {}
    for i, answer in enumerate(answers, 1):
        who.setdefault(answer, []).append(str(i))
    for answer, numbers in who.items():
        yield ", ".join(numbers), _cut(answer) or "(no text)"


def _cut(value: str) -> str:
    return value if len(value) <= LONG else f"{value[:LONG]}… ({len(value) - LONG:,} more characters in the run folder)"


def _html(
    made: Comparison, sections: Sequence[tuple[str, Sequence[Table]]], picture: Picture | None, lines: Iterator[Line]
) -> str:
    from markupsafe import Markup

    from demur.report.html import TEMPLATES

    style = (TEMPLATES / "report.css").read_text("utf-8") + (TEMPLATES / "compare.css").read_text("utf-8")
    script = (TEMPLATES / "filter.js").read_text("utf-8")
    allowed = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = list(lines)
    page = _environment().get_template("compare.html.j2")
    rendered: str = page.render(
        made=made,
        sections=sections,
        picture=picture,
        blocks=[found[i : i + BLOCK] for i in range(0, len(found), BLOCK)],
        total=len(found),
        marks=MARKS,
        style=Markup(style),
        script=Markup(script),
        allowed=allowed,
        text=text,
    )
    return rendered


@functools.cache
def _environment() -> Any:
    import jinja2

    from demur.report.html import TEMPLATES

    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _markdown(made: Comparison, sections: Sequence[tuple[str, Sequence[Table]]]) -> str:
    """Return the tables as Markdown; no answer is in it."""
    from demur.report.markdown import table

    parts = ["# Runs compared", "", *(f"{i}. {name}" for i, name in enumerate(made.names, 1)), ""]
    for title, tables in sections:
        parts += [f"## {title}", "", *(table(t) for t in tables)]
    return "\n".join(line.rstrip() for line in "\n".join(parts).splitlines()) + "\n"
