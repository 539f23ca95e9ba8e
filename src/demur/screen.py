"""Try many plans on the same prompts: what lies below the lowest edited block is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from demur.chats import Encoded
from demur.decoding import first_token_logits
from demur.lm import LM
from demur.plan import Intervention, Plan
from demur.residuals import batches
from demur.rows import Key, Rows
from demur.types import Prompt
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from jaxtyping import Float

BATCH_TOKENS = 8192


class Screen:
    """The first answer token of some prompts under any number of plans.

    The states at the place of a plan's first edit are kept for every token of the prompts (a few hundred), for each
    such place. Plans that bring a system text, soft tokens or branches, or change weights, are run whole.
    """

    def __init__(self, lm: LM, prompts: Sequence[Prompt], *, batch_tokens: int = BATCH_TOKENS) -> None:
        """Render the prompts and sort them into batches.

        Args:
            lm: the model; what is attached to it when `logits` is called is part of the prefix.
            prompts: what to read.
            batch_tokens: tokens per forward pass, padding included.
        """
        self.lm, self.prompts, self.batch_tokens = lm, tuple(prompts), batch_tokens
        self._orders: dict[str | None, list[list[int]]] = {}
        self._encoded: dict[str | None, list[Encoded]] = {}
        self._prefix: dict[Key, list[Tensor]] = {}
        self._base: Plan | None = None

    def logits(self, what: Plan | Intervention | None = None) -> Float[Tensor, "prompt vocab"]:
        """Return the raw logits of the first answer token, float32 on the CPU, in the order of the prompts.

        Raises:
            ConfigError: for a plan that does not fit the model.
        """
        plan = self.lm.plan_of(what)
        bound = self.lm.bound(plan)
        if bound.mixes or bound.foreign or bound.soft is not None:
            return first_token_logits(self.lm, self.prompts, what, batch_tokens=self.batch_tokens)
        edits = edits_of(plan) if what is not None else []
        key = plan.system
        place = None if edits or key != self.lm.plan_of(None).system else self._place(plan)
        made: list[Tensor] = [torch.empty(0)] * len(self.prompts)
        with swapped(self.lm, edits):
            for number, batch in enumerate(self._batches(key)):
                ids, rows, lengths = self.lm.batch([self._rendered(key)[i] for i in batch], [plan] * len(batch))
                hidden = self._forward(ids, rows, number, place)
                pick = torch.arange(len(batch), device=ids.device)
                rows_of = self.lm.head(hidden[pick, lengths - 1]).cpu()
                for index, row in zip(batch, rows_of, strict=True):
                    made[index] = row
        return torch.stack(made)

    def _place(self, plan: Plan) -> Key | None:
        """Return where a plan begins to act: before the lowest block it touches, or after it; None for the start."""
        bound = self.lm.bound(plan)
        touched = {key for key in bound.places if key[0] >= 0}
        lowest = min((layer for layer, _ in touched), default=self.lm.n_layers - 1)
        end: Key = (lowest, "resid_post")
        if all(key == end for key in touched if key[0] == lowest) and all(
            key == end for key in (*bound.probes, *bound.sources)
        ):
            return end
        return (lowest, "resid_pre") if lowest else None

    def _forward(self, ids: Tensor, rows: Rows, number: int, place: Key | None) -> Tensor:
        """Run one batch from a place on."""
        if place is None:
            return self.lm.forward(ids, rows)
        layer, point = place
        states = self._states(place)[number]
        if point == "resid_pre":
            return self.lm.forward(ids, rows, first=layer, states=states)
        for action in (rows.readers().get(place), rows.edits(ids.shape[1]).get(place)):
            states = states if action is None else action(states)
        rows.known = True
        return self.lm.forward(ids, rows, first=layer + 1, states=states)

    def _rendered(self, system: str | None) -> list[Encoded]:
        if system not in self._encoded:
            self._encoded[system] = self.lm.chats.encode(self.prompts, system=system)
        return self._encoded[system]

    def _batches(self, key: str | None) -> list[list[int]]:
        if key not in self._orders:
            lengths = [len(e.ids) for e in self._rendered(key)]
            order = sorted(range(len(lengths)), key=lengths.__getitem__)
            runs = batches([lengths[i] for i in order], self.batch_tokens)
            self._orders[key] = [[order[i] for i in run] for run in runs]
        return self._orders[key]

    def _states(self, place: Key) -> list[Tensor]:
        """Return the stream at a place for every batch, computed on first use."""
        base = self.lm.plan_of(None)
        if base is not self._base:
            self._prefix, self._base = {}, base
        if place not in self._prefix:
            kept: list[Tensor] = []

            def keep(h: Tensor) -> Tensor:
                kept.append(h)
                return h

            for batch in self._batches(base.system):
                ids, rows, _ = self.lm.batch([self._rendered(base.system)[i] for i in batch], [Plan()] * len(batch))
                self.lm.forward(ids, rows, readers={place: keep}, last=place[0])
            self._prefix[place] = kept
        return self._prefix[place]
