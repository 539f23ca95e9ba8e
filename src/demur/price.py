"""What an intervention costs: how far it moves the model's predictions where nothing should change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from demur import stats
from demur.errors import DataError
from demur.lm import LM
from demur.plan import Intervention, Plan
from demur.tasks import Task, along
from demur.types import Prompt, Response
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from jaxtyping import Float

POSITIONS = 32
BATCH_TOKENS = 4096
TOGETHER = 64
"""Prompts whose logits are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """The price at one position of the answer: mean over the prompts whose answer is that long, in nats."""

    position: int
    """From 1, the first answer token."""
    value: float
    low: float | None
    """95 % interval, groups of prompts resampled; None where there is one group."""
    high: float | None
    n: int
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Kullback-Leibler divergences from the untouched model, in nats, means over prompts."""

    price_kl_first: float
    """At the first answer token."""
    price_kl: float
    """Mean over the first 32 teacher-forced positions of the untouched model's answers."""
    prompts: int
    positions: int
    """Answer positions that `price_kl` rests on."""
    by_position: tuple[At, ...] = ()
    """The curve over the first 32 positions; shorter where no answer is that long."""


def kl(base: Float[torch.Tensor, "... vocab"], other: Float[torch.Tensor, "... vocab"]) -> Float[torch.Tensor, ...]:
    """Return KL(base || other) from raw logits, in float64 and nats.

    Tokens that `other` forbids (logit -inf, as by the plausibility constraint of contrastive decoding) are left out
    of both: cutting unlikely tokens off is what sampling by top-p does as well, and would make every price infinite.
    """
    allowed = other > -torch.inf
    p, q = base.double().masked_fill(~allowed, -torch.inf).log_softmax(-1), other.double().log_softmax(-1)
    return torch.where(allowed, p.exp() * (p - q), 0.0).sum(-1).clamp(min=0)


def price(lm: LM, prompts: Sequence[Prompt], responses: Sequence[Response], what: Plan | Intervention) -> Price:
    """Measure how far an intervention moves the predictions on neutral prompts.

    Args:
        lm: the model.
        prompts: neutral prompts.
        responses: the untouched model's answer to each; its tokens are fed in turn.
        what: the intervention.

    Raises:
        DataError: without prompts, or when prompts and answers do not belong together.
    """
    if not prompts or [p.id for p in prompts] != [r.prompt_id for r in responses]:
        raise DataError(f"price needs an answer to each prompt, in order; got {len(prompts)} and {len(responses)}")
    plan = lm.plan_of(what)
    found: list[Sequence[float]] = [()] * len(prompts)
    for start in range(0, len(prompts), TOGETHER):
        some = slice(start, start + TOGETHER)
        before = _logits(lm, prompts[some], responses[some], Plan())
        with swapped(lm, edits_of(plan)):
            after = _logits(lm, prompts[some], responses[some], plan)
        found[some] = [kl(own, other).tolist() for own, other in zip(before, after, strict=True)]
    return Price(
        price_kl_first=sum(row[0] for row in found) / len(found),
        price_kl=sum(sum(row) / len(row) for row in found) / len(found),
        prompts=len(prompts),
        positions=sum(map(len, found)),
        by_position=curve(found, [p.cluster for p in prompts]),
    )


def curve(distances: Sequence[Sequence[float]], groups: Sequence[str], *, n_boot: int = 1000) -> tuple[At, ...]:
    """Return the mean distance at each position, with group-bootstrap intervals.

    Args:
        distances: for each prompt, its distances from the first position on; rows may end early.
        groups: what is resampled together, one label per prompt.
        n_boot: resamples.
    """
    points = []
    for position in range(max(map(len, distances), default=0)):
        here = [(row[position], group) for row, group in zip(distances, groups, strict=True) if position < len(row)]
        values, labels = [value for value, _ in here], [group for _, group in here]
        totals = stats.group_totals([[value, 1.0] for value in values], labels)
        bounds = stats.bootstrap_interval(totals, stats.ratio, n_boot=n_boot) if len(totals) > 1 else (None, None)
        points.append(
            At(
                position=position + 1,
                value=sum(values) / len(values),
                low=bounds[0],
                high=bounds[1],
                n=len(values),
                groups=len(totals),
            )
        )
    return tuple(points)


def _logits(
    lm: LM, prompts: Sequence[Prompt], responses: Sequence[Response], plan: Plan
) -> list[Float[torch.Tensor, "position vocab"]]:
    """Return the raw logits before each of the first tokens of given answers; a prompt's own prefill is left out."""
    bare = [replace(p, meta=tuple(pair for pair in p.meta if pair[0] != "prefill")) for p in prompts]
    answers = [
        lm.tokenizer(r.text, add_special_tokens=False)["input_ids"][: POSITIONS - 1] if r.text else []
        for r in responses
    ]
    waiting = [
        Task(prompt, 0, told.pop(0), lm.bound(plan), [], told=told)
        for prompt, told in zip(bare, lm.chats.tell(bare, plan), strict=True)
    ]
    found = dict(along(lm, waiting, answers, batch_tokens=BATCH_TOKENS))
    return [found[i] for i in range(len(prompts))]
