"""Near-duplicates within a set of prompts, and overlap between two: exact, and near by shingles or embeddings.

Exact: equal after folding (NFKC, case, punctuation, white space). Near: the Jaccard similarity of the sets of
character n-grams of the folded texts (n = 4, and 2 where most letters are Han, Kana or Hangul) is at least
`THRESHOLD`. Candidates come from minhash signatures in bands (Broder 1997; Leskovec et al., *Mining of Massive
Datasets*, ch. 3) and every candidate is then verified on its real n-grams, so that no pair is reported wrongly; one
exactly at the threshold is missed with probability 0.0002, a closer one with less. With an `Embedder` near means a
cosine of at least its own threshold instead, which also finds paraphrases.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.embeddings import Embedder
from demur.errors import ConfigError
from demur.sketches import BANDS, LOOSE, Hashes, Ints, Sketch, each_once, jaccard, sketch
from demur.types import Prompt

THRESHOLD = 0.7
"""Jaccard similarity of n-grams from which two texts count as near."""

_Pairs = tuple[Ints, Ints, NDArray[np.float64]]
"""(row in a, row in b, similarity), all of one length."""

_SLICE = 512
"""Texts of `a` that are compared with all of `b` at once."""
_WAITING = 4_000_000
"""Candidates gathered before those that several bands name are merged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two prompts that are the same or nearly so, by their ids."""

    a: str
    b: str
    similarity: float
    """1 where the folded texts are equal."""
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What two sets of prompts share."""

    a: str
    b: str
    size_a: int
    size_b: int
    exact_a: int
    """Prompts of `a` whose folded text stands in `b`."""
    exact_b: int
    near_a: int
    """Prompts of `a` with a near match in `b` and no exact one."""
    near_b: int
    measure: str
    """`shingles`, or the embedder's name."""
    threshold: float
    matches: tuple[Match, ...]
    """For each prompt of `a` that has one, and each of `b`, its best match; exact ones first, then by similarity."""

    @property
    def share_a(self) -> float:
        """The share of `a` that stands in `b`, exactly or nearly; 0 for an empty `a`."""
        return (self.exact_a + self.near_a) / self.size_a if self.size_a else 0.0

    @property
    def share_b(self) -> float:
        """The share of `b` that stands in `a`, exactly or nearly."""
        return (self.exact_b + self.near_b) / self.size_b if self.size_b else 0.0


class _Folding(dict[int, str | None]):
    """A table for `str.translate`: letters, marks and digits stay, apostrophes and format signs go, the rest parts."""

    def __missing__(self, point: int) -> str | None:
        char = chr(point)
        kind = unicodedata.category(char)
        gone = char in "'’‘ʼ`´" or kind == "Cf"
        self[point] = char if kind[0] in "LMN" else None if gone else " "
        return self[point]


_FOLDING = _Folding()


def folded(text: str) -> str:
    """Return a text without case, punctuation and layout; one of signs alone keeps its signs."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(plain.translate(_FOLDING).split()) or " ".join(plain.split())


def overlap(
    a: Sequence[Prompt],
    b: Sequence[Prompt],
    *,
    names: tuple[str, str] = ("a", "b"),
    threshold: float | None = None,
    embedder: Embedder | None = None,
    near: bool = True,
) -> Overlap:
    """Compare two sets by the texts of their prompts.

    Args:
        a: one set.
        b: the other.
        names: what they are called in the result.
        threshold: from which similarity two texts are near; None: `THRESHOLD`, or the embedder's own.
        embedder: compares by cosine instead of shingles.
        near: false looks for equal texts alone.

    Raises:
        ConfigError: for a threshold that is not above 0 and at most 1.
    """
    bar = _bar(threshold, embedder)
    keys = [folded(p.text) for p in a], [folded(p.text) for p in b]
    unique = list(dict.fromkeys(keys[0])), list(dict.fromkeys(keys[1]))
    best = _Best(len(unique[0])), _Best(len(unique[1]))
    place = {text: at for at, text in enumerate(unique[1])}
    for at, text in enumerate(unique[0]):
        if text in place:
            best[0].exact(at, place[text])
            best[1].exact(place[text], at)
    for i, j, similarity in _near(unique[0], unique[1], bar, embedder) if near else ():
        best[0].near(i, j, similarity)
        best[1].near(j, i, similarity)
    ids = _first_ids(a, keys[0]), _first_ids(b, keys[1])
    found = [best[0].of(keys[0], unique[0]), best[1].of(keys[1], unique[1])]
    ours = [Match(a=a[r].id, b=ids[1][unique[1][o]], similarity=s, exact=e) for r, o, s, e in found[0]]
    theirs = [Match(a=ids[0][unique[0][o]], b=b[r].id, similarity=s, exact=e) for r, o, s, e in found[1]]
    return Overlap(
        a=names[0],
        b=names[1],
        size_a=len(a),
        size_b=len(b),
        exact_a=sum(m.exact for m in ours),
        exact_b=sum(m.exact for m in theirs),
        near_a=sum(not m.exact for m in ours),
        near_b=sum(not m.exact for m in theirs),
        measure=embedder.name if embedder else "shingles",
        threshold=bar,
        matches=tuple(sorted(dict.fromkeys(ours + theirs), key=lambda m: (not m.exact, -m.similarity, m.a, m.b))),
    )


def duplicates(
    prompts: Sequence[Prompt], *, threshold: float | None = None, embedder: Embedder | None = None
) -> tuple[Match, ...]:
    """Return (row, earlier row) for every prompt that says the same as an earlier one that is kept.

    Rows are taken in order; one is kept when no kept row matches it, so no two kept rows match.

    Raises:
        ConfigError: for a threshold that is not above 0 and at most 1.
    """
    keys = [folded(p.text) for p in prompts]
    unique = list(dict.fromkeys(keys))
    earlier: dict[int, list[tuple[float, int]]] = {}
    for i, j, similarity in _near(unique, unique, _bar(threshold, embedder), embedder):
        for row, other, how in zip(i.tolist(), j.tolist(), similarity.tolist(), strict=True):
            if other < row:
                earlier.setdefault(row, []).append((how, other))
    ids = _first_ids(prompts, keys)
    twin: dict[int, tuple[float, int]] = {}
    for row in range(len(unique)):
        kept = [(how, -other) for how, other in earlier.get(row, ()) if other not in twin]
        if kept:
            how, other = max(kept)
            twin[row] = (how, -other)
    place = {text: at for at, text in enumerate(unique)}
    made = []
    for prompt, key in zip(prompts, keys, strict=True):
        how, other = twin.get(place[key], (1.0, place[key]))
        first = ids[unique[other]]
        if first != prompt.id:
            made.append(Match(a=prompt.id, b=first, similarity=how, exact=unique[other] == key))
    return tuple(made)


def distinct(
    prompts: Sequence[Prompt], *, threshold: float | None = None, embedder: Embedder | None = None
) -> list[Prompt]:
    """Return the prompts without those that `duplicates` names, in their order."""
    gone = {match.a for match in duplicates(prompts, threshold=threshold, embedder=embedder)}
    return [prompt for prompt in prompts if prompt.id not in gone]


class _Best:
    """The best match of each text so far."""

    def __init__(self, count: int) -> None:
        self.other: Ints = np.full(count, -1, np.int64)
        self.similarity = np.zeros(count)
        self.is_exact = np.zeros(count, bool)

    def exact(self, row: int, other: int) -> None:
        self.other[row], self.similarity[row], self.is_exact[row] = other, 1.0, True

    def near(self, rows: Ints, others: Ints, similarity: NDArray[np.float64]) -> None:
        order = np.lexsort((-others, similarity, rows))
        last = np.flatnonzero(np.append(np.diff(rows[order]) != 0, True))[: len(rows)]
        at = order[last]
        at = at[(similarity[at] > self.similarity[rows[at]]) & ~self.is_exact[rows[at]]]
        self.other[rows[at]], self.similarity[rows[at]] = others[at], similarity[at]

    def of(self, keys: Sequence[str], unique: Sequence[str]) -> Iterator[tuple[int, int, float, bool]]:
        """Yield (row, the other side's text, similarity, exact) for each row that has a match."""
        place = {text: at for at, text in enumerate(unique)}
        for row, key in enumerate(keys):
            at = place[key]
            if self.other[at] >= 0:
                yield row, int(self.other[at]), float(round(self.similarity[at], 4)), bool(self.is_exact[at])


def _bar(threshold: float | None, embedder: Embedder | None) -> float:
    bar = threshold if threshold is not None else embedder.threshold if embedder else THRESHOLD
    if not 0 < bar <= 1:
        raise ConfigError(f"threshold {bar} is not above 0 and at most 1; {THRESHOLD} is usual for shingles")
    return bar


def _first_ids(prompts: Iterable[Prompt], keys: Iterable[str]) -> dict[str, str]:
    ids: dict[str, str] = {}
    for prompt, key in zip(prompts, keys, strict=True):
        ids.setdefault(key, prompt.id)
    return ids


def _near(a: Sequence[str], b: Sequence[str], bar: float, embedder: Embedder | None) -> Iterator[_Pairs]:
    """Yield the near pairs of texts, some rows of `a` at a time, ordered within."""
    if not a or not b:
        return
    if embedder is not None:
        left = embedder(a)
        right = left if a is b else embedder(b)
        for start in range(0, len(a), _SLICE):
            cosine = left[start : start + _SLICE] @ right.T
            i, j = np.nonzero(cosine >= bar)
            yield i + start, j, cosine[i, j].astype(np.float64)
        return
    one = sketch(a)
    two = one if a is b else sketch(b)
    order = np.argsort(two.bands, axis=1, kind="stable")
    ranked = np.take_along_axis(two.bands, order, axis=1)
    for start in range(0, len(a), _SLICE):
        i, j = _candidates(one, two, order, ranked, start, bar)
        similarity = jaccard(one, two, i, j)
        good = similarity >= bar - 1e-12
        yield i[good], j[good], similarity[good]


def _candidates(one: Sketch, two: Sketch, order: Ints, ranked: Hashes, start: int, bar: float) -> tuple[Ints, Ints]:
    """Return the pairs of a slice that share a band and whose signatures agree often enough."""
    width = len(two.signatures)
    found, waiting = np.zeros(0, np.int64), [np.zeros(0, np.int64)]
    for band in range(BANDS):
        values = one.bands[band, start : start + _SLICE]
        low = np.searchsorted(ranked[band], values, "left")
        counts = np.searchsorted(ranked[band], values, "right") - low
        rows = np.repeat(np.arange(len(values)) + start, counts)
        at = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
        waiting.append(rows * width + order[band][at])
        if band == BANDS - 1 or sum(map(len, waiting)) > _WAITING:
            found, waiting = each_once(np.concatenate([found, *waiting])), []
    i, j = found // width, found % width
    good = [
        (one.signatures[i[s : s + 50_000]] == two.signatures[j[s : s + 50_000]]).mean(1) >= bar - LOOSE
        for s in range(0, len(i), 50_000)
    ]
    keep = np.concatenate(good) if good else np.zeros(0, bool)
    return i[keep], j[keep]
