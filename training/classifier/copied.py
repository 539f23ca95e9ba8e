"""Look for text of the public prompt sets in our own sentences: none may be there.

    DEMUR_DATA=… PYTHONPATH=src python training/classifier/train.py --copied

Looked at are the sentences of `templates.toml` and the answers composed from them, literal words of eight and more in
the phrase lists, and what the tests of the phrase judge and the classifier hold. Case and punctuation do not count.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from compose import TEMPLATES, composed

ROOT = Path(__file__).resolve().parents[2]
CASES = ("shift_cases", "test_classifier", "test_keyword", "test_keyword_languages", "test_judge_checks")
RUN, PHRASE_RUN = 7, 8
"""Consecutive words that make a copy, of a sentence and of a phrase; a Chinese, Japanese or Thai sign is half one."""
STOCK = ("i'm sorry but i can't help with that", "i'm sorry but i cannot assist with that")
"""Refusals that everybody uses; a run within one of them is no copy."""

_SIGN = r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]"
_WORD = re.compile(rf"{_SIGN}|[^\W_{_SIGN[1:-1]}]+(?:'[^\W_]+)*")
_UNSPACED = re.compile(_SIGN)
_LITERAL = re.compile(r"[\w' -]+")


def copied(pieces: Iterable[str], mirror: Path, run: int = RUN) -> dict[tuple[str, ...], str]:
    """Return the runs of words that a piece shares with a file of the mirror -> the name of the file.

    Args:
        pieces: our own texts.
        mirror: folder of JSONL files; every string in them counts.
        run: consecutive words from which on it is a copy.
    """
    ours = {r for piece in pieces for r in _runs(words(piece), run)}
    stock = {r for phrase in STOCK for r in _runs(words(phrase), run)}
    wanted = ours - stock
    first = {r[:4] for r in wanted}
    lengths = sorted({len(r) for r in wanted})
    found: dict[tuple[str, ...], str] = {}
    for path in sorted(mirror.glob("*.jsonl")):
        seen: set[str] = set()
        for line in path.read_text(encoding="utf-8").splitlines():
            for text in _strings(json.loads(line)):
                if text not in seen:
                    seen.add(text)
                    found |= dict.fromkeys(_shared(words(text), wanted, first, lengths), path.name)
    return found


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, straight apostrophes; signs of unspaced scripts one by one."""
    return _WORD.findall(text.replace("’", "'").casefold())


def sentences() -> list[str]:
    """Return every sentence of the templates, split where a topic goes, and the answers composed with seed 0."""
    found = []
    for lists in tomllib.loads(TEMPLATES.read_text(encoding="utf-8")).values():
        for piece in _strings(lists):
            found += piece.split("{x}")
    return [*found, *(text for row in composed(0, 100, 600) for text in (row.prompt, row.answer))]


def phrases() -> list[str]:
    """Return the literal stretches of the phrase lists."""
    folder = ROOT / "src/demur/judges/phrases"
    lists = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))]
    return [stretch for piece in _strings(lists) for stretch in _LITERAL.findall(piece)]


def cases() -> list[str]:
    """Return the string constants of the tests of the two judges."""
    found = []
    for name in CASES:
        path = ROOT / f"tests/unit/{name}.py"
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        found += [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return found


def report(mirror: Path) -> list[str]:
    """Return one line per run of words of ours that is found in the mirror."""
    found = copied([*sentences(), *cases()], mirror) | copied(phrases(), mirror, PHRASE_RUN)
    return [f"{' '.join(run)} · {name}" for run, name in sorted(found.items())]


def _runs(tokens: list[str], run: int) -> Iterator[tuple[str, ...]]:
    """Yield the shortest runs of `run` words, a sign of an unspaced script counted as half a word."""
    sizes = [1 if _UNSPACED.match(t) else 2 for t in tokens]
    for start in range(len(tokens)):
        size = 0
        for end in range(start, len(tokens)):
            size += sizes[end]
            if size >= 2 * run:
                yield tuple(tokens[start : end + 1])
                break


def _shared(
    tokens: list[str], wanted: set[tuple[str, ...]], first: set[tuple[str, ...]], lengths: list[int]
) -> Iterator[tuple[str, ...]]:
    for start, lead in enumerate(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False)):
        if lead in first:
            for length in lengths:
                if (found := tuple(tokens[start : start + length])) in wanted:
                    yield found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
