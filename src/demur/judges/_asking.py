"""Ask a generative model: each distinct request once, and a count of what it took."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from demur.types import Generator, Prompt, Response, Sampling, Turns

CACHE = 20_000
"""Replies that one judge keeps in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One conversation put to a model."""

    text: str
    """The last message."""
    system: str | None = None
    history: Turns = ()
    last: Literal["user", "assistant"] = "user"
    """Who wrote the last message; most guards want the assistant's answer there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a judge has asked for since it was made; replies from its cache cost nothing."""

    requests: int = 0
    tokens_in: int = 0
    """As the server counts them; where it does not, estimated: a token for every four bytes of UTF-8."""
    tokens_out: int = 0
    """As the server or the generator counts them."""
    cost: float = 0.0
    """In the currency of the prices."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            requests=self.requests + other.requests,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            cost=self.cost + other.cost,
        )

    def __sub__(self, other: Spent) -> Spent:
        return Spent(
            requests=self.requests - other.requests,
            tokens_in=self.tokens_in - other.tokens_in,
            tokens_out=self.tokens_out - other.tokens_out,
            cost=self.cost - other.cost,
        )


@dataclass(slots=True)
class _State:
    """What is remembered for one judge while it lives."""

    replies: dict[tuple[str, int], Response] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)


_STATES: dict[int, _State] = {}


def spent(owner: object) -> Spent:
    """Return what `owner` has asked for so far."""
    return _state(owner).spent


def ask(
    owner: object,
    generator: Generator,
    requests: Sequence[Request],
    sampling: Sampling,
    prices: tuple[float, float] = (0.0, 0.0),
) -> list[tuple[Response, ...]]:
    """Put each distinct request to the model once; return the samples of each request, in order.

    A reply that ended in an error is not kept, so asking again asks again; a reply that the generator did not give
    is an error row.

    Args:
        owner: the judge; its replies are remembered and counted while it lives.
        generator: what answers. Prompt ids are hashes of the request.
        requests: what to ask.
        sampling: `samples` is the number of votes.
        prices: per million tokens, (in, out).
    """
    state = _state(owner)
    keys = [_key(request, sampling) for request in requests]
    votes = range(sampling.samples)
    todo = {
        key: request
        for key, request in zip(keys, requests, strict=True)
        if any((key, n) not in state.replies for n in votes)
    }
    failed: dict[tuple[str, int], Response] = {}
    if todo:
        before, counted = _usage(generator), Spent()
        try:
            for row in generator([_prompt(key, request) for key, request in todo.items()], sampling):
                if row.prompt_id in todo:
                    counted += _counted(todo[row.prompt_id], row)
                    (failed if row.finish == "error" else state.replies)[row.prompt_id, row.sample] = row
        finally:
            state.spent += _priced(counted, before, _usage(generator), prices)
    found = [
        tuple(state.replies.get((key, n)) or failed.get((key, n)) or _missing(key, n) for n in votes) for key in keys
    ]
    while len(state.replies) > CACHE:
        del state.replies[next(iter(state.replies))]
    return found


def clean(text: str) -> str:
    """Replace what cannot be sent as UTF-8 (half surrogate pairs)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def shorten(text: str, limit: int) -> str:
    """Return the text, or its beginning and end with a note of how much was left out between."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]}\n[… {len(text) - limit} characters left out …]\n{text[len(text) - (limit - head) :]}"


def failure(reply: Response) -> str:
    """Say why a reply cannot be read as a verdict, or ""."""
    if reply.finish == "error":
        return f"judge: no reply ({reply.error or 'no reason given'})"
    return {
        "length": f"judge: reply cut off after {reply.n_tokens} tokens",
        "filtered": "judge: the judging model's system refused",
    }.get(reply.finish, "")


def _state(owner: object) -> _State:
    if id(owner) not in _STATES:
        _STATES[id(owner)] = _State()
        weakref.finalize(owner, _STATES.pop, id(owner), None)
    return _STATES[id(owner)]


def _key(request: Request, sampling: Sampling) -> str:
    return hashlib.sha256(repr((request, sampling)).encode("utf-8", "replace")).hexdigest()[:24]


def _prompt(key: str, request: Request) -> Prompt:
    return Prompt(
        id=key,
        text=request.text,
        expected=None,
        source="judge",
        system=request.system,
        history=request.history,
        meta=(("last_role", "assistant"),) if request.last == "assistant" else (),
    )


def _usage(generator: Generator) -> tuple[int, int]:
    """Return the tokens (in, out) that a generator's server has counted so far; zeros where it does not count."""
    usage = getattr(generator, "usage", None)
    held = usage() if callable(usage) else None
    return getattr(held, "prompt_tokens", 0), getattr(held, "completion_tokens", 0)


def _counted(request: Request, row: Response) -> Spent:
    texts = (request.system or "", *(text for _, text in request.history), request.text)
    tokens_in = -(-sum(len(text.encode("utf-8", "replace")) for text in texts) // 4)
    return Spent(requests=1, tokens_in=tokens_in, tokens_out=row.n_tokens)


def _priced(counted: Spent, before: tuple[int, int], after: tuple[int, int], prices: tuple[float, float]) -> Spent:
    """Return the count with the server's own numbers where it gave some, and the cost."""
    tokens_in = after[0] - before[0] or counted.tokens_in
    tokens_out = after[1] - before[1] or counted.tokens_out
    cost = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6
    return Spent(requests=counted.requests, tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)


def _missing(key: str, sample: int) -> Response:
    return Response(prompt_id=key, sample=sample, text="", finish="error", error="the generator gave no row")
