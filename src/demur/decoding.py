"""The one decode loop: batched, greedy or sampled, with a key-value cache, absolute positions and per-row stops.

Rows that finish leave the batch at once; when enough slots are free, waiting prompts are read and take their
place. Where a row's plan mixes the logits of another branch, that branch is a second row of the same batch, which
is fed the same tokens and leaves when the horizon is reached.

No result depends on the neighbours of a row: a sampled row draws from a generator keyed by (seed, prompt, sample),
and on the CPU in float32 the shapes of the computation are kept such that even the last bit of a row's logits does
not depend on them (with one thread, in a model without experts). Mean log-probabilities are rounded to three places,
far above what else may differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from demur.chats import Encoded
from demur.errors import ModelError
from demur.lm import LM
from demur.mixing import likeliest
from demur.plan import Intervention, Plan
from demur.residuals import edit
from demur.rows import Action, Key, Rows
from demur.seating import Seating, mixed, pairs
from demur.slots import rounded
from demur.tasks import Task, along, ask, prepare, tasks
from demur.types import Prompt, Response, Sampling
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from jaxtyping import Float, Int

LEAST_ROWS = 16
"""Rows that a matrix product is given at least: with fewer, its last bits depend on how many they are."""
MOST_ROWS = 128
BATCH_TOKENS = 16384
READING = {"cpu": 64, "cuda": 2048}
"""Tokens of padding that cost about as much as one more forward pass."""

What = Plan | Intervention | None


def decode(
    lm: LM,
    prompts: Sequence[Prompt],
    sampling: Sampling | None = None,
    plan: What | Sequence[What] = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[Response]:
    """Answer prompts, one `Response` per (prompt, sample), in the order in which they finish.

    Args:
        lm: the model, with whatever is attached to it.
        prompts: what to answer; `meta` may hold a prompt's own `prefill`.
        sampling: how to draw answers; greedy by default.
        plan: what to do to every row, or one for each prompt; None leaves what is attached. Prompts whose plans
            change weights are answered in groups.
        batch_tokens: tokens that the cache holds at most, prompts and answers together (one row always fits).

    Raises:
        ConfigError: for a plan that does not fit the model.
        ModelError: when memory runs out.
    """
    how = sampling or Sampling()
    what = list(plan) if isinstance(plan, Sequence) else [plan] * len(prompts)
    plans = _plans(lm, what)
    order = sorted(range(len(prompts)), key=lambda i: _weights(plans[i]))
    for _, group in groupby(order, key=lambda i: _weights(plans[i])):
        chosen = list(group)
        jobs = tasks(lm, [prompts[i] for i in chosen], [plans[i] for i in chosen], how)
        edits = edits_of(plans[chosen[0]])
        explicit = what[chosen[0]] is not None
        with swapped(lm, edits if explicit else []):
            try:
                yield from _Loop(lm, jobs, how, batch_tokens).run()
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                    raise
                raise ModelError(f"out of memory while answering; lower batch_tokens ({batch_tokens})") from None


def _plans(lm: LM, what: Sequence[What]) -> list[Plan]:
    made: dict[int, Plan] = {}
    return [made.setdefault(id(w), lm.plan_of(w)) if id(w) not in made else made[id(w)] for w in what]


def _weights(plan: Plan) -> str:
    return plan.fingerprint if plan.weights else ""


class _Loop(Seating):
    """The state of one run of the loop: a queue, and the rows that are being answered."""

    def __init__(self, lm: LM, jobs: Sequence[Task], how: Sampling, batch_tokens: int) -> None:
        longest = rounded(max(len(job.encoded.ids) for job in jobs)) if jobs else 0
        room = batch_tokens // max(longest + min(how.max_new_tokens, 64), 1)
        rows = sum(map(_rows_of, jobs))
        self.least = LEAST_ROWS if lm.device.type == "cpu" else 1
        self.capacity = max(self.least, 2 if rows > len(jobs) else 1, min(MOST_ROWS, room, rows))
        super().__init__(lm, self.capacity, longest + 32)
        self.how, self.queue = how, deque(jobs)

    def run(self) -> Iterator[Response]:
        """Yield the answers as they finish."""
        keys = {key for job in self.queue for key in job.bound.places}
        with ExitStack() as stack:
            taps = stack.enter_context(edit(self.lm, keys)) if keys else None
            while self.queue or self.live:
                fresh = self._next()
                if fresh:
                    yield from self._refill(fresh, taps)
                else:
                    yield from self._step(taps)

    def _next(self) -> list[Task]:
        """Take the waiting tasks that are to be read now off the queue; none while few slots are free."""
        free = self.capacity - self.taken
        if self.live and free < min(max(self.capacity // 4, 1), len(self.queue)):
            return []
        fresh: list[Task] = []
        while self.queue and _rows_of(self.queue[0]) <= free:
            fresh.append(self.queue.popleft())
            free -= _rows_of(fresh[-1])
        return fresh

    def _refill(self, fresh: Sequence[Task], taps: dict[Key, Action] | None) -> Iterator[Response]:
        """Read waiting prompts into free slots, those of like length together."""
        spare = READING.get(self.lm.device.type, READING["cuda"])
        for width, jobs in _by_width(fresh, spare):
            yield from self._read(jobs, width, taps)

    def _read(self, fresh: list[Task], width: int, taps: dict[Key, Action] | None) -> Iterator[Response]:
        """Read prompts of at most `width` tokens and draw their first tokens."""
        if any(job.bound.ahead for job in fresh):
            if taps is not None:
                taps.clear()
            ask(self.lm, fresh)
        beside = [job for job in fresh if job.beside is not None]
        self._make_way(len(fresh) + len(beside))
        rows, logits = self._both(fresh, beside, width, taps)
        if beside:
            place = {id(job): i for i, job in enumerate(fresh)}
            leads = torch.tensor([place[id(job)] for job in beside], device=logits.device)
            logits = mixed(logits[: len(fresh)], logits[len(fresh) :], pairs(beside, leads))
        tokens, logprobs = self._draw(logits, fresh)
        self._enter(fresh, beside, rows, torch.cat([tokens, tokens[leads]]) if beside else tokens)
        self._settle(len(self.live) - len(fresh), tokens.tolist(), logprobs)
        yield from self._leave()

    def _both(
        self, fresh: Sequence[Task], beside: Sequence[Task], width: int, taps: dict[Key, Action] | None
    ) -> tuple[Rows, Float[Tensor, "row vocab"]]:
        """Read prompts and then branches of some of them: in one pass, unless padding would cost more than another."""
        base, told = [job.encoded for job in fresh], [job.beside or job.encoded for job in beside]
        wide, first = rounded(max((len(one.ids) for one in told), default=0)), len(self.live)
        spare = READING.get(self.lm.device.type, READING["cuda"])
        if not beside or ((wide - width) * len(fresh) <= spare and (width - wide) * len(beside) <= spare):
            return self._prompts([*base, *told], [*fresh, *beside], first, max(width, wide), taps)
        rows, logits = self._prompts(base, fresh, first, width, taps)
        others, branch = self._prompts(told, beside, first + len(fresh), wide, taps)
        return rows.join(others), torch.cat([logits, branch])

    def _prompts(
        self, told: Sequence[Encoded], jobs: Sequence[Task], first: int, width: int, taps: dict[Key, Action] | None
    ) -> tuple[Rows, Float[Tensor, "row vocab"]]:
        """Read prompts into the slots from `first` on; return their rows and the logits of what comes next."""
        branches = [0 if one is job.encoded else job.bound.mixes for one, job in zip(told, jobs, strict=True)]
        ids, rows, lengths = self.lm.batch(told, [job.bound.plan for job in jobs], width=width, branches=branches)
        self.slots.aim(first, rows.start, ids.shape[1], longest=0)
        hidden = self.lm.forward(ids, prepare(rows, jobs), cache=self.slots, taps=taps)
        pick = torch.arange(len(jobs), device=ids.device)
        if len(jobs) < self.least:
            pick = pick.repeat(-(-self.least // len(jobs)))[: self.least]
        logits = self.lm.head(hidden[pick, lengths[pick] - 1])[: len(jobs)]
        rows.start, rows.longest, rows.decoding = lengths, int(lengths.max()), True
        return rows, logits

    def _step(self, taps: dict[Key, Action] | None) -> Iterator[Response]:
        """Give every live row one more token."""
        rows, last = self._padded()
        self.slots.aim(0, rows.start, 1, longest=rows.longest)
        hidden = self.lm.forward(last[:, None], rows, cache=self.slots, taps=taps)
        logits, count = self.lm.head(hidden[:, 0]), len(self.live)
        tokens, logprobs = self._draw(mixed(logits[:count], logits[count : self.taken], self.pairs), self.live)
        self.last = torch.cat([tokens, tokens[self.leads]]) if self.shadows else tokens
        if self.rows is not rows and self.rows is not None:
            self.rows.advance(1)
        self._settle(0, tokens.tolist(), logprobs)
        yield from self._leave()

    def _padded(self) -> tuple[Rows, Int[Tensor, " row"]]:
        """Return the live rows and the branches behind them, followed by idle copies where they are too few."""
        rows, count = self.rows, self.taken
        if rows is None:  # cannot happen: a step follows a refill
            raise ModelError("no rows to decode")
        if count >= self.least:
            return rows, self.last
        pick = torch.arange(self.least, device=self.last.device).clamp(max=count - 1)
        return rows.take(pick), self.last[pick]

    def _draw(self, logits: Float[Tensor, "row vocab"], jobs: Sequence[Task]) -> tuple[Tensor, list[float]]:
        """Return each row's next token and its log-probability under what it was drawn from."""
        if self.how.temperature == 0:
            tokens = likeliest(logits)
        else:
            at = [job.draws[len(job.tokens)] for job in jobs]
            uniform = torch.tensor(at, dtype=torch.float64, device=logits.device)
            tokens = sample(logits, uniform, self.how.temperature, self.how.top_p)
        chosen = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        return tokens, chosen.tolist()

    def _settle(self, first: int, tokens: list[int], logprobs: list[float]) -> None:
        """Append the drawn tokens to the rows from `first` on, and note which of them end."""
        for job, token, logprob in zip(self.live[first:], tokens, logprobs, strict=True):
            job.logprob += logprob
            job.tokens.append(token)
            if token in self.lm.stops:
                job.finish = "stop"
            elif len(job.tokens) >= self.how.max_new_tokens:
                job.finish = "length"

    def _leave(self) -> Iterator[Response]:
        """Drop the rows that have ended and the branches that have had their time; yield the answers."""
        done = [index for index, job in enumerate(self.live) if job.finish]
        finished = [self._response(self.live[index]) for index in done]
        if done or any(job.beside is None for job in self.shadows):
            self._drop(done)
        yield from finished

    def _response(self, job: Task) -> Response:
        written = job.tokens[:-1] if job.finish == "stop" else job.tokens
        reasoning, answer = self.lm.chats.read(job.encoded, written)
        return Response(
            prompt_id=job.prompt.id,
            sample=job.sample,
            text=answer,
            reasoning=reasoning,
            finish=job.finish or "length",
            n_tokens=len(job.tokens),
            logprob=round(job.logprob / len(job.tokens), 3),
        )


def _rows_of(job: Task) -> int:
    """Return how many rows a task may take at most: its own, and that of a branch."""
    return 1 + bool(job.bound.mixes)


def _by_width(jobs: Sequence[Task], spare: int) -> list[tuple[int, list[Task]]]:
    """Split jobs, longest prompts first, into (width, jobs); a split must save more than `spare` tokens of padding."""
    parts: list[tuple[int, list[Task]]] = []
    for width, group in groupby(jobs, key=lambda job: rounded(len(job.encoded.ids))):
        more = list(group)
        if parts and (parts[-1][0] - width) * len(more) <= spare:
            parts[-1][1].extend(more)
        else:
            parts.append((width, more))
    return parts


def sample(
    logits: Float[Tensor, "row vocab"], uniform: Float[Tensor, " row"], temperature: float, top_p: float
) -> Int[Tensor, " row"]:
    """Draw one token per row by inverting the distribution function of the kept tokens at `uniform`.

    Args:
        logits: raw logits.
        uniform: one number in [0, 1) per row.
        temperature: above 0.
        top_p: the smallest set of likeliest tokens with at least this mass is kept (nucleus sampling, Holtzman et
            al., arXiv 1904.09751).
    """
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
    below = ordered.cumsum(-1) - ordered
    ordered = torch.where(below < top_p, ordered, 0.0)
    total = ordered.cumsum(-1)
    place = (total <= uniform[:, None] * total[:, -1:]).sum(-1).clamp(max=ordered.shape[1] - 1)
    return index.gather(-1, place[:, None])[:, 0]


def first_token_logits(
    lm: LM, prompts: Sequence[Prompt], plan: What = None, *, batch_tokens: int = BATCH_TOKENS
) -> Float[Tensor, "prompt vocab"]:
    """Return the logits that the first answer token is drawn from, in the order of the prompts."""
    chosen = lm.plan_of(plan)
    named = [replace(p, id=str(i)) for i, p in enumerate(prompts)]
    waiting = tasks(lm, named, [chosen] * len(prompts), Sampling(max_new_tokens=1))
    found: list[Tensor] = [torch.empty(0)] * len(prompts)
    with swapped(lm, edits_of(chosen) if plan is not None else []):
        for index, logits in along(lm, waiting, [()] * len(waiting), batch_tokens=batch_tokens):
            found[int(waiting[index].prompt.id)] = logits[0].cpu()
    return torch.stack(found) if found else torch.empty(0, 0)
