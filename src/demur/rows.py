"""The rows of a batch: each row's plan, phase, absolute position and gates, and the edits that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from demur.binding import EMBEDDING, Part, order
from demur.binding import Action as Action
from demur.binding import Bound as Bound
from demur.binding import Key as Key
from demur.binding import bind as bind
from demur.errors import ModelError
from demur.plan import check_positions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from demur.chats import Encoded

Kept = tuple[Bound, tuple[int, int]]
"""What a kept state belongs to: a plan, and the number of one of its parts."""


@dataclass(eq=False)
class Rows:
    """What the forward pass must know of each row besides its tokens."""

    plans: tuple[Bound, ...]
    which: Int[Tensor, " row"]
    """Index into `plans` for each row."""
    facts: Int[Tensor, "row fact"]
    """Branch, length of the prompt, end of the instruction, tokens given, place of soft tokens."""
    start: Int[Tensor, " row"]
    """Absolute position of the first token that the next forward brings."""
    gates: Float[Tensor, "row value"]
    """The gates' scores while they are read, their values once `known`."""
    kept: dict[Kept, Float[Tensor, "row d_model"]] = field(default_factory=dict)
    """States that stand for a row as long as it lives: the sources of its sites."""
    known: bool = False
    """Whether `gates` holds the rows' own values already."""
    ahead: frozenset[Bound] = frozenset()
    """Plans whose gates and sources were read before, in a pass of their own."""
    decoding: bool = False
    """Whether the next forward brings one generated token per row."""
    longest: int = 0
    """Largest of `start`."""
    seen: dict[tuple[int, int], Float[Tensor, "row token choice"]] = field(default_factory=dict, repr=False)
    """Values of gates that every token reads, of the tokens in hand."""
    _steady: dict[Key, Action] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        encoded: Sequence[Encoded],
        plans: Sequence[Bound],
        device: torch.device,
        branches: Sequence[int] | None = None,
    ) -> Rows:
        """Make rows for prompts not yet read, one plan each; of the base, where no branches are named."""
        distinct = tuple(dict.fromkeys(plans))
        index = {id(plan): i for i, plan in enumerate(distinct)}
        facts = [
            (branch, e.prompt, e.instruction, len(e.ids), e.soft)
            for e, branch in zip(encoded, branches or [0] * len(encoded), strict=True)
        ]
        return cls(
            plans=distinct,
            which=torch.tensor([index[id(plan)] for plan in plans], dtype=torch.long, device=device),
            facts=torch.tensor(facts, dtype=torch.long).reshape(-1, 5).to(device),
            start=torch.zeros(len(encoded), dtype=torch.long, device=device),
            gates=torch.zeros(len(encoded), max((p.gates for p in distinct), default=0)).to(device),
            known=not any(p.asks for p in distinct),
        )

    def __len__(self) -> int:
        return len(self.which)

    @property
    def branch(self) -> Int[Tensor, " row"]:
        """Which branch each row is, 0 being the base."""
        return self.facts[:, 0]

    @property
    def prompt(self) -> Int[Tensor, " row"]:
        """Length of the rendered prompt: a prefilled answer is not part of it."""
        return self.facts[:, 1]

    @property
    def instruction(self) -> Int[Tensor, " row"]:
        """Where the user's last message ends."""
        return self.facts[:, 2]

    @property
    def given(self) -> Int[Tensor, " row"]:
        """Tokens that stood there before the model wrote one."""
        return self.facts[:, 3]

    @property
    def keys(self) -> set[Key]:
        """The places that any of the plans edits."""
        return {key for plan in self.plans for key in plan.parts}

    @property
    def plain(self) -> bool:
        """Whether there is nothing to edit."""
        return not any(plan.parts or plan.soft is not None for plan in self.plans)

    def take(self, index: Int[Tensor, " kept"]) -> Rows:
        """Return the rows at `index`."""
        return Rows(
            self.plans,
            self.which[index],
            self.facts[index],
            self.start[index],
            self.gates[index],
            {key: states[index] for key, states in self.kept.items()},
            known=self.known,
            decoding=self.decoding,
            longest=self.longest,
        )

    def join(self, other: Rows) -> Rows:
        """Return these rows followed by `other`'s."""
        plans = tuple(dict.fromkeys((*self.plans, *other.plans)))
        width = max(self.gates.shape[1], other.gates.shape[1])
        return Rows(
            plans,
            torch.cat([_renumbered(r, plans) for r in (self, other)]),
            torch.cat([self.facts, other.facts]),
            torch.cat([self.start, other.start]),
            torch.cat([torch.nn.functional.pad(r.gates, (0, width - r.gates.shape[1])) for r in (self, other)]),
            {
                key: torch.cat([_kept(r, key, self, other) for r in (self, other)])
                for key in {**self.kept, **other.kept}
            },
            known=self.known and other.known,
            decoding=self.decoding,
            longest=max(self.longest, other.longest),
        )

    def advance(self, tokens: int) -> None:
        """Move every row's start by `tokens`."""
        self.start = self.start + tokens
        self.longest += tokens

    def positions(self, tokens: int) -> Int[Tensor, "row token"]:
        """Return the absolute positions of the next `tokens` tokens of each row."""
        if tokens == 1:
            return self.start[:, None]
        return self.start[:, None] + torch.arange(tokens, device=self.start.device)

    def mask(self, name: str, positions: Int[Tensor, "row token"]) -> Bool[Tensor, "row token"]:
        """Return which tokens a position name means, from absolute positions alone."""
        prompt, limit = self.prompt[:, None], check_positions(name)
        if limit is not None:
            return (positions >= prompt) & (positions < prompt + limit)
        if name == "prompt":
            return positions < prompt
        if name == "last_prompt":
            return positions == prompt - 1
        if name == "last":
            return positions == self.given[:, None] - 1
        if name == "generated":
            return positions >= prompt
        if name == "from_instruction_end":
            return positions >= self.instruction[:, None]
        return torch.ones_like(positions, dtype=torch.bool)

    # what is read

    @property
    def pending(self) -> list[Bound]:
        """The plans whose gates and sources must still be read."""
        return [] if self.known else [plan for plan in self.plans if plan.asks and plan not in self.ahead]

    def check_whole(self, tokens: int) -> None:
        """Refuse a pass that does not bring every row's whole prompt, where something must be read of it.

        Raises:
            ModelError: for a prompt that is read in pieces.
        """
        if self.longest or tokens < int(self.prompt.max()):
            raise ModelError("a plan whose gates or sources read the prompt needs it whole, not in pieces")

    def readers(self, branch: int = 0) -> dict[Key, Action]:
        """Return what scores the rows' gates and keeps their untouched sources, by place.

        Each is to see the untouched stream of whole prompts. Once a plan's last gate has been scored, its values
        are settled, unless some of its gates read other branches: then `settle` must be called at the end.
        """
        places = {key for plan in self.pending for key in plan.read_on(branch)}
        return {key: self._reader(key, branch) for key in places}

    def _reader(self, key: Key, branch: int) -> Action:
        def action(h: Tensor) -> Tensor:
            for index, plan in enumerate(self.plans):
                if plan in self.ahead:
                    continue
                mine = (self.which == index)[:, None]
                for gate in plan.probes.get(key, []):
                    self._score(h, index, gate, key[0], branch)
                for part in plan.sources.get(key, []) if branch == 0 else []:
                    self._keep(h, plan, part)
                if plan.probes and key == max(plan.probes, key=order) and not plan.foreign:
                    self.gates = torch.where(mine, self._settled(plan), self.gates)
            return h

        return action

    def _score(self, h: Tensor, index: int, gate: int, layer: int, branch: int) -> None:
        plan = self.plans[index]
        one = plan.plan.gates[gate]
        if one.probe is None or one.probe.branch != branch:
            return
        state = self._mean(h, one.probe.position)
        if one.probe.minus:
            state = state - self._mean(h, one.probe.minus)
        columns, mine = plan.columns[gate], (self.which == index)[:, None]
        scored = one.score(state, layer)
        self.gates[:, columns] = torch.where(mine, self.gates[:, columns] + scored, self.gates[:, columns])

    def _mean(self, h: Tensor, position: str) -> Float[Tensor, "row d_model"]:
        """Return the mean state of the tokens named, of those that were given."""
        pick = torch.arange(len(self), device=h.device)
        if position == "last_prompt":
            return h[pick, self.prompt - 1].float()
        if position == "last":
            return h[pick, self.given - 1].float()
        absolute = self.positions(h.shape[1])
        mask = (self.mask(position, absolute) & (absolute < self.given[:, None]))[..., None]
        return torch.where(mask, h.float(), 0.0).sum(1) / mask.sum(1).clamp(min=1)

    def _keep(self, h: Tensor, plan: Bound, part: Part) -> Tensor:
        pick = torch.arange(len(self), device=h.device)
        self.kept[plan, part.number] = h[pick, self.prompt - 1].float()
        return self.kept[plan, part.number]

    def settle(self) -> None:
        """Turn scores into values for the plans whose gates read several branches."""
        for index, plan in enumerate(self.plans):
            if plan.foreign:
                self.gates = torch.where((self.which == index)[:, None], self._settled(plan), self.gates)

    def _settled(self, plan: Bound) -> Float[Tensor, "row value"]:
        """Return what the gates' values are where the scores are this plan's."""
        found = self.gates.clone()
        for gate, columns in zip(plan.plan.gates, plan.columns, strict=True):
            if gate.lifetime == "token":
                continue
            if gate.of:
                made = gate.joined([found[:, plan.columns[i]] for i in gate.of])
                found[:, columns] = made.expand(-1, columns.stop - columns.start)
            else:
                found[:, columns] = gate.values(self.gates[:, columns])
        return found

    def value(self, index: int, gate: int) -> Float[Tensor, "row token choice"]:
        """Return a gate's values for the rows of a plan, or for the tokens in hand where each reads its own."""
        plan = self.plans[index]
        one = plan.plan.gates[gate]
        if one.lifetime == "request":
            return self.gates[:, None, plan.columns[gate]]
        return one.joined([self.value(index, i) for i in one.of]) if one.of else self.seen[index, gate]

    # what is done

    def edits(self, tokens: int) -> Mapping[Key, Action]:
        """Return the edits of the next forward by place; empty where nothing changes."""
        if self.plain:
            return {}
        if not self.decoding:
            return self._edits(self.positions(tokens))
        if any(not plan.steady for plan in self.plans):
            return self._edits(self.positions(tokens))
        if self._steady is None:
            self._steady = self._edits(self.positions(tokens))
        return self._steady

    def _edits(self, positions: Tensor) -> dict[Key, Action]:
        found: dict[Key, list[Action]] = {}
        masks: dict[tuple[int, str, tuple[int, ...] | None], Tensor | None] = {}
        for index, plan in enumerate(self.plans):
            mine = None if len(self.plans) == 1 else (self.which == index)[:, None]
            if plan.soft is not None and not self.decoding:
                found.setdefault(EMBEDDING, []).append(self._soft(plan.soft, positions, mine))
            for key, gates in plan.tokens.items():
                found.setdefault(key, []).append(self._watch(index, gates, key[0]))
            for key, parts in plan.parts.items():
                for part in parts:
                    name = (index, part.site.positions, part.site.branches)
                    if name not in masks:
                        masks[name] = self._where(part, positions, mine)
                    mask = masks[name]
                    if mask is None or mask.numel():
                        found.setdefault(key, []).append(_Step(part, mask, self, index))
        return {key: _fold(steps) for key, steps in found.items()}

    def _where(self, part: Part, positions: Tensor, mine: Tensor | None) -> Tensor | None:
        """Return the mask of a part: None for all tokens, an empty tensor for none."""
        mask = self.mask(part.site.positions, positions)
        mask = mask if mine is None else mask & mine
        if part.site.branches is not None:
            allowed = torch.tensor(part.site.branches, device=mask.device)
            mask = mask & torch.isin(self.branch, allowed)[:, None]
        if bool(mask.all()):
            return None
        return mask if bool(mask.any()) else mask[:0]

    def _watch(self, index: int, gates: Sequence[int], layer: int) -> Action:
        """Return what lets every token read its own gates."""

        def action(h: Tensor) -> Tensor:
            for gate in gates:
                one = self.plans[index].plan.gates[gate]
                self.seen[index, gate] = one.values(one.score(h, layer))
            return h

        return action

    def _soft(self, soft: Tensor, positions: Tensor, mine: Tensor | None) -> Action:
        offset = positions - self.facts[:, 4:]
        mask = (offset >= 0) & (offset < len(soft)) & (self.facts[:, 4:] >= 0)
        mask = (mask if mine is None else mask & mine)[..., None]
        rows = soft[offset.clamp(0, len(soft) - 1)]
        return lambda h: torch.where(mask, rows.to(h.dtype), h)


def _renumbered(rows: Rows, plans: Sequence[Bound]) -> Tensor:
    return torch.tensor([plans.index(p) for p in rows.plans], device=rows.which.device)[rows.which]


def _kept(rows: Rows, key: Kept, *both: Rows) -> Tensor:
    found = rows.kept.get(key)
    if found is not None:
        return found
    other = next(r.kept[key] for r in both if key in r.kept)
    return other.new_zeros(len(rows), other.shape[1])


class _Step:
    """One part on one batch; gates are looked up when it runs, since reading the prompt sets them."""

    def __init__(self, part: Part, mask: Tensor | None, rows: Rows, index: int) -> None:
        self.part, self.site, self.rows, self.index = part, part.site, rows, index
        self.mask = None if mask is None else mask[..., None]

    def __call__(self, h: Tensor) -> Tensor:
        mask, gate = self.mask, self.site.gate
        wide = h if self.site.op == "add" and not self.site.keep_norm else h.float()
        x = self._source(h, wide)
        if gate is None:
            change = self.part.change(0, wide, x)
        else:
            value = self.rows.value(self.index, gate)
            change = sum(  # type: ignore[assignment]
                value[..., k, None] * self.part.change(k, wide, x) for k in range(value.shape[-1])
            )
            acts = (value != 0).any(-1, keepdim=True)
            mask = acts if mask is None else mask & acts
        edited = wide + change.to(wide.dtype)
        if self.site.keep_norm:
            edited = edited * (wide.norm(dim=-1, keepdim=True) / edited.norm(dim=-1, keepdim=True).clamp(min=1e-30))
        edited = edited.to(h.dtype)
        return edited if mask is None else torch.where(mask, edited, h)

    def _source(self, h: Tensor, wide: Tensor) -> Tensor:
        if self.site.source == "self":
            return wide
        rows, plan = self.rows, self.rows.plans[self.index]
        if self.site.source == "last_prompt" and not rows.longest:
            rows.check_whole(h.shape[1])
            return rows._keep(h, plan, self.part)[:, None]
        if (plan, self.part.number) not in rows.kept:
            rows.check_whole(0)
        return rows.kept[plan, self.part.number][:, None]


def _fold(steps: Sequence[Action]) -> Action:
    if len(steps) == 1:
        return steps[0]

    def fold(h: Tensor) -> Tensor:
        for step in steps:
            h = step(h)
        return h

    return fold
