"""Losses of training: tensors in, one loss per example out, so that callers weigh and average as they like.

States are those of the residual stream, with an axis of layers first; "before" means the model with its adapter off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Distance = Literal["norm", "relative", "squared"]
"""How `drift` measures a change of state."""
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


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosines along the last axis, in float32."""
    return (F.normalize(first.float(), dim=-1) * F.normalize(second.float(), dim=-1)).sum(-1)


def _per_row(
    values: Float[Tensor, "layer row token"], mask: Float[Tensor, "row token"], tokens: Float[Tensor, " row"] | None
) -> Float[Tensor, " row"]:
    """Return sum_{l,t} m v / (layers * tokens) of each row; by default its own count of masked tokens."""
    wanted = mask.to(values.dtype)
    divisor = wanted.sum(1) if tokens is None else tokens.to(values.dtype)
    return torch.where(wanted > 0, values, 0.0).sum((0, 2)) / (len(values) * divisor.clamp(min=1))


def rerouting(
    now: Float[Tensor, "layer row token d_model"],
    before: Float[Tensor, "layer row token d_model"],
    mask: Float[Tensor, "row token"],
    *,
    tokens: Float[Tensor, " row"] | None = None,
) -> Float[Tensor, " row"]:
    """Return sum_{l,t} m_t relu(cos(h_lt, h'_lt)) / (layers * tokens) of each row.

    The erase loss of Circuit Breakers (Zou et al., arXiv 2406.04313). It is 1 where nothing has changed and 0 where
    every state is at a right angle to, or points away from, what it was.

    Args:
        now: states of the model that is trained, h.
        before: states of the same tokens before training, h'.
        mask: 1 at the tokens that count.
        tokens: what each row's sum is divided by; by default its own count. Where all rows of a batch are given their
            mean count, the mean over rows is the mean over the batch's tokens, as the paper's code has it.
    """
    return _per_row(F.relu(_cosines(now, before)), mask, tokens)


def drift(
    now: Float[Tensor, "layer row token d_model"],
    before: Float[Tensor, "layer row token d_model"],
    mask: Float[Tensor, "row token"],
    *,
    tokens: Float[Tensor, " row"] | None = None,
    distance: Distance = "norm",
) -> Float[Tensor, " row"]:
    """Return sum_{l,t} m_t d(h_lt, h'_lt) / (layers * tokens) of each row; 0 where nothing has changed.

    The retain loss of Circuit Breakers, and RepBend's `safe` term and (subtracted) `unsafe` term (arXiv 2504.01550),
    both with `norm`. The gradient of a norm of zero is taken as zero.

    Args:
        now: as for `rerouting`, as are `before`, `mask` and `tokens`.
        before: likewise.
        mask: likewise.
        tokens: likewise.
        distance: d: `norm` is ||h - h'||_2; `relative` is that over ||h'||_2, so that states of any length cost alike;
            `squared` is the square of `relative`, whose pull grows with the distance, where that of a norm does not.
    """
    change = torch.linalg.vector_norm(now.float() - before.float(), dim=-1)
    if distance != "norm":
        change = change / torch.linalg.vector_norm(before.float(), dim=-1).clamp(min=1e-12)
    return _per_row(change.square() if distance == "squared" else change, mask, tokens)


def away(
    now: Float[Tensor, "layer row token d_model"],
    target: Float[Tensor, "layer row d_model"],
    mask: Float[Tensor, "row token"],
    *,
    tokens: Float[Tensor, " row"] | None = None,
) -> Float[Tensor, " row"]:
    """Return sum_{l,t} m_t relu(<h_lt / ||h_lt||, a_l>) / (layers * tokens) of each row.

    X-Boundary's term for benign prompts near the boundary (arXiv 2502.09990). `target` is a_l, the mean over the
    tokens of the unit states of another text; it is not made a unit vector again.
    """
    along = (F.normalize(now.float(), dim=-1) * target.float()[:, :, None]).sum(-1)
    return _per_row(F.relu(along), mask, tokens)


def spread(states: Float[Tensor, "layer row d_model"]) -> Float[Tensor, " row"]:
    """Return the mean of 1 - cos(a_i, a_j) over the other rows j and the layers; 0 for a row that is alone.

    RepBend's cosine term (arXiv 2504.01550): it pulls the prompts' last states to one direction.
    """
    unit = F.normalize(states.float(), dim=-1)
    apart = 1 - unit @ unit.transpose(1, 2)
    others = 1 - torch.eye(apart.shape[1], device=apart.device)
    return (apart * others).sum(2).mean(0) / others.sum(1).clamp(min=1)


def kl(
    now: Float[Tensor, "row token vocab"],
    before: Float[Tensor, "row token vocab"],
    mask: Float[Tensor, "row token"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " row"]:
    """Return T^2 sum_t m_t KL(softmax(z'_t / T) || softmax(z_t / T)) of each row: a sum over tokens, no mean.

    RepBend's term on retained texts (T = 2), where its code divides by the batch alone.

    Args:
        now: raw logits of the model that is trained, z.
        before: raw logits before training, z'.
        mask: 1 at the tokens that count.
        temperature: T.
    """
    new, old = (torch.log_softmax(z.float() / temperature, dim=-1) for z in (now, before))
    return temperature**2 * ((old.exp() * (old - new)).sum(-1) * mask).sum(1)


def circle(
    states: Float[Tensor, "row d_model"], labels: Int[Tensor, " row"], *, margin: float = 0.25, gamma: float = 64.0
) -> Float[Tensor, " row"]:
    """Return log(1 + sum_n e^{gamma a_n (s_n - m)} sum_p e^{-gamma a_p (s_p - 1 + m)}) of each row as anchor.

    Circle loss (Sun et al., arXiv 2002.10857): s are cosines to the anchor, p the other rows of its label, n the rows
    of other labels, a_p = [1 + m - s_p]_+ and a_n = [s_n + m]_+ without gradient. 0 for an anchor that lacks either.

    Args:
        states: one vector for each prompt.
        labels: its class.
        margin: m.
        gamma: the scale.
    """
    s = _pairwise(states)
    positive, negative = _pairs(labels)
    pull = -gamma * F.relu(1 + margin - s.detach()) * (s - 1 + margin)
    push = gamma * F.relu(s.detach() + margin) * (s - margin)
    usable = (positive.any(1) & negative.any(1))[:, None]  # rows that are all -inf have no gradient
    terms = [
        torch.where(usable, x, 0.0).masked_fill(usable & ~pairs, -torch.inf).logsumexp(1)
        for x, pairs in ((pull, positive), (push, negative))
    ]
    return torch.where(usable[:, 0], F.softplus(terms[0] + terms[1]), 0.0)


def info_nce(
    states: Float[Tensor, "row d_model"], labels: Int[Tensor, " row"], *, temperature: float = 0.1
) -> Float[Tensor, " row"]:
    """Return the mean over p of -log(e^{s_p / T} / (e^{s_p / T} + sum_n e^{s_n / T})) of each row as anchor.

    InfoNCE with several positives (NT-Xent; van den Oord et al., arXiv 1807.03748), s, p and n as for `circle`. 0 for
    an anchor that lacks either.
    """
    s = _pairwise(states) / temperature
    positive, negative = _pairs(labels)
    usable = positive.any(1) & negative.any(1)
    rest = s.masked_fill(usable[:, None] & ~negative, -torch.inf).logsumexp(1, keepdim=True)
    each = F.softplus(rest - s)
    return torch.where(usable, (each * positive).sum(1) / positive.sum(1).clamp(min=1), 0.0)


def _pairwise(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row row"]:
    unit = F.normalize(states.float(), dim=-1)
    return unit @ unit.T


def _pairs(labels: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
    """Return which pairs of different rows share a label, and which do not."""
    same = labels[:, None] == labels[None]
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


def apart(now: Float[Tensor, "row d_model"], target: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """Return 1 - cos(a, a') of each row: ACTOR's loss on a prompt's state and its target (arXiv 2507.04250)."""
    return 1 - _cosines(now, target)


def shifted(
    states: Float[Tensor, "row d_model"], direction: Float[Tensor, " d_model"], amount: Float[Tensor, " row"]
) -> Float[Tensor, "row d_model"]:
    """Return a + amount * proj_R(a) of each row: ACTOR's target; amount is above 0 for harmful prompts, else below."""
    unit = F.normalize(direction.float(), dim=-1)
    return states.float() + amount[:, None] * (states.float() @ unit)[:, None] * unit
