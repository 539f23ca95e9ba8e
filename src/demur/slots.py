"""The key-value cache of the decode loop: one slot per row, one column per absolute position.

Every layer keeps every key, also in models with a sliding window: the window is enforced by the mask, which is
built from absolute positions. So a row may be moved, dropped or replaced at any time, whatever the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

STEP, LEAST = 8, 16
"""Columns are read in multiples of STEP, and at least LEAST of them: then the kernels of CPUs add up a row's numbers
in the same order whatever its neighbours' lengths."""


def rounded(columns: int) -> int:
    """Return `columns` rounded up to a whole number of steps."""
    return max(LEAST, -(-columns // STEP) * STEP)


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """The keys and values of one layer: `[slot, head, column, head_dim]`, grown as needed."""

    is_sliding = False

    def __init__(self, slots: Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate room for every slot, with the heads and width of the states given."""
        self.keys = self._room(key_states)
        self.values = self._room(value_states)
        self.is_initialized = True

    def _room(self, states: Tensor) -> Tensor:
        shape = (self.slots.rows, states.shape[1], self.slots.columns, states.shape[3])
        return states.new_zeros(shape)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the states of the rows in hand; return everything those rows may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._store(self.keys, key_states), self._store(self.values, value_states)

    def _store(self, kept: Tensor | None, states: Tensor) -> Tensor:
        if kept is None:  # cannot happen: update allocates first
            return states
        view, tokens = self.slots, states.shape[2]
        first, last = view.first, view.first + states.shape[0]
        if view.fresh:
            kept[first:last, :, :tokens] = states
            return states
        if tokens == 1:
            kept[view.index, :, view.start] = states[:, :, 0]
        else:
            columns = view.start[:, None] + torch.arange(tokens, device=states.device)
            kept[view.index[:, None], :, columns] = states.transpose(1, 2)
        return kept[first:last, :, : view.read]

    def grow(self, rows: int, columns: int) -> None:
        """Make room for so many slots and columns."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            if old is not None:
                new = old.new_zeros((rows, old.shape[1], columns, old.shape[3]))
                new[: len(old), :, : old.shape[2]] = old
                setattr(self, name, new)

    def move(self, sources: Tensor, targets: Tensor, columns: int) -> None:
        """Copy the first `columns` columns of slots `sources` over slots `targets`."""
        for kept in (self.keys, self.values):
            if kept is not None:
                part = kept[:, :, :columns]
                part[targets] = part[sources]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns the coming forward attends to, and the first of them."""
        return (query_length if self.slots.fresh else self.slots.read), 0

    def get_seq_length(self) -> int:
        """Return 0 before a prefill and the number of readable columns after it."""
        return 0 if self.slots.fresh else self.slots.read

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1


class Slots(Cache):
    """A cache whose rows come and go: `aim` names the slots and positions that the next forward writes."""

    def __init__(self, layers: int, rows: int, columns: int = 64) -> None:
        """Make an empty cache.

        Args:
            layers: number of blocks of the model.
            rows: number of slots.
            columns: tokens per slot to make room for at first.
        """
        self.rows, self.columns = rows, rounded(columns)
        self.first, self.fresh, self.read = 0, True, 0
        self.index = self.start = torch.zeros(0, dtype=torch.long)
        self.kept = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.kept))

    def aim(self, first: int, start: Tensor, tokens: int, *, longest: int) -> None:
        """Point at the rows of the next forward.

        Args:
            first: slot of the first row; the others follow it.
            start: Long[row], how many tokens each row has in the cache already.
            tokens: tokens per row that the forward brings.
            longest: the largest of `start`.
        """
        self.first, self.start, self.fresh = first, start, longest == 0
        self.index = torch.arange(first, first + len(start), device=start.device)
        self.read = rounded(longest + tokens)
        if self.read > self.columns or first + len(start) > self.rows:
            if self.read > self.columns:
                self.columns = rounded(max(self.read, 2 * self.columns))
            self.rows = max(self.rows, first + len(start))
            for layer in self.kept:
                layer.grow(self.rows, self.columns)

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """Copy the first `columns` columns of slots over as many others, none of which is a source, in every layer."""
        device = self.start.device
        here, there = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for layer in self.kept:
            layer.move(here, there, columns)
