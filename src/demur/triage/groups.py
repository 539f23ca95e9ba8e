"""What refused prompts have in common: trigger words, and topics.

Triggers: words over-represented in refused against answered prompts, by the log-odds ratio with an informative
Dirichlet prior (B. L. Monroe, M. P. Colaresi and K. M. Quinn (2008), Political Analysis 16:372-403, eq. 15-22); a word
counts once per prompt. Topics: leader clustering of the refused prompts by the cosine of their weighted words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR = 500.0
"""Words that the prior is worth, spread as in all prompts together."""
Z = 2.58
"""Least z-score of a trigger: two-sided 99 %."""
LEAST = 3
"""Refused prompts that a trigger or a topic must have."""
TRIGGERS = 15
TOPICS = 12
ALIKE = 0.3
"""Cosine from which two prompts belong to one topic."""
COMMON = 0.05
"""Share of all prompts from which a word says nothing about the topic."""
VOCABULARY = 4096
"""Words that topics are told apart by."""
DRAWN = 1500
"""Refused prompts that topics are found among; the others join the nearest."""

_WORD = re.compile(r"[^\W\d_]{2,}(?:'[^\W\d_]+)?")
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{2,}")
_MARK = re.compile(r"\[(?:email|link|number|secret|address|phone)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A word that refused prompts have more often than answered ones."""

    word: str
    z: float
    refused: int
    """Refused prompts with the word."""
    answered: int
    """Answered prompts with it."""
    rows: tuple[int, ...]
    """Refused prompts (positions) of which it is the strongest trigger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Refused prompts that are about the same."""

    words: tuple[str, ...]
    """Words that set it apart, the heaviest first."""
    rows: tuple[int, ...]
    """Positions of its prompts."""


def words(text: str) -> frozenset[str]:
    """Return the words of a text: letters, folded; two-character pieces where a script has no blanks."""
    text = _MARK.sub(" ", text).casefold()
    found = set(_WORD.findall(_HAN.sub(" ", text)))
    return frozenset(found | {run[i : i + 2] for run in _HAN.findall(text) for i in range(len(run) - 1)})


def triggers(refused: Sequence[str], answered: Sequence[str]) -> tuple[Trigger, ...]:
    """Return the words that refused prompts have more often than answered ones, the surest first.

    Args:
        refused: texts of refused prompts.
        answered: texts of prompts that were answered.
    """
    sets = [words(text) for text in refused]
    here, there = Counter(w for s in sets for w in s), Counter(w for text in answered for w in words(text))
    n, m = sum(here.values()), sum(there.values())
    if not n or not m:
        return ()
    scores = {w: _z((c, n), (there[w], m)) for w, c in here.items() if c >= LEAST}
    best = sorted((w for w, z in scores.items() if z >= Z), key=lambda w: (-scores[w], w))[:TRIGGERS]
    own: dict[str, list[int]] = {w: [] for w in best}
    for at, have in enumerate(sets):
        if first := next((w for w in best if w in have), None):
            own[first].append(at)
    return tuple(Trigger(word=w, z=scores[w], refused=here[w], answered=there[w], rows=tuple(own[w])) for w in best)


def _z(here: tuple[int, int], there: tuple[int, int]) -> float:
    """Monroe's z-score of a word: (count, all words) among refused prompts against among answered ones."""
    share = (here[0] + there[0]) / (here[1] + there[1])
    prior = PRIOR * share

    def logit(count: int, total: int) -> float:
        return math.log((count + prior) / (total + PRIOR - count - prior))

    return (logit(*here) - logit(*there)) / math.sqrt(1 / (here[0] + prior) + 1 / (there[0] + prior))


def topics(texts: Sequence[str], others: Sequence[str] = (), seed: int = 0) -> tuple[Topic, ...]:
    """Group texts that share rare words, the largest group first; what fits nowhere is in no group.

    Args:
        texts: what to group.
        others: more texts of the same traffic, which say how rare a word is.
        seed: seed of the sample that groups are found in where there are more than `DRAWN` texts.
    """
    sets = [words(text) for text in texts]
    counts, here = Counter(w for text in others for w in words(text)), Counter(w for s in sets for w in s)
    counts.update(here)
    n = len(texts) + len(others)
    common = sorted(here.items(), key=lambda item: (-item[1], item[0]))
    vocabulary = [w for w, c in common if c >= 2 and counts[w] <= max(LEAST, COMMON * n)][:VOCABULARY]
    if not vocabulary:
        return ()
    vectors = _vectors(sets, {w: i for i, w in enumerate(vocabulary)}, counts, n)
    member = _leaders(vectors, np.random.default_rng(seed))
    found = []
    for group in range(int(member.max()) + 1):
        rows = np.flatnonzero(member == group)
        if len(rows) >= LEAST:
            found.append(Topic(words=_heaviest(vectors[rows], vocabulary), rows=tuple(map(int, rows))))
    return tuple(sorted(found, key=lambda t: (-len(t.rows), t.words))[:TOPICS])


def _vectors(
    sets: Sequence[frozenset[str]], place: dict[str, int], counts: Counter[str], n: int
) -> NDArray[np.float32]:
    """Unit vectors of squared inverse document frequencies, shape (texts, vocabulary)."""
    made = np.zeros((len(sets), len(place)), dtype=np.float32)
    for row, have in enumerate(sets):
        for w in have & place.keys():
            made[row, place[w]] = math.log(1 + n / counts[w]) ** 2
    length = np.linalg.norm(made, axis=1, keepdims=True)
    np.divide(made, length, out=made, where=length > 0)
    return made


def _leaders(vectors: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return each row's group, −1 for none: the row with most free neighbours leads, until none has enough."""
    n = len(vectors)
    drawn = np.sort(rng.choice(n, DRAWN, replace=False)) if n > DRAWN else np.arange(n)
    near = vectors[drawn] @ vectors[drawn].T >= ALIKE
    free = np.ones(len(drawn), dtype=bool)
    leaders: list[int] = []
    while free.any():
        size = (near & free).sum(axis=1) * free
        first = int(size.argmax())
        if size[first] < LEAST:
            break
        leaders.append(int(drawn[first]))
        free &= ~near[first]
    if not leaders:
        return np.full(n, -1)
    likeness = vectors @ vectors[leaders].T
    return np.where(likeness.max(axis=1) >= ALIKE, likeness.argmax(axis=1), -1)


def _heaviest(vectors: NDArray[np.float32], vocabulary: Sequence[str]) -> tuple[str, ...]:
    """Return the four words with the largest weight in the mean vector."""
    order = np.argsort(-vectors.mean(axis=0), kind="stable")[:4]
    return tuple(vocabulary[int(i)] for i in order)
