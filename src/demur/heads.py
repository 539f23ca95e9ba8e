"""A head for trl's losses where its own is slow: without Triton it makes the logits of every token, twice, in tiles.

On a CPU that is a quarter of a training's time on a small model with a large vocabulary. The head here makes the logits
of the tokens that some row of the batch is trained on, once, and leaves the rest to torch's cross-entropy. It keeps
them all in memory, so where they are many, trl's tiles stay.
"""

from __future__ import annotations

import inspect
import types
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from trl.trainer.utils import FusedCausalLMOutput

from demur.losses import IGNORED

MOST = 2**26
"""Logits that are kept at once: 256 MiB in float32; their gradient takes as much again."""
UNREAD = ("entropy", "mean_token_accuracy", "logits/chosen", "logits/rejected")
"""What trl logs of the tokens beside the loss: nothing here reads it, and the head does not make it."""


def put_on(model: Any) -> None:
    """Give a model that trl has prepared the head of this module, for batches that are small enough.

    Models whose own `forward` cannot leave out tokens keep trl's.
    """
    tiled = model.forward
    if "logits_to_keep" not in inspect.signature(type(model).forward).parameters:
        return

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **given: Any) -> Any:
        if fused_lm_head and labels is not None and not given.get("output_router_logits"):
            places = (labels[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
            if 0 < len(labels) * len(places) * self.config.get_text_config().vocab_size <= MOST:
                given["use_cache"] = False
                return scored(tiled(*args, **given, logits_to_keep=places).logits, labels[:, 1:], places)
        if labels is not None:
            given["labels"] = labels
        return tiled(*args, fused_lm_head=fused_lm_head, **given)

    forward.__signature__ = inspect.signature(type(model).forward)  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)


def scored(logits: Tensor, wanted: Tensor, places: Tensor) -> FusedCausalLMOutput:
    """Return log-probabilities as trl's head does; 0 where nothing is to be said.

    Args:
        logits: Float["row place vocab"].
        wanted: Int["row token"], the token that follows each; `IGNORED` where it does not count.
        places: Int[" place"], the tokens whose logits were made.
    """
    said = wanted[:, places]
    made = -cross_entropy(logits.flatten(0, 1).float(), said.flatten(), reduction="none", ignore_index=IGNORED)
    log_probs = torch.zeros(wanted.shape, device=made.device).index_copy(1, places, made.view(said.shape))
    unknown = torch.zeros_like(log_probs)
    return FusedCausalLMOutput(
        log_probs=log_probs,
        entropy=unknown,
        mean_logits=unknown,
        is_top1=unknown.bool(),
        label_mask=wanted != IGNORED,
    )
