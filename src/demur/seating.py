"""Which row of a running batch stands in which slot of the cache: rows join, leave and move up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from demur.lm import LM
from demur.mixing import Logits
from demur.rows import Rows
from demur.slots import Slots
from demur.tasks import Task

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Pairs = list[tuple[Logits, Tensor, Tensor]]
"""For each way to mix, which rows are mixed with which branch rows; the same tensor where these are the same rows."""


class Seating:
    """The live rows of a batch and their cache.

    The rows that are answered stand in the first slots, in the order of `live`; behind them stand the branches that
    are mixed in, in the order of `shadows`, each a task of `live` as well.
    """

    def __init__(self, lm: LM, rows: int, columns: int) -> None:
        self.lm = lm
        self.live: list[Task] = []
        self.shadows: list[Task] = []
        self.slots = Slots(lm.n_layers, rows, columns=columns)
        self.rows: Rows | None = None
        self.last: Int[Tensor, " row"] = torch.zeros(0, dtype=torch.long, device=lm.device)
        """The token that each row is fed next."""
        self.leads: Int[Tensor, " shadow"] = self.last
        """Which live row each branch belongs to."""
        self.pairs: Pairs = []

    @property
    def taken(self) -> int:
        """How many slots are in use."""
        return len(self.live) + len(self.shadows)

    def _make_way(self, count: int) -> None:
        """Free the slots right behind the live rows for `count` more of them."""
        live, beside = len(self.live), len(self.shadows)
        moved = min(count, beside)
        if not moved:
            return
        end = live + max(beside, count)
        self.slots.move(range(live, live + moved), range(end, end + moved), max(map(_beside, self.shadows[:moved])))
        self._reorder([*range(live), *range(live + moved, live + beside), *range(live, live + moved)])
        self.shadows = [*self.shadows[moved:], *self.shadows[:moved]]

    def _enter(self, fresh: Sequence[Task], beside: Sequence[Task], rows: Rows, tokens: Tensor) -> None:
        """Take in rows that were read into the slots behind the live ones, then branches of some of them."""
        live, before, count = len(self.live), len(self.shadows), len(fresh) + len(beside)
        self._join(rows, tokens)
        if before:
            end = live + before
            self._reorder([*range(live), *range(end, end + count), *range(live, end)])
        self.live += fresh
        self.shadows = [*beside, *self.shadows]
        self._pair()

    def _join(self, rows: Rows, tokens: Tensor) -> None:
        self.last = torch.cat([self.last[: self.taken], tokens])
        self.rows = rows if self.rows is None or not self.taken else self.rows.join(rows)

    def _reorder(self, order: Sequence[int]) -> None:
        pick = torch.tensor(order, dtype=torch.long, device=self.last.device)
        self.last = self.last[pick]
        if self.rows is not None:
            self.rows = self.rows.take(pick)

    def _pair(self) -> None:
        if not self.shadows and not self.pairs:
            return
        place = {id(task): i for i, task in enumerate(self.live)}
        self.leads = torch.tensor([place[id(t)] for t in self.shadows], dtype=torch.long, device=self.last.device)
        self.pairs = pairs(self.shadows, self.leads)

    def _drop(self, gone: Iterable[int]) -> None:
        """Free the slots of live rows and their branches, and those of branches that are not mixed in any more.

        The last rows move into the holes, so that live rows stay in front and their branches right behind.
        """
        missing, live = set(gone), len(self.live)
        ended = {id(self.live[i]) for i in missing}
        stay = [live + i for i, t in enumerate(self.shadows) if id(t) not in ended and t.beside is not None]
        kept = live - len(missing)
        order = self._close([i for i in range(live) if i not in missing], 0, kept)
        if self.shadows:
            order += self._close(stay, kept, kept + len(stay))
        everyone = [*self.live, *self.shadows]
        self.live = [everyone[i] for i in order[:kept]]
        self.shadows = [everyone[i] for i in order[kept:]]
        self._reorder(order)
        self._pair()
        if self.rows is not None:
            sizes = [*map(_size, self.live), *map(_beside, self.shadows)]
            self.rows.longest = max(sizes, default=1) - 1

    def _close(self, stay: Sequence[int], first: int, end: int) -> list[int]:
        """Move what stays into the slots from `first` to `end`; return which slot each of them came from."""
        here = set(stay)
        movers = [i for i in stay if not first <= i < end]
        holes = [i for i in range(first, end) if i not in here]
        if holes:
            everyone = [*map(_size, self.live), *map(_beside, self.shadows)]
            self.slots.move(movers, holes, max(everyone[i] for i in movers))
        came = dict(zip(holes, movers, strict=True))
        return [came.get(i, i) for i in range(first, end)]


def _size(task: Task) -> int:
    """Return the tokens of a row, prompt and answer."""
    return len(task.encoded.ids) + len(task.tokens)


def _beside(task: Task) -> int:
    """Return the tokens of a row's branch."""
    return len(task.told[task.bound.mixes].ids) + len(task.tokens)


def pairs(beside: Sequence[Task], leads: Int[Tensor, " shadow"]) -> Pairs:
    """Return which rows are mixed with which branch rows, by the way to mix."""
    found: dict[Logits, list[int]] = {}
    for index, task in enumerate(beside):
        if task.bound.plan.logits is not None:
            found.setdefault(task.bound.plan.logits, []).append(index)
    index_of = {op: torch.tensor(mine, device=leads.device) for op, mine in found.items()}
    both = [(op, leads[mine], mine) for op, mine in index_of.items()]
    return [(op, rows, rows if rows.equal(mine) else mine) for op, rows, mine in both]


def mixed(
    base: Float[Tensor, "row vocab"], beside: Float[Tensor, "shadow vocab"], how: Pairs
) -> Float[Tensor, "row vocab"]:
    """Return logits with those of the branches mixed in."""
    if not how:
        return base
    if len(how) == 1 and len(base) == len(beside) and how[0][1] is how[0][2]:
        return how[0][0].combine(base, beside)
    found = base.clone()
    for op, rows, others in how:
        found[rows] = op.combine(base[rows], beside[others])
    return found
