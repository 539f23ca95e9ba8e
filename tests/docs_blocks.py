"""The code blocks of the documentation: found, understood, and run as a reader would, page by page.

Every fenced block says its language. What stands in HTML comments right above it says how it is taken:

    <!-- not run: REASON -->   checked, but not run
    <!-- slow -->              run by `pytest -m slow` alone
    <!-- exits: N -->          its last command ends with status N
    <!-- file: NAME -->        it is the content of that file
    <!-- input: TEXT -->       what the reader types, lines parted by "|"
    <!-- server -->            a small chat server stands behind 127.0.0.1:8000 while it runs
    <!-- serves -->            its command runs beside the rest of the page, in place of 127.0.0.1:8000
    <!-- goes on: PAGE -->     (at the top of a page) its folder is what PAGE leaves behind
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from demur import cli, modifiers, registry, suites
from demur.errors import DemurError
from demur.settings import check as check_part
from demur.settings import parse_part, part_from

ROOT = Path(__file__).resolve().parents[1]
CODE = ("python", "sh", "toml", "json", "jsonl", "csv")
NOTES = ("not run", "exits", "file", "input", "server", "slow", "serves", "goes on")
ADDRESS = "127.0.0.1:8000"
KINDS = {
    "benchmark": "benchmarks", "fit_on": "benchmarks", "dev": "benchmarks", "test": "benchmarks",
    "evaluation": "benchmarks", "general": "benchmarks", "seeds": "benchmarks", "candidates": "benchmarks",
    "judge": "judges", "with_guard": "judges", "guard_a": "judges", "guard_b": "judges", "harm": "judges",
    "generator": "generators", "method": "methods", "to": "export",
}  # fmt: skip
"""Parameters of the command line that hold parts, and the folder these come from."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    code: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it is run."""
        return self.language in CODE and "not run" not in self.notes

    @property
    def slow(self) -> bool:
        """Whether it is run by the slow tests alone."""
        return "slow" in self.notes

    def commands(self) -> list[list[str]]:
        """Return the words of each command of a shell block, without comments."""
        joined = self.code.replace("\\\n", " ")
        return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


@cache
def pages() -> dict[str, str]:
    """Return every page that a reader meets, by its path, in reading order."""
    docs = sorted(path for path in (ROOT / "docs").rglob("*.md"))
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs, *sorted((ROOT / "examples").rglob("*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in found}


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """Return the fenced blocks of a page with the notes above them."""
    found, notes = [], {}
    lines = iter(enumerate(pages()[page].splitlines(), 1))
    for number, line in lines:
        if note := re.fullmatch(r"<!-- ([a-z ]+?)(?:: (.*))? -->", line):
            if note[1] in NOTES:
                notes[note[1]] = note[2] or ""
        elif line.lstrip().startswith("```"):
            indent, language = len(line) - len(line.lstrip()), line.strip().removeprefix("```")
            code = [inner[indent:] for _, inner in _until_fence(lines)]
            found.append(Block(page, number, language, "\n".join(code), notes))
            notes = {}
        elif line:
            notes = {}
    return tuple(found)


def all_blocks() -> list[Block]:
    """Return the blocks of all pages."""
    return [block for page in pages() for block in blocks(page)]


def goes_on(page: str) -> str:
    """Return the page whose folder this one goes on in, or ""."""
    found = re.search(r"^<!-- goes on: (.*) -->$", pages()[page], re.MULTILINE)
    return found[1] if found else ""


def understand(block: Block) -> None:
    """Check what can be checked without running a block: syntax, commands, options, parts, files.

    Raises:
        ValueError: what is wrong, and where.
    """
    if block.notes.get("exits") == "2":
        return  # shows a mistake
    try:
        if block.language == "python":
            ast.parse(block.code)
        elif block.language == "toml":
            tomllib.loads(block.code)
        elif block.language in ("json", "jsonl"):
            for line in block.code.splitlines() if block.language == "jsonl" else [block.code]:
                json.loads(line)
        elif block.language == "sh":
            for words in block.commands():
                _understand(words)
    except (SyntaxError, ValueError, DemurError) as error:
        raise ValueError(f"{block.where}: {error}") from error


def _understand(words: list[str]) -> None:
    if words[0] == "demur":
        _command(words[1:])
    elif words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        if unknown := [word for word in words[1:] if "=" not in word and word not in targets]:
            raise ValueError(f"no target {unknown} in the Makefile")
    elif words[0] in ("python", "bash") and not (ROOT / words[1]).is_file() and not words[1].startswith("-"):
        raise ValueError(f"no file {words[1]}")


def _command(words: list[str]) -> None:
    """Read a command as the program does, up to the point where it would begin; then look up its parts."""
    command = _root()
    words, path = list(words), "demur"
    while inner := getattr(command, "commands", None):
        if not words or words[0] not in inner:
            raise ValueError(f"no command {path} {' '.join(words[:1])}")
        path = f"{path} {words[0]}"
        command = inner[words.pop(0)]
    if "--help" in words:
        return
    with mock.patch.dict("os.environ"), contextlib.redirect_stderr(io.StringIO()):
        try:
            given = command.make_context(path, words).params
        except Exception as error:  # whatever the command line library raises
            said = error.format_message() if hasattr(error, "format_message") else str(error)
            raise ValueError(f"{path}: {said or type(error).__name__}") from error
    for name, value in given.items():
        if kind := KINDS.get(name):
            for part in value if isinstance(value, list | tuple) else [value] if value else []:
                _part(kind, str(part))
    if given.get("suite"):
        suites.find(given["suite"])


@cache
def _root() -> Any:
    return typer.main.get_command(cli.build())


def _part(kind: str, text: str) -> None:
    """Look up a part and its settings, those inside it too."""
    spec = parse_part(text)
    name = spec.name.replace("-", "_") if kind == "export" else spec.name
    if name.isupper() or registry.is_path(name) or name.endswith(".jsonl"):
        return  # a name for the reader to fill in, or a file of the reader's
    settings = dict(spec.settings)
    if kind == "benchmarks":
        settings = {k: v for k, v in settings.items() if k not in {s.name for s in modifiers.settings()}}
    check_part(kind, type(spec)(name, settings))
    for key, value in settings.items():
        nested = {"generator": "generators", "judge": "judges", "guard": "judges"}.get(key)
        if nested and isinstance(value, dict | str):
            inner = part_from(value) if isinstance(value, str) else part_from({"name": "http", **value})
            check_part(nested, inner)


def _until_fence(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if line.strip() == "```":
            return
        yield number, line


def run(block: Block, folder: Path, names: dict[str, Any], address: str) -> None:
    """Run a block in a folder.

    Args:
        block: the block.
        folder: where the reader is.
        names: what the page's Python blocks have defined so far; changed.
        address: host and port that stand in for `ADDRESS`.

    Raises:
        AssertionError: where a command ends with another status than the page says.
    """
    code = block.code.replace(ADDRESS, address)
    with contextlib.chdir(folder):
        if name := block.notes.get("file"):
            Path(name).write_text(code + "\n", "utf-8")
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, block.where, "exec"), names)
        elif block.language == "sh":
            commands = Block(block.page, block.line, "sh", code).commands()
            for at, words in enumerate(commands, 1):
                status = int(block.notes.get("exits", 0)) if at == len(commands) else 0
                _demur(words, status, block)


def _demur(words: list[str], status: int, block: Block) -> None:
    assert words[0] == "demur", f"{block.where}: {words[0]} cannot be run here; say why: <!-- not run: REASON -->"
    out, errors, code = io.StringIO(), io.StringIO(), 0
    typed = io.StringIO(block.notes.get("input", "").replace("|", "\n") + "\n")
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "stdin", typed),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    assert code == status, f"{block.where}: {shlex.join(words)} ended with {code}:\n{out.getvalue()}{errors.getvalue()}"
