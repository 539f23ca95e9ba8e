"""Hashed n-grams of an answer with the prompt's words masked."""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 16
"""Number of hashed n-gram features."""
TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+(?:'[^\W_]+)*|[.,!?;:\n。！？؟।]")
_COMMON = frozenset((
    "a", "an", "the", "of", "to", "in", "on", "at", "for", "with", "by", "from", "and", "or", "but", "not", "no",
    "is", "are", "was", "were", "be", "been", "am", "do", "does", "did", "have", "has", "had", "i", "you", "he",
    "she", "it", "we", "they", "my", "your", "his", "her", "its", "our", "their", "this", "that", "these", "those",
    "what", "which", "who", "whom", "how", "why", "when", "where", "can", "could", "should", "would", "will",
    "shall", "may", "might", "must", "if", "as", "so", "than", "then", "there", "here", "me", "him", "them", "us",
    "about", "into", "out", "up", "down", "over", "all", "any", "some", "most", "more", "best", "get", "make",
    "way", "cannot",
))  # fmt: skip
_STARTS, _OPENING, _ENDING, _CHARACTERS = 40, 60, 30, 160
_STOPS = frozenset(".!?\n。！？؟।")
_MULTIPLIER, _MIXER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def content(asked: str) -> frozenset[str]:
    """Return the words of a folded prompt that carry its topic."""
    return frozenset(w for w in TOKEN.findall(asked) if len(w) > 2 and w not in _COMMON)


def masked(topic: frozenset[str], words: Sequence[str]) -> list[str]:
    """Return the tokens of an answer, runs of the prompt's words as one § and numbers as #."""
    stems = {w[:5] for w in topic if len(w) > 4}
    tokens: list[str] = []
    for word in words:
        if word in topic or (len(word) > 4 and word[:5] in stems):
            if not tokens or tokens[-1] != "§":
                tokens.append("§")
        else:
            tokens.append("#" if word.isdigit() else word)
    return tokens


def buckets(tokens: Sequence[str]) -> NDArray[np.int32]:
    """Return the distinct hashes, below `BUCKETS`, of the n-grams of masked tokens.

    Of one to three tokens among the first 12, the first 60 and the last 30; of two to four at the beginnings of
    sentences; of four characters in the opening.
    """
    ids = np.zeros(len(tokens) + 6, np.uint64)  # 0, ^, the tokens, $, and zeros to the right
    ids[1], ids[len(tokens) + 2] = _token("^"), _token("$")
    ids[2 : len(tokens) + 2] = [_token(word) for word in tokens]
    places, marks = _places(min(len(tokens), _OPENING))
    after = len(tokens) + 3
    ends, end_marks = _endings(min(len(tokens), _ENDING))
    starts, start_marks = _sentences(tokens)
    rows = np.concatenate((places, np.where(ends, after - ends, 0), starts))
    columns = ids[rows.T]
    opening = np.frombuffer(" ".join(tokens[:_STARTS])[:_CHARACTERS].encode("utf-32-le", "surrogatepass"), np.uint32)
    size = max(0, len(opening) - 3)
    characters = np.stack([opening[k : k + size] for k in range(4)]).astype(np.uint64)
    kinds = np.concatenate((marks, end_marks, start_marks, np.full(size, 5, np.uint64)))
    return np.unique(_hashed(np.concatenate((columns, characters), axis=1), kinds))


@functools.lru_cache(maxsize=256)
def _places(size: int) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Return which ids make each n-gram of the first 12 and the first 60 tokens (0: none), and their marks."""
    rows = [(first, n, mark) for mark, most in ((1, 12), (2, _OPENING)) for n in (1, 2, 3)
            for first in range(1, min(size, most) + 3 - n)]  # fmt: skip
    return _table(rows)


@functools.lru_cache(maxsize=256)
def _endings(size: int) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Return the same of the last 30 tokens, counted from the end."""
    rows = [(size + 2 - first, n, 3) for n in (1, 2, 3) for first in range(1, size + 3 - n)]
    found = [[first - k if k < n else 0 for k in range(4)] for first, n, _ in rows]
    return np.array(found, np.intp).reshape(-1, 4), np.full(len(rows), 3, np.uint64)


def _sentences(tokens: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    """Return the same of two, three and four tokens at the beginnings of sentences."""
    starts = list(itertools.islice((n for n, w in enumerate((".", *tokens[:-1])) if w in _STOPS), _STARTS))
    last = len(tokens) + 1
    rows = [[first + 2 + k if k < n and first + 2 + k <= last else 0 for k in range(4)]
            for first in starts for n in (2, 3, 4)]  # fmt: skip
    return np.array(rows, np.intp).reshape(-1, 4), np.full(len(rows), 4, np.uint64)


def _table(rows: list[tuple[int, int, int]]) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    found = [[first + k if k < n else 0 for k in range(4)] for first, n, _ in rows]
    return np.array(found, np.intp).reshape(-1, 4), np.array([mark for *_, mark in rows], np.uint64)


def _hashed(columns: NDArray[np.uint64], marks: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Hash four numbers each (shape (4, n)) below `BUCKETS`; a mark tells kinds of n-grams apart."""
    value = marks.copy()
    for column in columns:
        value += column
        value *= _MULTIPLIER
        value ^= value >> np.uint64(29)
    return ((value * _MIXER) >> np.uint64(40)).astype(np.int32) % BUCKETS


@functools.lru_cache(maxsize=1 << 15)
def _token(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace")) + 1
