"""Near-duplicates over a stream: each text is compared with those kept before it, in bounded memory.

The same notion of near as `demur.dedup` (Jaccard similarity of character n-grams, candidates by banded minhash,
each verified on its n-grams), and the same result as `dedup.duplicates`: texts are taken in order, and one is kept
when no kept one is near. Only kept texts are remembered, so that a set with many repeats costs no more than one
without. About 4 bytes an n-gram and 700 bytes a kept text are held. The bands of kept texts stand in sorted runs
that are merged when they reach equal size, so that n texts take about n log n steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from demur.dedup import THRESHOLD, folded
from demur.errors import ConfigError
from demur.sketches import BANDS, BITS, LOOSE, Hashes, Ints, Sketch, each_once, sketch

_Array = TypeVar("_Array", NDArray[np.uint32], NDArray[np.int64], NDArray[np.uint8])

_STEP = 1024
"""Texts that are compared with the kept ones, then with each other, then kept."""
_SKETCHED = 16_384
_SHORT = np.uint64(BITS - 32)
_SALT = np.random.default_rng(2).integers(0, 2**63, BANDS, dtype=np.uint64)[:, None] << np.uint64(1)


class Twin(NamedTuple):
    """The kept text that a text is near to."""

    row: int
    """Its number among the kept ones."""
    similarity: float


class _Run(NamedTuple):
    keys: Hashes
    rows: NDArray[np.int32]


class Near:
    """Kept texts, and whether another is near one of them."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"near threshold {threshold} is not above 0 and at most 1; {THRESHOLD} is usual")
        self.threshold = threshold
        self.size = 0
        """Number of kept texts."""
        self._runs: list[_Run] = []
        self._grams = np.zeros(1 << 16, np.uint32)
        self._starts = np.zeros(1 << 10, np.int64)
        self._marks = np.zeros((1 << 10, 128), np.uint8)

    def add(self, texts: Sequence[str]) -> list[Twin | None]:
        """Keep the texts that are near no kept one; return for each None where it was kept, else its twin."""
        return [twin for part in self._parts(texts) for twin in self._add(part)]

    def find(self, texts: Sequence[str]) -> list[Twin | None]:
        """Return for each text the nearest of the kept ones, None where none is near; nothing is kept."""
        return [twin for part in self._parts(texts) for twin in self._kept_near(part)]

    def _parts(self, texts: Sequence[str]) -> Iterator[_Part]:
        for start in range(0, len(texts), _SKETCHED):
            made = sketch([folded(text) for text in texts[start : start + _SKETCHED]])
            for low in range(0, len(made.signatures), _STEP):
                yield _Part.of(made, low, min(low + _STEP, len(made.signatures)))

    def _add(self, part: _Part) -> list[Twin | None]:
        found = self._kept_near(part)
        free = np.array([i for i, twin in enumerate(found) if twin is None], np.int64)
        own = part.take(free)
        kept = np.ones(len(free), bool)
        near = self._inside(own)
        number = np.zeros(len(free), np.int64)
        count = self.size
        for i in range(len(free)):
            twins = [(how, -other) for other, how in near.get(i, ()) if kept[other]]
            if twins:
                how, other = max(twins)
                kept[i] = False
                found[int(free[i])] = Twin(int(number[-other]), how)
            else:
                number[i] = count
                count += 1
        self._keep(own.take(np.flatnonzero(kept)))
        return found

    def _inside(self, part: _Part) -> dict[int, list[tuple[int, float]]]:
        """Return, for each row of a part, the earlier rows near it with their similarities."""
        i, j = self._pairs(part, _run(part, 0))
        i, j = i[j < i], j[j < i]
        good = _agree(part.marks, part.marks, i, j) >= self.threshold - LOOSE
        i, j = i[good], j[good]
        near: dict[int, list[tuple[int, float]]] = {}
        how = _jaccard((part.grams, part.starts), i, (part.grams, part.starts), j)
        for row, other, value in zip(i.tolist(), j.tolist(), how.tolist(), strict=True):
            if value >= self.threshold - 1e-12:
                near.setdefault(row, []).append((other, value))
        return near

    def _kept_near(self, part: _Part) -> list[Twin | None]:
        found: list[Twin | None] = [None] * part.size
        best = np.zeros(part.size)
        for run in self._runs:
            i, j = self._pairs(part, run)
            good = _agree(part.marks, self._marks, i, j) >= self.threshold - LOOSE
            i, j = i[good], j[good]
            how = _jaccard((part.grams, part.starts), i, (self._grams, self._starts), j)
            for row, other, value in zip(i.tolist(), j.tolist(), how.tolist(), strict=True):
                twin = found[row]
                better = value > best[row] or (twin is not None and value == best[row] and other < twin.row)
                if value >= self.threshold - 1e-12 and better:
                    found[row], best[row] = Twin(other, value), value
        return found

    def _pairs(self, part: _Part, run: _Run) -> tuple[Ints, Ints]:
        """Return (row of the part, row of the run), each once, of texts that share a band."""
        order = part.order
        keys = part.keys.ravel()[order]
        low = np.searchsorted(run.keys, keys, "left")
        counts = np.searchsorted(run.keys, keys, "right") - low
        hit = np.flatnonzero(counts)
        low, counts = low[hit], counts[hit]
        rows = np.repeat(order[hit] % part.size, counts)
        at = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
        width = max(self.size, part.size, 1)
        pairs = each_once(rows.astype(np.int64) * width + run.rows[at])
        return pairs // width, pairs % width

    def _keep(self, part: _Part) -> None:
        if not part.size:
            return
        count, used = self.size + part.size, int(self._starts[self.size])
        grams = used + len(part.grams)
        self._grams = _room(self._grams, grams)
        self._starts, self._marks = _room(self._starts, count + 1), _room(self._marks, count)
        self._grams[used:grams] = part.grams
        self._starts[self.size + 1 : count + 1] = part.starts[1:] + used
        self._marks[self.size : count] = part.marks
        self._runs.append(_run(part, self.size))
        self.size = count
        while len(self._runs) > 1 and len(self._runs[-2].keys) <= 2 * len(self._runs[-1].keys):
            two, one = self._runs.pop(), self._runs.pop()
            keys = np.concatenate([one.keys, two.keys])
            order = np.argsort(keys, kind="stable")
            self._runs.append(_Run(keys[order], np.concatenate([one.rows, two.rows])[order]))


class _Part(NamedTuple):
    """Some texts: their n-grams as sorted 32-bit hashes, short signatures, and band keys [band, text]."""

    grams: NDArray[np.uint32]
    starts: Ints
    marks: NDArray[np.uint8]
    keys: Hashes
    order: Ints
    """Of all the keys, by value: a search in order stays where it is in memory."""

    @property
    def size(self) -> int:
        return len(self.marks)

    @classmethod
    def of(cls, made: Sketch, low: int, high: int) -> _Part:
        first, last = made.starts[low], made.starts[high]
        grams = (made.grams[first:last] >> _SHORT).astype(np.uint32)
        keys = made.bands[:, low:high] ^ _SALT
        marks = made.signatures[low:high].astype(np.uint8)
        return cls(grams, made.starts[low : high + 1] - first, marks, keys, np.argsort(keys.ravel(), kind="stable"))

    def take(self, rows: Ints) -> _Part:
        if len(rows) == self.size:
            return self
        counts = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        keys = self.keys[:, rows]
        order = np.argsort(keys.ravel(), kind="stable")
        return _Part(self.grams[_spans(self.starts, rows, counts)], starts, self.marks[rows], keys, order)


def _spans(starts: Ints, rows: Ints, counts: Ints) -> Ints:
    return (
        np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(starts[rows], counts)
    )


def _run(part: _Part, first: int) -> _Run:
    return _Run(part.keys.ravel()[part.order], (part.order % part.size + first).astype(np.int32))


def _agree(one: NDArray[np.uint8], two: NDArray[np.uint8], i: Ints, j: Ints) -> NDArray[np.float64]:
    parts = [(one[i[s : s + 50_000]] == two[j[s : s + 50_000]]).mean(1) for s in range(0, len(i), 50_000)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _jaccard(
    one: tuple[NDArray[np.uint32], Ints], i: Ints, two: tuple[NDArray[np.uint32], Ints], j: Ints
) -> NDArray[np.float64]:
    """Return the Jaccard similarity of the n-gram sets of each pair."""
    made = [np.zeros(0)]
    for s in range(0, len(i), 20_000):
        sides = []
        sizes = np.zeros(len(i[s : s + 20_000]), np.int64)
        for (grams, starts), rows in ((one, i[s : s + 20_000]), (two, j[s : s + 20_000])):
            counts = starts[rows + 1] - starts[rows]
            number = np.repeat(np.arange(len(rows), dtype=np.uint64), counts) << np.uint64(32)
            own = number | grams[_spans(starts, rows, counts)]
            sides.append(each_once(own))
            sizes += np.bincount((sides[-1] >> np.uint64(32)).astype(np.int64), minlength=len(rows))
        keys = np.sort(np.concatenate(sides))
        both = (keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)).astype(np.int64)
        shared = np.bincount(both, minlength=len(sizes))
        made.append(shared / (sizes - shared))
    return np.concatenate(made)


def _room(array: _Array, size: int) -> _Array:
    """Return the array with room for `size` rows."""
    if size <= len(array):
        return array
    made = np.zeros((max(size, len(array) * 3 // 2), *array.shape[1:]), array.dtype)
    made[: len(array)] = array
    return made
