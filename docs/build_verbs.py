"""The options of each verb, from the command line itself: for `docs/build.py`."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import typer
from docstrings import cell, code, line, table

from demur import cli


def page(verb: str) -> str:
    """Return what `demur VERB --help` says: arguments and options of the verb, or of each of its commands."""
    return "\n\n".join(_command(path, command) for path, command in commands(verb))


def overview() -> str:
    """Return the table of the verbs."""
    rows = [[f"[`{verb}`]({verb}.md)", line(_root().commands[verb].help)] for verb in cli.VERBS]
    return table(("verb", "what it does"), rows)


def commands(verb: str) -> Iterator[tuple[str, Any]]:
    """Yield the verb, or each command under it, with its words."""
    found = _root().commands[verb]
    inner = getattr(found, "commands", None)
    yield from ((f"{verb} {name}", one) for name, one in inner.items()) if inner else [(verb, found)]


def _root() -> Any:
    return typer.main.get_command(cli.build())


def _command(path: str, command: Any) -> str:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-") and not p.hidden]
    needed = "".join(f" {p.name.upper()}{'…' if p.nargs == -1 else ''}" for p in arguments)
    lines = [f"## Options of `demur {path}`", line(command.help), f"    demur {path} [OPTIONS]{needed}"]
    if arguments:
        lines.append(table(("argument", "what it is"), [[code(p.name.upper()), _meaning(p)] for p in arguments]))
    if options:
        rows = [[_names(p), _default(p), _meaning(p)] for p in options]
        lines.append(table(("option", "default", "meaning"), rows))
    return "\n\n".join(lines)


def _names(parameter: Any) -> str:
    """Return the spellings of an option; of a switch that is off by default, only those that turn it on."""
    off = [] if parameter.default is False else parameter.secondary_opts
    return " ".join(map(code, [*parameter.opts, *off]))


def _meaning(parameter: Any) -> str:
    choices = [str(one.value) for one in type(parameter.default)] if isinstance(parameter.default, enum.Enum) else []
    said = cell(parameter.help or "")
    return f"{said} One of {', '.join(map(code, choices))}." if choices else said


def _default(parameter: Any) -> str:
    """Return the default as it would be written; nothing where the help says what happens without the option."""
    value = parameter.default
    if parameter.required:
        return "required"
    if isinstance(value, list | tuple):
        return "<br>".join(code(str(one)) for one in value)
    if isinstance(value, enum.Enum):
        return code(str(value.value))
    if isinstance(value, bool):
        return "on" if value else ""
    return "" if value is None or value == "" or callable(value) else code(str(value))
