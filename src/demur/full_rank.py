"""Training the weights themselves: an adapter of full rank, one factor of which is the identity and stays so.

With A = I the change B A of a weight is B: the gradient of B is that of the weight, and AdamW without decay, which
looks at each entry alone, takes B where it would take the weight, rounding apart. So a change of all entries is an
adapter like any other: the model before it is that with the adapter off, checkpoints are resumed, other adapters are
stacked on it, and peft, exports and the server read it. The price is the identity: two more products in each pass, and
files up to twice as large as the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def rank(module: Any, layers: Sequence[str]) -> int:
    """Return the least rank at which any change of any of some linear layers fits."""
    return max(int(min(module.get_submodule(name).weight.shape)) for name in layers)


def start(model: Any) -> None:
    """Set each layer's adapter to one factor of ones on its diagonal, which is frozen, and one of zeros to train."""
    for kept, trained in _factors(model):
        with torch.no_grad():
            kept.copy_(torch.eye(*kept.shape))
            trained.zero_()
    freeze(model)


def freeze(model: Any) -> None:
    """Keep the identities out of the training; to be done again where peft has read an adapter to train on."""
    for kept, _ in _factors(model):
        kept.requires_grad_(False)


def _factors(model: Any) -> list[tuple[Any, Any]]:
    """Return the factors of each layer: that on the side with no more units than the rank, and the other."""
    found = []
    for part in model.modules():
        for name in getattr(part, "lora_A", ()):
            down, up = part.lora_A[name].weight, part.lora_B[name].weight
            found.append((down, up) if down.shape[1] <= down.shape[0] else (up, down))
    return found
