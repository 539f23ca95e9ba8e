"""The causal side of the boundary: the smallest strength at which steering flips a decision.

alpha*(x) is the smallest alpha of a grid at which the decision at the first answer token flips under
h <- h - alpha v for refused prompts (h + alpha v for answered ones), v added to every token at one layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from demur.chats import Encoded
from demur.errors import ConfigError
from demur.plan import Plan, Point, Site, merge
from demur.readout import Openers, p_refuse
from demur.residuals import batches
from demur.types import Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

Array = npt.NDArray[np.float64]
GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5)
POINT: Point = "resid_post"
BATCH_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """What it takes to flip each decision."""

    alpha: Array
    """alpha*, shape (prompt,); infinite where no strength of the grid flips the decision."""
    start: Array
    """P(refuse) at the first token, untouched."""

    @property
    def refused(self) -> npt.NDArray[np.bool_]:
        """Which prompts were refused, untouched, by the first token."""
        return self.start > 0.5


def flips(
    lm: LM,
    prompts: Sequence[Prompt],
    v: Float[torch.Tensor, " d_model"] | Sequence[Float[torch.Tensor, " d_model"]],
    openers: Openers,
    *,
    layer: int,
    grid: Sequence[float] = GRID,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Flips]:
    """Find alpha* of every prompt along one or several vectors.

    Prompts, vectors and strengths share batches, one plan per row. What lies below the edited place is computed once
    per prompt, for all strengths and vectors. Four strengths are tried at a time, and prompts that flipped leave.

    Args:
        lm: the model.
        prompts: what to flip.
        v: added at the end of block `layer`; several vectors (random controls) are tried side by side.
        openers: the refusal openers.
        layer: the block.
        grid: strengths, ascending, above 0.
        batch_tokens: tokens per forward pass, padding included.

    Returns:
        one `Flips` per vector, in the order of the prompts.

    Raises:
        ConfigError: for a grid that does not ascend from above 0, a layer out of range, or an attached plan with gates.
    """
    if not grid or grid[0] <= 0 or any(b <= a for a, b in itertools.pairwise(grid)):
        raise ConfigError(f"the grid of strengths is {tuple(grid)}; give ascending numbers above 0")
    if not 0 <= layer < lm.n_layers:
        raise ConfigError(f"layer {layer} is out of range; this model has layers 0 to {lm.n_layers - 1}")
    vectors = [v] if isinstance(v, torch.Tensor) else list(v)
    above = _above(lm.plan_of(None), layer)
    plans = {
        (k, sign, alpha): merge((above, Plan(sites=(_site(layer, sign * alpha),), tensors={"v": vector})))
        for k, vector in enumerate(vectors)
        for sign in (-1, 1)
        for alpha in grid
    }
    encoded = lm.encode_all(list(prompts))
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i].ids))
    found = np.full((len(vectors), len(prompts)), np.inf)
    start = np.zeros(len(prompts))
    for run in batches([len(encoded[i].ids) for i in order], batch_tokens):
        rows = [order[i] for i in run]
        work = _Work(lm, [encoded[i] for i in rows], layer, openers, batch_tokens)
        start[rows] = work.start
        found[:, rows] = work.search(plans, len(vectors), grid)
    return [Flips(alpha=own, start=start) for own in found]


def _above(attached: Plan, layer: int) -> Plan:
    """Return what an attached plan does after the edited block; what it does before is in the states already."""
    if attached.gates:
        raise ConfigError("what flips a decision cannot be searched under an attached plan with gates; detach it")
    sites = [replace(s, layers=tuple(n for n in s.layers if n > layer)) for s in attached.sites]
    return replace(attached, sites=tuple(s for s in sites if s.layers), weights=())


def _site(layer: int, strength: float) -> Site:
    return Site(op="add", layers=(layer,), point=POINT, vector="v", strength=strength)


class _Work:
    """A batch of prompts of like length, with the stream after the edited block."""

    def __init__(self, lm: LM, encoded: Sequence[Encoded], layer: int, openers: Openers, tokens: int) -> None:
        self.lm, self.encoded, self.layer, self.openers, self.tokens = lm, list(encoded), layer, openers, tokens
        kept: list[torch.Tensor] = []

        def keep(h: torch.Tensor) -> torch.Tensor:
            kept.append(h)
            return h

        base = [lm.plan_of(None)] * len(self.encoded)
        ids, rows, lengths = lm.batch(self.encoded, base)
        hidden = lm.forward(ids, rows, readers={(layer, POINT): keep})
        self.prefix = kept[0]
        self.start = self._read(hidden, lengths)

    def _read(self, hidden: torch.Tensor, lengths: torch.Tensor) -> Array:
        pick = torch.arange(len(hidden), device=hidden.device)
        found: Array = p_refuse(self.lm.head(hidden[pick, lengths - 1]), self.openers).double().cpu().numpy()
        return found

    def search(self, plans: dict[tuple[int, int, float], Plan], count: int, grid: Sequence[float]) -> Array:
        """Return alpha* per vector and prompt."""
        found = np.full((count, len(self.encoded)), np.inf)
        waiting = [(k, i) for k in range(count) for i in range(len(self.encoded))]
        for first in range(0, len(grid), 4):
            strengths = grid[first : first + 4]
            todo = [(k, i, alpha) for k, i in waiting for alpha in strengths]
            for (k, i, alpha), p in zip(todo, self._steered(plans, todo), strict=True):
                if (p > 0.5) != (self.start[i] > 0.5):
                    found[k, i] = min(found[k, i], alpha)
            waiting = [(k, i) for k, i in waiting if not np.isfinite(found[k, i])]
        return found

    def _steered(self, plans: dict[tuple[int, int, float], Plan], todo: Sequence[tuple[int, int, float]]) -> Array:
        """Return P(refuse) of each (vector, prompt, strength); rows of a batch hold different plans."""
        width = self.prefix.shape[1]
        step = max(1, self.tokens // width)
        made = []
        for at in range(0, len(todo), step):
            part = todo[at : at + step]
            rows_of = [self.encoded[i] for _, i, _ in part]
            chosen = [plans[k, -1 if self.start[i] > 0.5 else 1, alpha] for k, i, alpha in part]
            ids, rows, lengths = self.lm.batch(rows_of, chosen, width=width)
            states = self.prefix[[i for _, i, _ in part]]
            edit = rows.edits(width).get((self.layer, POINT))
            states = states if edit is None else edit(states)
            rows.known = True
            hidden = self.lm.forward(ids, rows, first=self.layer + 1, states=states)
            made.append(self._read(hidden, lengths))
        return np.concatenate(made) if made else np.zeros(0)
