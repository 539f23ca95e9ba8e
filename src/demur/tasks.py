"""Answers to be written: what each branch is told, and what is read of a prompt before its answer begins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from demur.binding import Bound
from demur.chats import Encoded
from demur.errors import ModelError
from demur.lm import LM
from demur.plan import Plan
from demur.residuals import batches
from demur.rows import Kept, Rows
from demur.types import Finish, Prompt, Sampling

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(eq=False)
class Task:
    """One answer to be written."""

    prompt: Prompt
    sample: int
    encoded: Encoded
    bound: Bound
    draws: list[float]
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finish: Finish | None = None
    """How the answer ended; None while it is being written."""
    told: dict[int, Encoded] = field(default_factory=dict)
    """What the other branches are told, by their index."""
    gates: Tensor | None = None
    """The gates' values, where they were read in a pass of their own."""
    kept: dict[Kept, Tensor] = field(default_factory=dict)
    """The sources that were read with them."""

    @property
    def beside(self) -> Encoded | None:
        """What the branch is told whose logits are mixed in for the next token; None where there is none."""
        logits, branch = self.bound.plan.logits, self.bound.mixes
        if logits is None or not branch or (logits.horizon is not None and len(self.tokens) >= logits.horizon):
            return None
        if logits.gate is not None and (self.gates is None or not bool((self.gates_of(logits.gate) > 0).any())):
            return None
        if branch not in self.told:
            raise ModelError(f"prompt {self.prompt.id}: its plan has a branch, but nobody said what it is told")
        return self.told[branch]

    def gates_of(self, gate: int) -> Tensor:
        """Return the values of one gate, empty before they are read."""
        return torch.empty(0) if self.gates is None else self.gates[self.bound.columns[gate]]


def tasks(lm: LM, prompts: Sequence[Prompt], plans: Sequence[Plan], how: Sampling) -> list[Task]:
    """Return one task per (prompt, sample), longest prompts first."""
    found: list[Task] = []
    for plan in dict.fromkeys(plans):
        mine = [prompt for prompt, own in zip(prompts, plans, strict=True) if own is plan]
        every = lm.chats.tell(mine, plan, prefill=how.prefill, thinking=how.thinking)
        for prompt, told in zip(mine, every, strict=True):
            base = told.pop(0)
            found += [
                Task(prompt, sample, base, lm.bound(plan), draws(how, prompt.id, sample), told=told)
                for sample in range(how.samples)
            ]
    place = {id(prompt): i for i, prompt in enumerate(prompts)}
    return sorted(found, key=lambda task: (-len(task.encoded.ids), place[id(task.prompt)], task.sample))


def draws(how: Sampling, prompt_id: str, sample: int) -> list[float]:
    """Return the uniform draws of one answer, from its own generator."""
    if how.temperature == 0:
        return []
    key = hashlib.sha256(f"{how.seed}\n{prompt_id}\n{sample}".encode()).digest()
    own = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    return torch.rand(how.max_new_tokens, generator=own, dtype=torch.float64).tolist()


def ask(lm: LM, waiting: Sequence[Task]) -> None:
    """Read the gates and sources that no pass over the base alone can give, for tasks that need it."""
    asked = [task for task in waiting if task.bound.ahead and task.gates is None]
    if not asked:
        return
    ids, rows, _ = lm.batch([task.encoded for task in asked], [task.bound.plan for task in asked])
    lm.ask(ids, rows, branch=0)
    for branch in sorted({gate.probe.branch for t in asked for gate in t.bound.plan.gates if gate.probe} - {0}):
        here = [i for i, task in enumerate(asked) if task.bound.foreign and branch in task.told]
        told, plans = [asked[i].told[branch] for i in here], [asked[i].bound.plan for i in here]
        ids, own, _ = lm.batch(told, plans, branches=[branch] * len(here))
        lm.ask(ids, own, branch=branch)
        rows.gates[torch.tensor(here, device=rows.gates.device), : own.gates.shape[1]] += own.gates
    rows.settle()
    for index, task in enumerate(asked):
        task.gates = rows.gates[index]
        task.kept = {key: states[index] for key, states in rows.kept.items() if key[0] is task.bound}


def prepare(rows: Rows, waiting: Sequence[Task]) -> Rows:
    """Give rows what was asked of their tasks before."""
    read = [(i, task) for i, task in enumerate(waiting) if task.gates is not None]
    for index, task in read:
        if task.gates is not None:
            rows.gates[index, : task.bound.gates] = task.gates[: task.bound.gates]
        for key, state in task.kept.items():
            rows.kept.setdefault(key, state.new_zeros(len(rows), len(state)))[index] = state
    rows.ahead = frozenset(task.bound for _, task in read)
    rows.known = rows.known or not rows.pending
    return rows


def along(
    lm: LM, waiting: Sequence[Task], answers: Sequence[Sequence[int]], *, batch_tokens: int
) -> Iterator[tuple[int, Float[Tensor, "position vocab"]]]:
    """Yield each task's index and its plan's logits along a given answer: before each of its tokens, and at its end.

    Args:
        lm: the model, with the weights that the plans ask for.
        waiting: the prompts, nothing written yet.
        answers: tokens that are fed to every branch.
        batch_tokens: tokens per forward pass, padding included.
    """
    lengths = [len(task.encoded.ids) + len(answer) for task, answer in zip(waiting, answers, strict=True)]
    order = sorted(range(len(waiting)), key=lengths.__getitem__)
    for run in batches([lengths[i] for i in order], batch_tokens):
        chosen = [order[i] for i in run]
        batch = [waiting[i] for i in chosen]
        ask(lm, batch)
        texts = [list(answers[i]) for i in chosen]
        found = _forced(lm, batch, [task.encoded for task in batch], texts, 0)
        beside = [i for i, task in enumerate(batch) if task.beside is not None]
        some = [batch[i] for i in beside]
        branches = _forced(lm, some, [t.beside or t.encoded for t in some], [texts[i] for i in beside], 1)
        for i, task, other in zip(beside, some, branches, strict=True):
            logits = task.bound.plan.logits
            if logits is not None:
                end = len(other) if logits.horizon is None else logits.horizon
                found[i] = torch.cat([logits.combine(found[i][:end], other[:end]), found[i][end:]])
        yield from zip(chosen, found, strict=True)


def _forced(
    lm: LM, batch: Sequence[Task], told: Sequence[Encoded], answers: Sequence[Sequence[int]], beside: int
) -> list[Float[Tensor, "position vocab"]]:
    if not batch:
        return []
    whole = [replace(one, ids=(*one.ids, *answer)) for one, answer in zip(told, answers, strict=True)]
    branches = [task.bound.mixes * beside for task in batch]
    ids, rows, lengths = lm.batch(whole, [task.bound.plan for task in batch], branches=branches)
    rows.facts[:, 3] = torch.tensor([len(one.ids) for one in told], device=ids.device)
    hidden = lm.forward(ids, prepare(rows, batch))
    return [
        lm.head(hidden[i, len(one.ids) - 1 : length])
        for i, (one, length) in enumerate(zip(told, lengths.tolist(), strict=True))
    ]
