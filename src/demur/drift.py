"""How much an intervention moves the likelihood of answers that are given: a cheap measure of side effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from demur.errors import DataError
from demur.plan import Plan
from demur.tasks import Task, along
from demur.types import Prompt
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

BATCH_TOKENS = 4096
MOST_TOKENS = 128
"""Tokens of each answer that are read."""


def mean_logprobs(
    lm: LM, prompts: Sequence[Prompt], answers: Sequence[str], what: Plan | Intervention | None = None
) -> list[float]:
    """Return the mean log-probability of each answer's first tokens (at most 128) under a plan, teacher-forced.

    Raises:
        DataError: without prompts, or for an answer without tokens.
    """
    texts = [lm.chats.bare(answer)[:MOST_TOKENS] for answer in answers]
    if not prompts or len(prompts) != len(texts) or not all(texts):
        raise DataError(
            f"drift needs a text as answer to each prompt; got {len(prompts)} prompts, {len(texts)} answers"
        )
    plan = lm.plan_of(what)
    told = lm.chats.tell(prompts, plan)
    waiting = [Task(p, 0, t.pop(0), lm.bound(plan), [], told=t) for p, t in zip(prompts, told, strict=True)]
    found = [0.0] * len(prompts)
    with swapped(lm, edits_of(plan) if what is not None else []):
        for index, logits in along(lm, waiting, texts, batch_tokens=BATCH_TOKENS):
            ids = torch.tensor(texts[index], device=logits.device)
            rows = logits[: len(ids)].double().log_softmax(-1)
            found[index] = float(rows.gather(1, ids[:, None]).mean())
    return found


def drift(before: Sequence[float], after: Sequence[float]) -> float:
    """Return E |s_g(x) - s(x)|, in nats per token (Refusal Steering, arXiv 2512.16602)."""
    return sum(abs(b - a) for b, a in zip(before, after, strict=True)) / len(before)
