"""Losses of training: tensors in, one loss per example out, so that callers weigh and average as they like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

IGNORED = -100
"""The label of a token that is not to be learnt."""


def token_logprobs(
    logits: Float[Tensor, "row token vocab"], labels: Int[Tensor, "row token"]
) -> tuple[Float[Tensor, "row next"], Float[Tensor, "row next"]]:
    """Return the log-probability of each token given those before it, and 1 where it is to be learnt.

    Args:
        logits: what the model gives at each token.
        labels: the tokens themselves, `IGNORED` where they are not to be learnt.

    Returns:
        two tensors with one column fewer than `labels`: the first token has nothing before it. In float32.
    """
    wanted = labels[:, 1:]
    mask = wanted != IGNORED
    flat = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), wanted.clamp(min=0).flatten(), reduction="none"
    ).view_as(wanted)
    return -flat * mask, mask.float()


def nll(logits: Float[Tensor, "row token vocab"], labels: Int[Tensor, "row token"]) -> Float[Tensor, " row"]:
    """Return the mean negative log-probability of each row's learnt tokens, in nats; 0 for a row without any."""
    found, mask = token_logprobs(logits, labels)
    return -found.sum(1) / mask.sum(1).clamp(min=1)


def dpo(
    chosen: Float[Tensor, " row"],
    rejected: Float[Tensor, " row"],
    reference_chosen: Float[Tensor, " row"],
    reference_rejected: Float[Tensor, " row"],
    *,
    beta: float = 0.1,
) -> Float[Tensor, " row"]:
    """Return -log sigmoid(beta ((chosen - reference chosen) - (rejected - reference rejected))) of each pair.

    Direct preference optimisation (Rafailov et al., arXiv 2305.18290, equation 7).

    Args:
        chosen: summed log-probability of the chosen answers under the model that is trained.
        rejected: the same of the rejected answers.
        reference_chosen: the same of the chosen answers under the model before training.
        reference_rejected: the same of the rejected answers.
        beta: how strongly the model is held to the reference; log 2 is the loss at the start, whatever it is.
    """
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -F.logsigmoid(beta * margin)
