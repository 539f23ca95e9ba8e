"""Thinking models on this machine: a budget for the thinking, and marks of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from demur.chats import Chats
from demur.decoding import BATCH_TOKENS, What, decode
from demur.lm import LM
from demur.reasoning import CLOSE, OPEN, split
from demur.types import Prompt, Response, Sampling

_CHANNELS = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
"""What opens the thinking and what turns to the answer in the harmony format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a model's thinking is limited and recognised."""

    budget: int = 0
    """Tokens of thinking at most; 0: as many as the answer may have."""
    markers: tuple[str, ...] = ()
    """Opening and closing mark; empty: those that `demur.reasoning` knows."""


def think(
    lm: LM,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    how: Thinking,
    what: What = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[Response]:
    """Answer prompts with the model's thinking split off and within its budget.

    Every prompt is first given `budget` tokens. Where the model is then still thinking, its block is closed for it and
    the answer is written after that, as after a prefill; where it is not, the answer is written anew with the
    whole length, which gives the same tokens. `max_new_tokens` holds for thinking and answer together. An answer that
    ends inside its thinking is empty, with finish `length`.

    Args:
        lm: the model, with whatever is attached to it.
        prompts: what to answer.
        sampling: how to draw answers.
        how: budget and marks.
        what: what to do to every row, as in `decode`.
        batch_tokens: as in `decode`.
    """
    first = sampling
    if 0 < how.budget < sampling.max_new_tokens:
        first = replace(sampling, max_new_tokens=how.budget)
    cut: list[Response] = []
    for row in decode(lm, prompts, first, what, batch_tokens=batch_tokens):
        if first is not sampling and row.finish == "length":
            cut.append(row)
        else:
            yield _settled(row, how)
    if not cut:
        return
    asked = {prompt.id: prompt for prompt in prompts}
    again: dict[str, tuple[Prompt, Response]] = {}
    closed: dict[str, tuple[Prompt, Response]] = {}
    for row in cut:
        seen = _settled(row, how)
        held = closed if seen.reasoning and not seen.text else again
        held[f"{row.prompt_id}\n{row.sample}"] = (asked[row.prompt_id], seen)
    yield from _whole(lm, again, sampling, how, what, batch_tokens)
    yield from _closed(lm, closed, sampling, _marks(lm.chats, how), what, batch_tokens)


def _whole(
    lm: LM,
    rows: dict[str, tuple[Prompt, Response]],
    sampling: Sampling,
    how: Thinking,
    what: What,
    batch_tokens: int,
) -> Iterator[Response]:
    """Write answers whose thinking kept to the budget with their whole length."""
    wanted = {(row.prompt_id, row.sample) for _, row in rows.values()}
    prompts = list({prompt.id: prompt for prompt, _ in rows.values()}.values())
    for row in decode(lm, prompts, sampling, what, batch_tokens=batch_tokens):
        if (row.prompt_id, row.sample) in wanted:
            yield _settled(row, how)


def _closed(
    lm: LM,
    rows: dict[str, tuple[Prompt, Response]],
    sampling: Sampling,
    marks: tuple[str, str],
    what: What,
    batch_tokens: int,
) -> Iterator[Response]:
    """Close thinking blocks whose budget is used up, and write the answers."""
    opening, closing = marks
    prompts = []
    for key, (prompt, row) in rows.items():
        opened = lm.chats.render(prompt, thinking=sampling.thinking).rstrip().endswith(opening)
        begun = ("" if opened else opening) + row.reasoning + closing
        meta = (*(pair for pair in prompt.meta if pair[0] != "prefill"), ("prefill", begun))
        prompts.append(replace(prompt, id=key, meta=meta))
    spent = max((row.n_tokens for _, row in rows.values()), default=0)
    rest = replace(sampling, samples=1, prefill="", max_new_tokens=max(sampling.max_new_tokens - spent, 1))
    for row in decode(lm, prompts, rest, what, batch_tokens=batch_tokens):
        before = rows[row.prompt_id][1]
        found = split(row.text, markers=(opening, closing.strip())) if not row.reasoning else None
        yield replace(
            row,
            prompt_id=before.prompt_id,
            sample=before.sample,
            text=found.answer if found else row.text,
            reasoning=before.reasoning,
            n_tokens=before.n_tokens + row.n_tokens,
        )


def _marks(chats: Chats, how: Thinking) -> tuple[str, str]:
    """Return what opens and what closes this model's thinking."""
    if how.markers:
        return how.markers[0], f"\n{how.markers[1]}\n\n"
    if chats.harmony:
        return _CHANNELS
    return OPEN, f"\n{CLOSE}\n\n"


def _settled(row: Response, how: Thinking) -> Response:
    """Split by the user's marks, and call an answer that ends inside its thinking cut off."""
    if how.markers and not row.reasoning:
        found = split(row.text, markers=how.markers)
        row = replace(row, text=found.answer, reasoning=found.reasoning)
    if row.reasoning and not row.text and row.finish == "stop":
        row = replace(row, finish="length")
    return row
