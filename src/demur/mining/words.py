"""A classifier of refusal that reads the prompt's words alone: what a coordinate must beat."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from demur.errors import DataError

_BUCKETS = 1 << 14
_MOST = 20_000
"""Prompts that it is fitted on."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")

FOLDS = 5

Margin = Callable[[Sequence[str]], NDArray[np.float64]]


def fit(
    texts: Callable[[NDArray[np.int64]], list[str]], refused: NDArray[np.bool_], *, seed: int = 0, epochs: int = 5
) -> Margin:
    """Fit a logistic regression on hashed words and word pairs by AdaGrad; return its margin for texts.

    Args:
        texts: reads the texts of rows.
        refused: what the model did with each row.
        seed: of the sample and its order.
        epochs: passes over the sample.

    Raises:
        DataError: where all were refused or none: there is nothing to tell apart.
    """
    if refused.all() or not refused.any():
        raise DataError(f"rule words: {int(refused.sum())} of {len(refused)} prompts are refused; both are needed")
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(len(refused))[:_MOST])
    held = [_features(text) for text in texts(rows)]
    target = refused[rows].astype(np.float64)
    weight, square, bias = np.zeros(_BUCKETS), np.full(_BUCKETS, 1e-2), 0.0
    for _ in range(epochs):
        for k in random.permutation(len(held)).tolist():
            own = held[k]
            error = 1 / (1 + np.exp(-(weight[own].sum() + bias))) - target[k]
            step = error + 1e-4 * weight[own]
            square[own] += step**2
            weight[own] -= 0.5 * step / np.sqrt(square[own])
            bias -= 0.02 * error

    def margin(given: Sequence[str]) -> NDArray[np.float64]:
        return np.array([weight[_features(text)].sum() + bias for text in given], np.float64)

    return margin


def out_of_fold(
    texts: Callable[[NDArray[np.int64]], list[str]],
    refused: NDArray[np.bool_],
    group: NDArray[np.int64],
    *,
    seed: int = 0,
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Fit one classifier for each fifth of the groups, on the others; return the margins of rows.

    Args:
        texts: reads the texts of rows.
        refused: what the model did with each row.
        group: a whole number from 0 for each row's group: rows that share one are never fitted on for each other.
        seed: of the samples and their order.

    Raises:
        DataError: where outside of some fold all were refused or none.
    """
    fold = group % FOLDS
    made = []
    for number in range(FOLDS):
        others = np.flatnonzero(fold != number)
        made.append(fit(lambda rows, at=others: texts(at[rows]), refused[others], seed=seed))  # type: ignore[misc]

    def margin(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        found = np.zeros(len(rows))
        for number in np.unique(fold[rows]).tolist():
            own = np.flatnonzero(fold[rows] == number)
            found[own] = made[number](texts(rows[own]))
        return found

    return margin


def _features(text: str) -> NDArray[np.int64]:
    words = _WORD.findall(text.casefold())
    pairs = [f"{one} {two}" for one, two in pairwise(words)]
    hashed = {zlib.crc32(w.encode("utf-8", "surrogatepass")) % _BUCKETS for w in (*words, *pairs)}
    return np.array(sorted(hashed), np.int64)
