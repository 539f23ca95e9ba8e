"""Sets of hashed character n-grams of texts, their minhash signatures, and exact Jaccard similarities.

See `demur.dedup` for what is compared and why; `demur.mining.near` does the same over streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
_Number = TypeVar("_Number", np.int64, np.uint64)

BANDS, ROWS = 32, 4
BITS = 44
"""Bits of an n-gram's hash; the bits above hold the number of a text or pair."""
LOOSE = 0.15
"""How far below the threshold a signature's estimate (standard error at most .04) may lie."""
_TEXTS = 50_000
"""Texts whose n-grams are made at once."""
_BASE, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


class Sketch(NamedTuple):
    """The n-grams of texts as sorted sets of hashes, one after the other, and their minhash signatures."""

    grams: Hashes
    starts: Ints
    """Where each text's n-grams begin, and the end."""
    signatures: NDArray[np.uint32]
    """[text, 128]"""
    bands: Hashes
    """[band, text]"""


def jaccard(one: Sketch, two: Sketch, i: Ints, j: Ints) -> NDArray[np.float64]:
    """Return the exact Jaccard similarity of the n-gram sets of each pair."""
    made = [np.zeros(0)]
    for s in range(0, len(i), 20_000):
        rows, others = i[s : s + 20_000], j[s : s + 20_000]
        keys = np.sort(np.concatenate([_numbered(one, rows), _numbered(two, others)]))
        both = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(BITS)
        shared = np.bincount(both.astype(np.int64), minlength=len(rows))
        sizes = (one.starts[rows + 1] - one.starts[rows]) + (two.starts[others + 1] - two.starts[others])
        made.append(shared / (sizes - shared))
    return np.concatenate(made)


def _numbered(sketch: Sketch, rows: Ints) -> Hashes:
    """Return the n-grams of the rows, each with its row's number in the bits above the hash."""
    counts = sketch.starts[rows + 1] - sketch.starts[rows]
    number = np.repeat(np.arange(len(rows)), counts)
    at = np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(sketch.starts[rows], counts)
    keyed: Hashes = (number.astype(np.uint64) << np.uint64(BITS)) | sketch.grams[at]
    return keyed


def sketch(texts: Sequence[str]) -> Sketch:
    """Make the n-gram sets and signatures of folded texts."""
    grams, sizes, signatures = [], [], []
    for low, high in pairwise([*range(0, len(texts), _TEXTS), len(texts)]):
        keys = _grams(texts[low:high])
        starts = np.searchsorted(keys >> np.uint64(BITS), np.arange(high - low, dtype=np.uint64))
        hashes = keys & np.uint64((1 << BITS) - 1)
        grams.append(hashes)
        sizes.append(np.diff(np.append(starts, len(keys))))
        signatures.append(_minhash(hashes, starts))
    signature = np.concatenate(signatures)
    odd = np.random.default_rng(1).integers(0, 2**62, ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    bands = (signature.reshape(-1, BANDS, ROWS) * odd).sum(axis=2, dtype=np.uint64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    return Sketch(np.concatenate(grams), starts, signature, np.ascontiguousarray(bands.T))


def _grams(texts: Sequence[str]) -> Hashes:
    """Return the sorted distinct (text number, n-gram hash) of folded texts; each text has at least one."""
    framed = [f" {text} " if len(text) > 1 else f"  {text}  " for text in texts]
    lengths = np.array([len(text) for text in framed])
    points = np.frombuffer("".join(framed).encode("utf-32-le", "surrogatepass"), np.uint32)
    number = np.repeat(np.arange(len(texts)), lengths)
    dense = (points >= 0x3040) & (points <= 0x9FFF) | (points >= 0xAC00) & (points <= 0xD7AF)
    letters = np.bincount(number, points != 32, len(texts))
    short = (2 * np.bincount(number, dense, len(texts)) > letters)[number]
    padded = np.append(points.astype(np.uint64), np.zeros(3, np.uint64))
    hashes = padded[:-3].copy()
    with np.errstate(over="ignore"):
        for k, power in ((1, _BASE), (2, _BASE * _BASE), (3, _BASE * _BASE * _BASE)):
            longer = hashes + padded[k : len(padded) - 3 + k] * power
            hashes = longer if k == 1 else np.where(short, hashes, longer)
        hashes = (hashes ^ (hashes >> np.uint64(31))) * _MIX
    ends = np.cumsum(lengths)[number]
    inside = np.arange(len(points)) + np.where(short, 2, 4) <= ends
    mixed = (hashes[inside] ^ (hashes[inside] >> np.uint64(29))) >> np.uint64(64 - BITS)
    return each_once((number[inside].astype(np.uint64) << np.uint64(BITS)) | mixed)


def each_once(values: NDArray[_Number]) -> NDArray[_Number]:
    """Return the distinct values in order."""
    ranked = np.sort(values)
    once: NDArray[_Number] = ranked[np.append(np.ones(min(1, len(ranked)), bool), ranked[1:] != ranked[:-1])]
    return once


def _minhash(hashes: Hashes, starts: Ints) -> NDArray[np.uint32]:
    """Return [text, 128] least values of 128 fixed hash functions over each text's n-grams."""
    draw = np.random.default_rng(0)
    factors = draw.integers(0, 2**31, BANDS * ROWS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    shifts = draw.integers(0, 2**32, BANDS * ROWS, dtype=np.uint32)
    short = (hashes >> np.uint64(BITS - 32)).astype(np.uint32)
    made = np.empty((len(starts), BANDS * ROWS), np.uint32)
    for k, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
        made[:, k] = np.minimum.reduceat(short * factor + shift, starts)
    return made
