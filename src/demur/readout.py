"""The behavioural readout: how much probability the model gives, at its first answer token, to opening a refusal.

r(x) = log p_R / (1 - p_R), with p_R the probability mass of the refusal openers. The opener set is *found* on
the model: the first tokens of its own refusals, less those of its own answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from demur.errors import DataError
from demur.types import Response, Verdict

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

REFUSALS = ("refusal", "partial_refusal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Openers:
    """Token ids that open a refusal, and how often they agree with the judge on the answers they came from."""

    ids: tuple[int, ...]
    agreement: float
    n: int


def find_openers(lm: LM, responses: Sequence[Response], verdicts: Sequence[Verdict]) -> Openers:
    """Find the refusal openers on the model's own judged answers.

    A first token counts as an opener when more of the answers it begins were judged refusals than not.

    Raises:
        DataError: when none of the answers was a refusal, or none was anything else.
    """
    labels = {(v.prompt_id, v.sample): v.label for v in verdicts if v.question == "refusal" and v.label}
    refused: Counter[int] = Counter()
    other: Counter[int] = Counter()
    for response in responses:
        label = labels.get((response.prompt_id, response.sample))
        if label is None or not response.text:
            continue
        ids = lm.tokenizer(response.text, add_special_tokens=False)["input_ids"]
        if ids:
            (refused if label in REFUSALS else other)[int(ids[0])] += 1
    if not refused or not other:
        raise DataError(
            f"refusal openers cannot be found: {sum(refused.values())} refusals and {sum(other.values())} other "
            "answers were judged; both are needed. Fit on prompts of which some are refused and some are not."
        )
    openers = {t for t, count in refused.items() if count > other[t]}
    right = sum(refused[t] for t in openers) + sum(c for t, c in other.items() if t not in openers)
    total = sum(refused.values()) + sum(other.values())
    return Openers(ids=tuple(sorted(openers)), agreement=right / total, n=total)


def p_refuse(logits: Float[torch.Tensor, "prompt vocab"], openers: Openers) -> Float[torch.Tensor, " prompt"]:
    """Return p_R, the probability mass of the openers at the first answer token, in float32."""
    return torch.softmax(logits.float(), dim=-1)[:, list(openers.ids)].sum(-1)
