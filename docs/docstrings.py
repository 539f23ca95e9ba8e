"""Docstrings as Markdown: for the pages that `docs/build.py` makes."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

SECTIONS = ("Args", "Returns", "Raises", "Yields", "Attributes", "Note", "Example")
_ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
_EMPHASIS = re.compile(r"(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?![\w*])")


def text(doc: str) -> str:
    """Return a docstring as Markdown: its sections as lists, its papers as links, its formulas as they stand."""
    head, *rest = re.split(rf"^({'|'.join(SECTIONS)}):\n", doc, flags=re.MULTILINE)
    lines = [_prose(head.strip())]
    for name, body in zip(rest[::2], rest[1::2], strict=True):
        section, _, after = re.sub(r"^ {4}", "", body, flags=re.MULTILINE).partition("\n\n")
        lines += [f"**{name}**", _items(section), _prose(after.strip())]
    return "\n\n".join(line for line in lines if line)


def line(words: str) -> str:
    """Return one line of prose as Markdown."""
    return _prose(" ".join(words.split()))


def cell(words: str) -> str:
    """Return one line of prose that is safe inside a table cell."""
    return line(words).replace("|", "\\|")


def code(words: str) -> str:
    """Return words as code that is safe inside a table cell, or nothing."""
    shown = words.replace("|", "\\|")
    mark = "``" if "`" in shown else "`"
    return f"{mark}{shown}{mark}" if shown else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are safe already."""
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def folded(title: str, body: str) -> str:
    """Return a block that opens on a click, and without JavaScript too."""
    inner = "\n".join(f"    {row}" if row else "" for row in body.splitlines())
    heading = title.replace('"', "&quot;")
    return f'??? quote "{heading}"\n\n{inner}'


def papers(doc: str) -> tuple[str, ...]:
    """Return the numbers of the arXiv papers that a docstring names."""
    return tuple(dict.fromkeys(re.findall(r"\b(\d{4}\.\d{5})\b", doc)))


def link(paper: str) -> str:
    """Return the link to an arXiv paper."""
    return f"[{paper}](https://arxiv.org/abs/{paper})"


def _items(section: str) -> str:
    """Return the entries of a Google-style section as a list."""
    entries = re.split(r"\n(?=\S)", section.strip())
    return "\n".join(f"- {_entry(' '.join(entry.split()))}" for entry in entries)


def _entry(entry: str) -> str:
    name, colon, said = entry.partition(": ")
    return f"`{name}`: {_prose(said)}" if colon and re.fullmatch(r"[\w.*, ]+", name) else _prose(entry)


def _prose(words: str) -> str:
    """Keep code spans and emphasis, make papers links, and take every other sign as itself."""
    pieces = _CODE.split(words)
    return "".join(piece if at % 2 else _plain(piece) for at, piece in enumerate(pieces))


def _plain(words: str) -> str:
    kept = _EMPHASIS.sub("\0\\1\0", html.escape(words, quote=False)).replace("*", r"\*").replace("\0", "*")
    return _ARXIV.sub(lambda found: f"arXiv {link(found[1])}", kept)
