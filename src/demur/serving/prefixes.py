"""What was computed for the beginnings of earlier prompts: keys and values that later prompts need not compute again.

A token's keys and values hang on the tokens before it and on what its plan does to them, and on nothing else. So they
are kept by plan and branch (a plan at another strength is another plan), in blocks of tokens, each filed under all
tokens up to its end. Prompts that begin alike share their blocks, and what was not used for longest goes first.

Not shared, since there something else decides: the tokens from the end of the user's last message on (positions that
plans name relative to a prompt's end lie there), and every prompt of a plan whose gates or sources read the whole
prompt, or that brings soft tokens. Blocks are the very numbers that were computed; the tokens after them are then read
in a pass of another shape, whose last bits may differ: in float32 logits agree to 1e-5, not bit for bit.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from demur.binding import Bound
from demur.chats import Encoded
from demur.slots import Slots

EXTRA = "local"
BLOCK = 16
"""Tokens of a block."""
LEAST = 2
"""Blocks that make it worth to read a prompt in two parts."""


class Prefixes:
    """Blocks of keys and values, up to so many bytes."""

    def __init__(self, most: int) -> None:
        """Keep at most `most` bytes; 0 keeps nothing."""
        self.most, self.size, self.reused = most, 0, 0
        self._blocks: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        self._marks: WeakKeyDictionary[Bound, str] = WeakKeyDictionary()

    def length(self, encoded: Encoded, plan: Bound, branch: int) -> int:
        """Return how many first tokens of a prompt are known; 0 where too few are, or the plan cannot share them."""
        known = 0
        for name in self._names(encoded, plan, branch):
            if name not in self._blocks:
                break
            known += 1
        return known * BLOCK if known >= LEAST else 0

    def fill(self, slots: Slots, slot: int, encoded: Encoded, plan: Bound, branch: int, tokens: int) -> None:
        """Write what is known of a prompt's first `tokens` tokens into a slot."""
        names = list(self._names(encoded, plan, branch))[: tokens // BLOCK]
        blocks = [self._blocks[name] for name in names]
        for index, layer in enumerate(slots.kept):
            keys, values = (torch.cat([block[2 * index + part] for block in blocks], 1) for part in (0, 1))
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            for kept, states in ((layer.keys, keys), (layer.values, values)):
                if kept is not None:
                    kept[slot, :, :tokens] = states
        self._touch(names)
        self.reused += tokens

    def keep(self, slots: Slots, slot: int, encoded: Encoded, plan: Bound, branch: int) -> None:
        """Take over what a slot holds of a prompt that was read into it."""
        names = list(self._names(encoded, plan, branch))
        for index, name in enumerate(names):
            if name in self._blocks:
                continue
            here = slice(index * BLOCK, (index + 1) * BLOCK)
            pairs = [(layer.keys, layer.values) for layer in slots.kept]
            made = [states[slot, :, here].clone() for pair in pairs for states in pair if states is not None]
            self._blocks[name] = made
            self.size += _bytes(made)
        self._touch(names)
        while self.size > self.most:
            _, gone = self._blocks.popitem(last=False)
            self.size -= _bytes(gone)

    def _names(self, encoded: Encoded, plan: Bound, branch: int) -> Iterator[bytes]:
        """Give the names of the blocks of a prompt that can be shared, each a digest of all that decides it."""
        if not self.most or not shareable(plan):
            return
        end = min(encoded.instruction, encoded.prompt - 1, len(encoded.ids) - 1)
        if plan not in self._marks:
            self._marks[plan] = plan.plan.fingerprint
        name = f"{self._marks[plan]} {branch}".encode()
        for start in range(0, end - BLOCK + 1, BLOCK):
            tokens = repr(encoded.ids[start : start + BLOCK]).encode()
            name = hashlib.blake2b(name + tokens, digest_size=16).digest()
            yield name

    def _touch(self, names: Sequence[bytes]) -> None:
        """Mark blocks as used, a beginning later than what follows it: without it that is of no use."""
        for name in reversed(names):
            if name in self._blocks:
                self._blocks.move_to_end(name)


def shareable(plan: Bound) -> bool:
    """Say whether a plan treats a token by what stands before it alone."""
    return not plan.asks and plan.soft is None and all(site.source == "self" for site in plan.plan.sites)


def _bytes(block: Sequence[Tensor]) -> int:
    return sum(states.numel() * states.element_size() for states in block)
