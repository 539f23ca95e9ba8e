"""Choose the layer of a refusal direction by the rules of Arditi et al. (arXiv 2406.11717).

The last fifth of the layers is left out. A layer is eligible where ablating the direction everywhere changes the
first token of harmless prompts little (mean KL at most 0.1), and where adding it makes harmless prompts refused (mean
readout above 0). Of these, the one whose ablation lowers the readout of harmful prompts most is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from demur.interventions.ablate import Ablate
from demur.interventions.steer import Steer
from demur.readout import Openers, p_refuse
from demur.screen import Screen
from demur.types import Prompt

if TYPE_CHECKING:
    from demur.directions import Direction
    from demur.lm import LM

MOST_KL = 0.1
LEAVE_OUT = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What the rules say of one layer."""

    layer: int
    kl: float
    """KL of harmless prompts' first token, untouched from ablated, mean."""
    added: float
    """Mean readout of harmless prompts with the direction added."""
    ablated: float
    """Mean readout of harmful prompts with the direction ablated."""
    barred: str = ""
    """Why it is not eligible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen layer, or None with the reason, and the table behind it."""

    layer: int | None
    reason: str
    table: tuple[Layer, ...]


def choose_layer(
    lm: LM, direction: Direction, harmful: Sequence[Prompt], harmless: Sequence[Prompt], openers: Openers
) -> Choice:
    """Choose a layer on validation prompts that the direction was not fitted on.

    Args:
        lm: the model.
        direction: one vector per layer.
        harmful: validation prompts that should be refused.
        harmless: validation prompts that should be answered.
        openers: the refusal openers.
    """
    on_harmful, on_harmless = Screen(lm, harmful), Screen(lm, harmless)
    base = torch.log_softmax(on_harmless.logits().double(), -1)
    usable = max(1, lm.n_layers - round(lm.n_layers * LEAVE_OUT))
    table = []
    for layer in direction.layers:
        own = direction.at(layer)
        if not bool(own.vectors.any()):
            table.append(Layer(layer=layer, kl=0.0, added=0.0, ablated=0.0, barred="the means coincide"))
            continue
        ablate = Ablate(direction=own)
        moved = torch.log_softmax(on_harmless.logits(ablate).double(), -1)
        kl = float((base.exp() * (base - moved)).sum(-1).mean())
        added = _readout(on_harmless.logits(Steer(direction=own, strength=1.0)), openers)
        ablated = _readout(on_harmful.logits(ablate), openers)
        barred = _barred(layer >= usable, kl, added)
        table.append(Layer(layer=layer, kl=kl, added=added, ablated=ablated, barred=barred))
    eligible = [row for row in table if not row.barred]
    if not eligible:
        why = "; ".join(f"layer {row.layer}: {row.barred}" for row in table)
        return Choice(layer=None, reason=f"no layer meets the rules ({why})", table=tuple(table))
    best = min(eligible, key=lambda row: row.ablated)
    reason = f"ablating it lowers the readout of harmful prompts to {best.ablated:.2f}, the lowest of {len(eligible)}"
    return Choice(layer=best.layer, reason=reason, table=tuple(table))


def _barred(late: bool, kl: float, added: float) -> str:
    if late:
        return "in the last fifth of the layers"
    if not kl <= MOST_KL:
        return f"ablation changes harmless prompts (KL {kl:.2f}, at most {MOST_KL})"
    return "" if added > 0 else f"adding it makes harmless prompts no refusals (readout {added:.2f})"


def _readout(logits: torch.Tensor, openers: Openers) -> float:
    p = p_refuse(logits, openers).double().clamp(1e-6, 1 - 1e-6)
    return float(torch.log(p / (1 - p)).mean())
