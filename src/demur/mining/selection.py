"""Choosing among scored prompts: near the boundary, spread out, by category and language; and the controls.

For each (language, category) the rule ranks the refused prompts and the answered ones apart. Of the refused, the best
ranked are a pool, from which greedy maximal marginal relevance (Carbonell and Goldstein, 1998) takes

    argmax  balance · s(x) − (1 − balance) · max over chosen y of cosine(x, y)

with s = exp(−d²/2) for the boundary, and the share of pool members ranked no better for the other rules. A share of
the refused may come from the *deep* stratum, the quarter of them that lies farthest. Answered prompts (anchors) fill
up to their share; for the boundary only those with d in [−1, 0]. Every control runs through the same lines with
another ranking, so that size and share of refused prompts are equal by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.embeddings import Shingles
from demur.errors import ConfigError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]
Texts = Callable[[Rows], list[str]]
"""Reads the texts of some rows, wherever they are kept."""
Rule = Literal["boundary", "random_refused", "random_all", "hardest", "far", "near_harmful", "words", "trigger"]
RULES: Mapping[str, str] = {
    "boundary": "nearest to the boundary: smallest |d|",
    "random_refused": "at random, with the same share of refused prompts",
    "random_all": "at random among all, whatever the model did",
    "hardest": "highest probability of refusal",
    "far": "farthest from the boundary: largest |d|",
    "near_harmful": "nearest in wording to a harmful prompt",
    "words": "nearest to the boundary of a classifier that reads words alone, fitted on other groups",
    "trigger": "sharing the given trigger spans",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How many prompts are chosen, and by what."""

    rule: Rule = "boundary"
    per_category: int = 300
    """Benign prompts for each language and category."""
    refused: float = 0.8
    """Least share of them that the model refuses."""
    deep: float = 0.0
    """Share of the refused ones that is drawn from their farthest quarter."""
    balance: float = 0.7
    """Weight of the score against diversity; 1 takes the best ranked as they come."""
    pool: int = 5
    """The pool holds so many times the number wanted."""
    twins: int = 1000
    """Harmful twins for each language."""
    dev: float = 0.1
    """Share of groups that go to the dev split, where no prompts that the boundary was calibrated on do."""
    triggers: tuple[str, ...] = ()
    """Spans for the rule `trigger`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"selection rule {self.rule!r} is not known; allowed: {', '.join(RULES)}")
        for name in ("refused", "deep", "balance", "dev"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"selection: {name} is {getattr(self, name)}; it must be from 0 to 1")
        for name, least in (("per_category", 1), ("pool", 1), ("twins", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"selection: {name} is {getattr(self, name)}; it must be at least {least}")
        if self.rule == "trigger" and not self.triggers:
            raise ConfigError("selection: rule trigger needs triggers=[…], the spans that prompts should share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Columns of all scored benign prompts; texts are read when they are needed."""

    d: Floats
    r: Floats
    refused: Flags
    cell: NDArray[np.int64]
    """Number of the (language, category) of each row."""
    texts: Texts
    group: Rows | None = None
    """Number of each row's group, for the rule `words`; None: every row is one of its own."""
    harmful: Sequence[str] = ()
    """Texts of harmful prompts, for the rule `near_harmful`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Rows chosen, with the stratum of each, and what was missing."""

    rows: Rows
    strata: tuple[str, ...]
    """`near`, `deep` or `anchor` for each row; for a control its ranking takes the place of nearness."""
    wanted: int
    short: Mapping[int, int] = field(default_factory=dict)
    """Cell -> prompts it could not fill."""


def choose(scored: Scored, how: Selection) -> Chosen:
    """Choose benign prompts from every cell.

    Raises:
        DataError: for the rule `words`, where all prompts were refused or none.
    """
    rank = _Ranking(scored, how)
    rows: list[int] = []
    strata: list[str] = []
    short: dict[int, int] = {}
    cells = np.unique(scored.cell).tolist()
    for cell in cells:
        members = np.flatnonzero(scored.cell == cell)
        own = _cell(scored, how, rank, members)
        for stratum, taken in own.items():
            rows += taken.tolist()
            strata += [stratum] * len(taken)
        missing = how.per_category - sum(map(len, own.values()))
        if missing:
            short[cell] = missing
    return Chosen(
        rows=np.array(rows, np.int64), strata=tuple(strata), wanted=how.per_category * len(cells), short=short
    )


def nearest(d: Floats, count: int) -> Rows:
    """Return the rows with the smallest |d|, nearest first, ties by row."""
    return np.argsort(np.abs(d), kind="stable")[:count]


def band(d: Floats, refused: Flags, width: float = 1.0) -> float | None:
    """Return the share of refused prompts with |d| <= width; None where none was refused."""
    return float((np.abs(d[refused]) <= width).mean()) if refused.any() else None


def _cell(scored: Scored, how: Selection, rank: _Ranking, members: Rows) -> dict[str, Rows]:
    """Choose in one cell: (stratum -> rows)."""
    if how.rule == "random_all":
        taken = rank.random.permutation(members)[: how.per_category]
        flags = scored.refused[taken]
        return {"near": taken[flags], "anchor": taken[~flags]}
    refused, answered = members[scored.refused[members]], members[~scored.refused[members]]
    beside = answered[(scored.d[answered] <= 0) & (scored.d[answered] >= -1)]
    if how.rule == "boundary":
        answered = beside
    quota = how.per_category - min(len(beside), int(how.per_category * (1 - how.refused) + 1e-9))
    quota = min(quota, len(refused))
    anchors = min(how.per_category - quota, len(beside))
    if how.refused:
        anchors = min(anchors, int(quota * (1 - how.refused) / how.refused + 1e-9))
    deep = rank.deep(refused, round(quota * how.deep))
    near = rank.take(np.setdiff1d(refused, deep), quota - len(deep))
    return {"near": near, "deep": deep, "anchor": rank.take(answered, anchors)}


class _Ranking:
    """Ranks rows by a rule, and takes the best of them with diversity."""

    def __init__(self, scored: Scored, how: Selection) -> None:
        self.scored, self.how = scored, how
        self.random = np.random.default_rng(how.seed)
        self.embed = Shingles(dimension=512)
        self._words = None
        if how.rule == "words":
            from demur.mining.words import out_of_fold

            group = np.arange(len(scored.d)) if scored.group is None else scored.group
            self._words = out_of_fold(scored.texts, scored.refused, group, seed=how.seed)
        self._harmful = self.embed(scored.harmful[:2000]) if how.rule == "near_harmful" and scored.harmful else None

    def take(self, rows: Rows, count: int) -> Rows:
        """Return `count` of the rows, best first."""
        count = min(count, len(rows))
        if count <= 0:
            return np.zeros(0, np.int64)
        if self.how.rule == "random_refused":
            return self.random.permutation(rows)[:count]
        cost = self.cost(rows)
        order = np.argsort(cost, kind="stable")[: count * self.how.pool]
        pool = rows[order]
        if self.how.rule == "boundary":
            score = np.exp(-(self.scored.d[pool] ** 2) / 2)
        else:
            score = 1 - np.searchsorted(np.sort(cost[order]), cost[order]) / max(1, len(order))
        return pool[relevant(score, self.embed(self.scored.texts(pool)), count, self.how.balance)]

    def deep(self, rows: Rows, count: int) -> Rows:
        """Return `count` rows drawn from the quarter that lies farthest from the boundary."""
        if count <= 0 or not len(rows):
            return np.zeros(0, np.int64)
        far = np.argsort(-np.abs(self.scored.d[rows]), kind="stable")[: max(1, len(rows) // 4)]
        return np.sort(self.random.permutation(rows[far])[:count])

    def cost(self, rows: Rows) -> Floats:
        """Return what the rule ranks by, least first."""
        rule, scored = self.how.rule, self.scored
        if rule == "boundary":
            return np.abs(scored.d[rows])
        if rule == "far":
            return -np.abs(scored.d[rows])
        if rule == "hardest":
            return -scored.r[rows]
        made = [np.zeros(0)]
        for start in range(0, len(rows), 2048):
            part = rows[start : start + 2048]
            if rule == "words" and self._words is not None:
                made.append(np.abs(self._words(part)))
                continue
            texts = scored.texts(part)
            if rule == "near_harmful" and self._harmful is not None:
                made.append(-(self.embed(texts) @ self._harmful.T).max(1).astype(np.float64))
            else:
                made.append(np.array([-_shared(text, self.how.triggers) for text in texts]))
        return np.concatenate(made)


def relevant(score: Floats, vectors: NDArray[np.float32], count: int, balance: float) -> Rows:
    """Return `count` rows by greedy maximal marginal relevance, in the order taken; ties by row.

    Args:
        score: from 0 to 1, shape (row,).
        vectors: of length 1, shape (row, dimension).
        count: rows wanted.
        balance: weight of the score; 1 − balance is that of the cosine with the nearest row taken.
    """
    taken: list[int] = []
    closest = np.zeros(len(score))
    free = np.ones(len(score), bool)
    for _ in range(min(count, len(score))):
        gain = np.where(free, balance * score - (1 - balance) * closest, -np.inf)
        best = int(np.argmax(gain))
        taken.append(best)
        free[best] = False
        if balance < 1:
            closest = np.maximum(closest, vectors @ vectors[best])
    return np.array(taken, np.int64)


def _shared(text: str, triggers: Sequence[str]) -> float:
    low = text.casefold()
    return float(sum(span.casefold() in low for span in triggers))
