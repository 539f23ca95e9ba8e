"""The one decode loop: batched, greedy or sampled, with a key-value cache, absolute positions and per-row stops.

Rows that finish leave the batch at once; when enough slots are free, waiting prompts are read and take their
place. No result depends on the neighbours of a row: a sampled row draws from a generator keyed by (seed, prompt,
sample), and on the CPU in float32 the shapes of the computation are kept such that even the last bit of a row's
logits does not depend on them (with one thread, in a model without experts). Mean log-probabilities are rounded to
three places, far above what else may differ.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from demur.chats import Encoded, split_thinking
from demur.errors import ModelError
from demur.lm import LM
from demur.plan import Intervention, Plan
from demur.residuals import edit
from demur.rows import Action, Bound, Key, Rows
from demur.slots import Slots, rounded
from demur.types import Finish, Prompt, Response, Sampling
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


@dataclass(eq=False)
class _Job:
    """One answer to be written."""

    prompt: Prompt
    sample: int
    encoded: Encoded
    bound: Bound
    draws: list[float]
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0


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
        jobs = _jobs(lm, [prompts[i] for i in chosen], [plans[i] for i in chosen], how)
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


def _jobs(lm: LM, prompts: Sequence[Prompt], plans: Sequence[Plan], how: Sampling) -> list[_Job]:
    encoded: list[Encoded] = [Encoded((), 0, 0)] * len(prompts)
    systems = {plan.system for plan in plans}
    for system in systems:
        mine = [i for i, plan in enumerate(plans) if plan.system == system]
        made = lm.chats.encode([prompts[i] for i in mine], system=system, prefill=how.prefill, thinking=how.thinking)
        for i, item in zip(mine, made, strict=True):
            encoded[i] = item
    jobs = [
        _Job(prompt, sample, item, lm.bound(plan), _draws(how, prompt.id, sample))
        for prompt, item, plan in zip(prompts, encoded, plans, strict=True)
        for sample in range(how.samples)
    ]
    return sorted(jobs, key=lambda job: -len(job.encoded.ids))


def _draws(how: Sampling, prompt_id: str, sample: int) -> list[float]:
    """Return the uniform draws of one answer, from its own generator."""
    if how.temperature == 0:
        return []
    key = hashlib.sha256(f"{how.seed}\n{prompt_id}\n{sample}".encode()).digest()
    own = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    return torch.rand(how.max_new_tokens, generator=own, dtype=torch.float64).tolist()


class _Loop:
    """The state of one run of the loop: a queue, the live rows in slots 0 to n - 1, and their cache."""

    def __init__(self, lm: LM, jobs: Sequence[_Job], how: Sampling, batch_tokens: int) -> None:
        self.lm, self.how = lm, how
        self.queue = deque(jobs)
        self.live: list[_Job] = []
        longest = rounded(max(len(job.encoded.ids) for job in jobs)) if jobs else 0
        room = batch_tokens // max(longest + min(how.max_new_tokens, 64), 1)
        self.least = LEAST_ROWS if lm.device.type == "cpu" else 1
        self.capacity = max(self.least, min(MOST_ROWS, room, max(len(jobs), 1)))
        self.slots = Slots(lm.n_layers, self.capacity, columns=longest + 32)
        self.rows: Rows | None = None
        self.last = torch.zeros(0, dtype=torch.long, device=lm.device)

    def run(self) -> Iterator[Response]:
        """Yield the answers as they finish."""
        keys = {key for job in self.queue for key in (*job.bound.parts, *job.bound.probes)}
        with ExitStack() as stack:
            taps = stack.enter_context(edit(self.lm, keys)) if keys else None
            while self.queue or self.live:
                free = self.capacity - len(self.live)
                if self.queue and (not self.live or free >= min(max(self.capacity // 4, 1), len(self.queue))):
                    yield from self._refill(free, taps)
                else:
                    yield from self._step(taps)

    def _refill(self, free: int, taps: dict[Key, Action] | None) -> Iterator[Response]:
        """Read the next waiting prompts into free slots, those of like length together."""
        fresh = [self.queue.popleft() for _ in range(min(free, len(self.queue)))]
        spare = READING.get(self.lm.device.type, READING["cuda"])
        for width, jobs in _by_width(fresh, spare):
            yield from self._read(jobs, width, taps)

    def _read(self, fresh: list[_Job], width: int, taps: dict[Key, Action] | None) -> Iterator[Response]:
        """Read prompts of at most `width` tokens and draw their first tokens."""
        plans = [job.bound.plan for job in fresh]
        ids, rows, lengths = self.lm.batch([job.encoded for job in fresh], plans, width=width)
        self.slots.aim(len(self.live), rows.start, width, longest=0)
        hidden = self.lm.forward(ids, rows, cache=self.slots, taps=taps)
        pick = torch.arange(len(fresh), device=ids.device)
        if len(fresh) < self.least:
            pick = pick.repeat(-(-self.least // len(fresh)))[: self.least]
        logits = self.lm.head(hidden[pick, lengths[pick] - 1])[: len(fresh)]
        rows.start, rows.longest, rows.decoding = lengths, int(lengths.max()), True
        tokens, logprobs = self._draw(logits, fresh)
        self.rows = rows if self.rows is None or not self.live else self.rows.join(rows)
        self.last = torch.cat([self.last[: len(self.live)], tokens])
        self.live += fresh
        yield from self._settle(len(self.live) - len(fresh), tokens.tolist(), logprobs)

    def _step(self, taps: dict[Key, Action] | None) -> Iterator[Response]:
        """Give every live row one more token."""
        rows, last = self._padded()
        self.slots.aim(0, rows.start, 1, longest=rows.longest)
        hidden = self.lm.forward(last[:, None], rows, cache=self.slots, taps=taps)
        logits = self.lm.head(hidden[:, 0])[: len(self.live)]
        tokens, logprobs = self._draw(logits, self.live)
        self.last = tokens
        if self.rows is not rows and self.rows is not None:
            self.rows.advance(1)
        yield from self._settle(0, tokens.tolist(), logprobs)

    def _padded(self) -> tuple[Rows, Int[Tensor, " row"]]:
        """Return the live rows, followed by idle copies where they are too few."""
        rows = self.rows
        if rows is None:  # cannot happen: a step follows a refill
            raise ModelError("no rows to decode")
        if len(self.live) >= self.least:
            return rows, self.last
        pick = torch.arange(self.least, device=self.last.device).clamp(max=len(self.live) - 1)
        return rows.take(pick), self.last[pick]

    def _draw(self, logits: Float[Tensor, "row vocab"], jobs: Sequence[_Job]) -> tuple[Tensor, list[float]]:
        """Return each row's next token and its log-probability under the model."""
        if self.how.temperature == 0:
            tokens = _likeliest(logits)
        else:
            at = [job.draws[len(job.tokens)] for job in jobs]
            uniform = torch.tensor(at, dtype=torch.float64, device=logits.device)
            tokens = sample(logits, uniform, self.how.temperature, self.how.top_p)
        chosen = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        return tokens, chosen.tolist()

    def _settle(self, first: int, tokens: list[int], logprobs: list[float]) -> Iterator[Response]:
        """Append the drawn tokens to the rows from `first` on; yield those that finish, and drop them."""
        done = []
        for index, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True), first):
            job = self.live[index]
            job.logprob += logprob
            job.tokens.append(token)
            if token in self.lm.stops:
                done.append((index, "stop"))
            elif len(job.tokens) >= self.how.max_new_tokens:
                done.append((index, "length"))
        finished = [self._response(self.live[index], finish) for index, finish in done]
        if done:
            self._drop([index for index, _ in done])
        yield from finished

    def _drop(self, gone: Sequence[int]) -> None:
        """Free slots; the last live rows move into the holes, so that live rows stay in front."""
        kept = len(self.live) - len(gone)
        missing = set(gone)
        order = list(range(len(self.live)))
        movers = [i for i in range(kept, len(order)) if i not in missing]
        holes = [i for i in gone if i < kept]
        if holes:
            self.slots.move(movers, holes, max(self._length(i) for i in movers))
        for source, hole in zip(movers, holes, strict=True):
            order[hole] = source
        self.live = [self.live[i] for i in order[:kept]]
        pick = torch.tensor(order[:kept], dtype=torch.long, device=self.last.device)
        self.last = self.last[pick]
        if self.rows is not None:
            self.rows = self.rows.take(pick)
            self.rows.longest = max((self._length(i) - 1 for i in range(kept)), default=0)

    def _length(self, index: int) -> int:
        """Return the tokens of a live row, prompt and answer."""
        return len(self.live[index].encoded.ids) + len(self.live[index].tokens)

    def _response(self, job: _Job, finish: str) -> Response:
        kind: Finish = "stop" if finish == "stop" else "length"
        written = job.tokens[:-1] if finish == "stop" else job.tokens
        whole = [*job.encoded.ids[job.encoded.prompt :], *written]
        text = str(self.lm.tokenizer.decode(whole, skip_special_tokens=True))
        reasoning, answer = split_thinking(text, is_open=job.encoded.thinking, harmony=self.lm.chats.harmony)
        return Response(
            prompt_id=job.prompt.id,
            sample=job.sample,
            text=answer,
            reasoning=reasoning,
            finish=kind,
            n_tokens=len(job.tokens),
            logprob=round(job.logprob / len(job.tokens), 3),
        )


def _by_width(jobs: Sequence[_Job], spare: int) -> list[tuple[int, list[_Job]]]:
    """Split jobs, longest prompts first, into (width, jobs); a split must save more than `spare` tokens of padding."""
    parts: list[tuple[int, list[_Job]]] = []
    for width, group in groupby(jobs, key=lambda job: rounded(len(job.encoded.ids))):
        more = list(group)
        if parts and (parts[-1][0] - width) * len(more) <= spare:
            parts[-1][1].extend(more)
        else:
            parts.append((width, more))
    return parts


def _likeliest(logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    """Return the first of the likeliest tokens of each row; numpy finds it ten times as fast as torch on a CPU."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


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
    """Return the logits of the first answer token, in the order of the prompts."""
    how = Sampling(max_new_tokens=1)
    chosen = lm.plan_of(plan)
    jobs = _jobs(lm, [replace(p, id=str(i)) for i, p in enumerate(prompts)], [chosen] * len(prompts), how)
    edits = edits_of(chosen) if plan is not None else []
    found: list[Tensor] = [torch.empty(0)] * len(prompts)
    with swapped(lm, edits):
        step = max(1, batch_tokens // max((len(j.encoded.ids) for j in jobs), default=1))
        for start in range(0, len(jobs), step):
            batch = jobs[start : start + step]
            ids, rows, lengths = lm.batch([j.encoded for j in batch], [j.bound.plan for j in batch])
            hidden = lm.forward(ids, rows)
            logits = lm.head(hidden[torch.arange(len(batch), device=ids.device), lengths - 1]).cpu()
            for job, row in zip(batch, logits, strict=True):
                found[int(job.prompt.id)] = row
    return torch.stack(found) if found else torch.empty(0, 0)
