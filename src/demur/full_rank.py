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
    """Set one factor of each layer's adapter to the identity, and the other, which is trained, to 0.

    The identity is the factor on the side with no more units than the rank. It is a buffer from now on: peft turns all
    parameters of an adapter trainable whenever it is turned on again.
    """
    for part in model.modules():
        for name in getattr(part, "lora_A", ()):
            down, up = part.lora_A[name], part.lora_B[name]
            kept, trained = (down, up) if down.in_features <= down.out_features else (up, down)
            ones = torch.eye(*kept.weight.shape, dtype=kept.weight.dtype, device=kept.weight.device)
            del kept.weight
            kept.register_buffer("weight", ones)
            torch.nn.init.zeros_(trained.weight)
