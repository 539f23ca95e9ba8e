"""The command line, run in this process as the console script does."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from demur import cli


class Done(NamedTuple):
    """What a command left: exit status, standard output, standard error."""

    returncode: int
    stdout: str
    stderr: str


def demur(*words: str, cwd: Path | None = None) -> Done:
    """Run `demur WORDS…`."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", ["demur", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Done(code, out.getvalue(), errors.getvalue())
