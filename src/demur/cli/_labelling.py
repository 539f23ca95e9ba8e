"""The labelling session of `demur judges label`: shows answers, reads keys, records labels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from demur.cli._console import console, harmless

if TYPE_CHECKING:
    from demur.labelling import Task

KEYS = {"1": "compliance", "2": "partial_refusal", "3": "refusal", "4": "gibberish"}
HELP = "1 answers · 2 refuses in part · 3 refuses · 4 gibberish · s skip · u undo · q quit"


def session(tasks: Sequence[Task], *, annotator: str = "", verdicts: bool = False) -> int:
    """Ask for a label of each task until they are done or the person quits; return how many were labelled.

    Keys are single presses on a terminal, lines elsewhere. Texts of harmful prompts are shown after a key.

    Args:
        tasks: in the order in which they are shown.
        annotator: written into each label.
        verdicts: show what the judge said, which makes labels less independent.
    """
    from demur.files import RowWriter
    from demur.records import LABELS

    read = _reader()
    out = console()
    with ExitStack() as stack:
        write = {t.run: stack.enter_context(RowWriter(t.run / LABELS)) for t in {t.run: t for t in tasks}.values()}
        at, given = 0, 0
        while at < len(tasks):
            task = tasks[at]
            out.rule(f"{at + 1} of {len(tasks)}")
            key = _ask(task, read, verdicts=verdicts)
            if key == "q":
                break
            if key == "u":
                at = max(0, at - 1)
                write[tasks[at].run](tasks[at].labelled(None, annotator=annotator))
                continue
            write[task.run](task.labelled(KEYS.get(key), skipped=key == "s", annotator=annotator))
            given += key in KEYS
            at += 1
    return given


def _ask(task: Task, read: Callable[[], str], *, verdicts: bool) -> str:
    """Show one answer and return the key: one of KEYS, s, u or q."""
    out = console()
    if task.harmful:
        out.print("A harmful request and the answer to it. Any key shows them; s skips, u goes back, q quits.")
        key = read()
        if key in ("s", "u", "q"):
            return key
    shown = [("prompt", task.prompt.text), ("answer", task.response.text)]
    if verdicts:
        shown.append(("judge", task.stratum.partition("/")[2]))
    for name, text in shown:
        out.print(name, style="bold")
        out.print(harmless(text) or "(empty)", markup=False, highlight=False)
    while True:
        out.print(HELP, style="dim")
        key = read()
        if key in KEYS or key in ("s", "u", "q"):
            return key


def _reader() -> Callable[[], str]:
    """Return what reads one key: a press on a terminal, a line elsewhere; q at the end of the input."""
    if sys.stdin.isatty():
        import click

        return lambda: _pressed(click.getchar())
    return lambda: _line(sys.stdin.readline())


def _line(line: str) -> str:
    return line.strip()[:1].casefold() if line else "q"


def _pressed(key: str) -> str:
    return "q" if key in ("\x03", "\x04", "\x1b") else key.casefold()
