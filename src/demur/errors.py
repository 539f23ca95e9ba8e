"""The errors that a user of demur can meet.

    DemurError
    ├── ConfigError    what the user wrote: a setting, a recipe, a command line
    │   └── NotFound   a name that is not there: lists what exists, suggests the nearest
    ├── DataError      a record, file or download that is not what it should be
    ├── ModelError     a model whose structure is not understood, or that does not fit in memory
    └── Unavailable    a missing extra or an unreachable server, with the command or address that helps

A message says what was wrong (the value), where, what is allowed, and what to do. The command line shows
these without a traceback and exits with status 2. Problems of single items are data, not errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DemurError(Exception):
    """Anything that demur reports to its user in one clear message."""


class ConfigError(DemurError):
    """Something the user wrote is wrong: a setting, a recipe, an option."""


class NotFound(ConfigError):
    """A name that does not exist; the message lists what does and suggests the nearest."""

    def __init__(self, what: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        """Build the message.

        Args:
            what: the kind of thing looked for, as in "judge" or "setting".
            name: the name that was not found.
            known: the names that exist.
            where: where the name was written, if that is known.
        """
        self.name = name
        self.known = tuple(sorted(known))
        near = nearest(name, self.known)
        message = f"no {what} named {name!r}"
        if where:
            message += f" in {where}"
        if near:
            message += f"; did you mean {near!r}?"
        message += f" There {'is' if len(self.known) == 1 else 'are'}: {', '.join(self.known) or 'none'}."
        super().__init__(message)


class DataError(DemurError):
    """A record, file or download that is not what its card or schema says."""


class ModelError(DemurError):
    """A model whose structure demur does not understand, or that does not fit."""


class Unavailable(DemurError):
    """An extra that is not installed or a server that cannot be reached."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name closest to `name`, or "" when none is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else ""


def one_line(error: BaseException, most: int = 200) -> str:
    """Return an error as one short line, its type first."""
    text = " ".join(str(error).split())[:most]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
