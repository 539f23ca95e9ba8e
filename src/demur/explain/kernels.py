"""The normalised empirical neural tangent kernel between prompts: how far learning one moves another (DCR, 1.3).

One step on a prompt x moves the next-token logits of x' through K(x', x) = J(x') J(x)^T, J the gradient of the logits
by the weights (Ren & Sutherland, arXiv 2407.10490). Measured is a block of K: the k likeliest next tokens of either
prompt, at the last prompt position, and of it ||K(x', x)||_F / ||K(x', x')||_F (Lu et al., arXiv 2603.03323; the block,
the last blocks and the head alone, and k are those of a description of their code, the rest is ours).

Two ways to the same block: `exact`, by the gradients of all prompts at once (n k gradients are kept), and
`differences`, which keeps one: each column by central differences along that gradient, (z(w + e g) - z(w - e g)) / 2e,
e = eps / |g|, read off for all prompts in one batch. A column costs one backward pass and, by differences, two forward
passes of all n prompts: n k backward and 2 n k forward passes in all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from demur.counted import codes, mean
from demur.errors import ConfigError
from demur.types import Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.chats import Encoded
    from demur.lm import LM

Way = Literal["auto", "exact", "differences"]
CLASSES = ("toxic", "seeming", "general")
"""Harmful prompts, benign ones that look harmful, and plain ones."""
KEPT_BYTES = 2_000_000_000
"""Gradients that `auto` keeps at most; beyond, it takes differences."""
_ROWS = 64
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which block of the kernel, over which weights."""

    tokens: int = 10
    """Next tokens of each prompt, the likeliest."""
    last: int = 2
    """Weights of the last so many blocks and of the head; 0: all weights."""
    eps: float = 1e-3
    """Length of the step of a difference, in the weights."""
    way: Way = "auto"

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.last < 0 or not self.eps > 0:
            raise ConfigError(
                f"kernel: tokens {self.tokens}, last {self.last}, eps {self.eps:g}; tokens must be at least 1, last 0 "
                "or more, eps above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """The kernel between prompts, and what it took."""

    values: Float[Tensor, "prompt of"]
    """||K(x', x)||_F / ||K(x', x')||_F: x' by row, x by column; 1 on the diagonal."""
    way: str
    weights: int
    backward: int
    """Backward passes, of one prompt each."""
    forward: int
    """Forward passes, of all prompts each."""
    seconds: float


def kernel(
    lm: LM, prompts: Sequence[Prompt], settings: Settings | None = None, *, tell: Tell = lambda stage, done, total: None
) -> Kernel:
    """Measure the kernel between prompts; the weights are left as they were, bit for bit.

    Args:
        lm: the model, in float32 or better: half precision loses the differences.
        prompts: one for each row and column.
        settings: block, weights, step.
        tell: progress, in prompts.

    Raises:
        ConfigError: for a model in half precision.
    """
    how, begun = settings or Settings(), time.perf_counter()
    if lm.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"kernel: the model is in {lm.dtype}; load it with dtype float32")
    encoded = lm.encode_all(list(prompts))
    tops = _logits(lm, encoded).topk(how.tokens, dim=-1).indices
    with _trained(lm, how.last) as weights:
        size = sum(w.numel() for w in weights)
        kept = len(prompts) * how.tokens * size * weights[0].element_size()
        way = how.way if how.way != "auto" else "exact" if kept <= KEPT_BYTES else "differences"
        norms = (_exact if way == "exact" else _differences)(lm, encoded, tops, weights, how.eps, tell)
    passes = len(prompts) * how.tokens
    return Kernel(
        values=norms / norms.diagonal()[:, None],
        way=way,
        weights=size,
        backward=passes,
        forward=1 if way == "exact" else 1 + 2 * passes,
        seconds=time.perf_counter() - begun,
    )


def between(found: Kernel, prompts: Sequence[Prompt], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mean of the kernel for each pair of classes, no prompt with itself.

    Args:
        found: the kernel.
        prompts: its prompts.
        classes: the class of each.

    Returns:
        one row per ordered pair: what moves (`of`) by learning `on`, with an interval that resamples the groups of
        what moves.
    """
    values, named, groups = found.values.double().numpy(), np.array(classes), codes(list(prompts))
    other = ~np.eye(len(named), dtype=bool)
    made = []
    for of in dict.fromkeys(classes):
        for on in dict.fromkeys(classes):
            pairs = other & (named == on)[None, :]
            rows = (named == of) & pairs.any(1)
            means = np.where(pairs, values, 0.0).sum(1) / np.maximum(pairs.sum(1), 1)
            number = mean(means, rows, groups, n_unscored=0)
            made.append({"of": of, "on": on, "value": number.value, "low": number.low, "high": number.high,
                         "n": int((rows[:, None] & pairs).sum())})  # fmt: skip
    return made


@contextmanager
def _trained(lm: LM, last: int) -> Iterator[list[nn.Parameter]]:
    """Give the weights of the last blocks and the head (or all), ready for gradients; then leave all as it was."""
    parts: list[nn.Module] = [lm.module]
    if last:
        head = lm.module.get_output_embeddings()
        parts = [*list(lm.blocks)[-last:], *([head] if isinstance(head, nn.Module) else [])]
    chosen = list(dict.fromkeys(w for part in parts for w in part.parameters()))
    every = list(lm.module.parameters())
    needed = [w.requires_grad for w in every]
    for w in every:
        w.requires_grad_(False)
    for w in chosen:
        w.requires_grad_(True)
    try:
        yield chosen
    finally:
        for w, was in zip(every, needed, strict=True):
            w.requires_grad_(was)


@torch.no_grad()
def _logits(lm: LM, encoded: Sequence[Encoded]) -> Float[Tensor, "prompt vocab"]:
    """Return the logits of the first answer token of every prompt."""
    made = []
    for start in range(0, len(encoded), _ROWS):
        ids, rows, lengths = lm.batch(encoded[start : start + _ROWS])
        hidden = lm.forward(ids, rows)
        made.append(lm.head(hidden[torch.arange(len(lengths), device=ids.device), lengths - 1]))
    return torch.cat(made)


def _gradients(lm: LM, row: Encoded, tokens: Tensor, weights: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the gradient of each token's logit at the last prompt position, by the weights."""
    with torch.enable_grad():
        ids = torch.tensor([row.ids], device=lm.device)
        logits = lm.module(input_ids=ids, use_cache=False).logits[0, -1]
        for number, token in enumerate(tokens.tolist(), start=1):
            found = torch.autograd.grad(logits[token], weights, retain_graph=number < len(tokens), allow_unused=True)
            yield tuple(torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True))


def _exact(
    lm: LM, encoded: Sequence[Encoded], tops: Tensor, weights: Sequence[Tensor], eps: float, tell: Tell
) -> Float[Tensor, "prompt of"]:
    """Return ||K(x', x)||_F by all gradients at once."""
    del eps
    kept: list[Tensor] = []
    for number, (row, tokens) in enumerate(zip(encoded, tops, strict=True)):
        tell("kernel", number, len(encoded))
        kept += [torch.cat([g.flatten() for g in own]) for own in _gradients(lm, row, tokens, weights)]
    tell("kernel", len(encoded), len(encoded))
    all_ = torch.stack(kept)
    n, k = tops.shape
    return (all_ @ all_.T).view(n, k, n, k).square().sum((1, 3)).sqrt().cpu()


def _differences(
    lm: LM, encoded: Sequence[Encoded], tops: Tensor, weights: Sequence[Tensor], eps: float, tell: Tell
) -> Float[Tensor, "prompt of"]:
    """Return ||K(x', x)||_F column by column, by central differences along one gradient at a time."""
    squares = torch.zeros(len(encoded), len(encoded), dtype=torch.float64)
    before = [w.detach().clone() for w in weights]

    def at(step: float, along: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            for w, start, g in zip(weights, before, along, strict=True):
                w.copy_(start + step * g)
        return _logits(lm, encoded).double().gather(1, tops)

    try:
        for number, (row, tokens) in enumerate(zip(encoded, tops, strict=True)):
            tell("kernel", number, len(encoded))
            for along in list(_gradients(lm, row, tokens, weights)):
                step = eps / float(torch.stack([g.norm() for g in along]).norm())
                column = (at(step, along) - at(-step, along)) / (2 * step)
                squares[:, number] += column.square().sum(1).cpu()
                with torch.no_grad():
                    for w, start in zip(weights, before, strict=True):
                        w.copy_(start)
        tell("kernel", len(encoded), len(encoded))
    finally:
        with torch.no_grad():
            for w, start in zip(weights, before, strict=True):
                w.copy_(start)
    return squares.sqrt()
