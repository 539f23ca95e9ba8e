"""What an intervention costs: how far it moves the model's predictions where nothing should change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from demur.chats import Encoded
from demur.errors import DataError
from demur.lm import LM
from demur.plan import Intervention, Plan
from demur.residuals import batches
from demur.types import Prompt, Response
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from jaxtyping import Float

POSITIONS = 32
BATCH_TOKENS = 4096


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


def kl(base: Float[torch.Tensor, "... vocab"], other: Float[torch.Tensor, "... vocab"]) -> Float[torch.Tensor, ...]:
    """Return KL(base || other) from raw logits, in float64 and nats."""
    p, q = base.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


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
    base = _rows(lm, prompts, responses, None)
    moved = _rows(lm, prompts, responses, plan.system)
    order = sorted(range(len(prompts)), key=lambda i: len(moved[i].ids))
    first, mean, positions = [], [], 0
    for run in batches([len(moved[i].ids) for i in order], BATCH_TOKENS):
        batch = [order[i] for i in run]
        before = _logits(lm, [base[i] for i in batch], Plan())
        with swapped(lm, edits_of(plan)):
            after = _logits(lm, [moved[i] for i in batch], plan)
        for own, other in zip(before, after, strict=True):
            distance = kl(own, other)
            first.append(float(distance[0]))
            mean.append(float(distance.mean()))
            positions += len(distance)
    return Price(
        price_kl_first=sum(first) / len(first),
        price_kl=sum(mean) / len(mean),
        prompts=len(prompts),
        positions=positions,
    )


def _rows(lm: LM, prompts: Sequence[Prompt], responses: Sequence[Response], system: str | None) -> list[Encoded]:
    made = []
    for encoded, response in zip(lm.chats.encode(prompts, system=system), responses, strict=True):
        answer = lm.tokenizer(response.text, add_special_tokens=False)["input_ids"] if response.text else []
        ids = (*encoded.ids[: encoded.prompt], *answer[: POSITIONS - 1])
        made.append(Encoded(ids, encoded.prompt, encoded.instruction))
    return made


def _logits(lm: LM, encoded: Sequence[Encoded], plan: Plan) -> list[Float[torch.Tensor, "position vocab"]]:
    ids, rows, lengths = lm.batch(encoded, [plan] * len(encoded))
    hidden = lm.forward(ids, rows)
    return [
        lm.head(hidden[i, e.prompt - 1 : int(length)])
        for i, (e, length) in enumerate(zip(encoded, lengths, strict=True))
    ]
