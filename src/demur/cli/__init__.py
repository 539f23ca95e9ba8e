"""The command line: one file per verb. Each parses, imports late and prints; errors become one clear line."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from typing import TextIO

import typer

from demur.cli._console import fail, warn
from demur.errors import DemurError

VERBS = (
    "run", "measure", "explain", "fit", "compare", "verify", "triage", "capability", "report", "list", "show", "doctor",
    "organism", "chat", "benchmarks", "judges", "mine", "export", "serve",
    "estimate", "examples", "tune",
)  # fmt: skip
INTERRUPTED = 130
"""Exit status after Ctrl-C, which the command-line library turns into an exit of its own."""
_HELP = "Measure, explain and mitigate over-refusal in language models, under a safety floor."


@functools.cache
def build() -> typer.Typer:
    """Return the command-line application with every verb registered; made once."""
    app = typer.Typer(
        name="demur",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(_version)
    for verb in VERBS:
        importlib.import_module(f"demur.cli.{verb}").register(app)
    return app


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 failed, 2 wrong input, 100 a floor or threshold missed."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            build()()
    except DemurError as error:
        fail(str(error))
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        fail("interrupted; what is finished is kept, and the same command goes on from there")
        sys.exit(INTERRUPTED)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print demur's own warnings as one line, others as Python does."""
    if category.__module__.startswith("demur."):
        warn(str(message))
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=file or sys.stderr)


def _print_version(wanted: bool) -> None:
    if wanted:
        from demur import __version__

        typer.echo(f"demur {__version__}")
        raise typer.Exit


def _version(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_print_version, is_eager=True),
) -> None:
    del version
