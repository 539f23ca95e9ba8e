"""States of prompts, kept between runs: the same model, plan and tokens are read once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from demur.cache import opened
from demur.files import fingerprint
from demur.files import replace as write
from demur.plan import Point
from demur.residuals import capture
from demur.types import Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

STATES = 1
"""Raise when `capture` gives other states than before."""
MOST = 256 * 2**20
"""Bytes above which states are not kept: reading them again costs about what capturing them does."""


def states(
    lm: LM, prompts: Sequence[Prompt], *, layers: Sequence[int], points: tuple[Point, ...], positions: str
) -> Float[torch.Tensor, "prompt *place d_model"]:
    """Return what `capture` does, from the cache where the same was captured before.

    Found by the weights' hash, dtype and kind of device, the attached plan, the prompts' tokens, and the places. A
    model of which no hash is known (one that was never loaded by name) is read anew each time, as are large states.

    Arguments, shapes and errors as for `residuals.capture`.
    """
    kept = opened()
    if kept is None or not lm.ref.revision:
        return capture(lm, list(prompts), layers=layers, points=points, positions=positions)
    rows = [(e.ids, e.prompt, e.instruction) for e in lm.encode_all(list(prompts))]
    model = [replace(lm.ref, id=""), lm.device.type, lm.plan_of(None).fingerprint]
    name = fingerprint([STATES, model, fingerprint(rows), list(layers), list(points), positions])
    path = kept.folder / "states" / f"{name}.npy"
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        pass  # not there, or damaged: made anew
    made = capture(lm, list(prompts), layers=layers, points=points, positions=positions)
    if made.dtype == torch.float32 and made.nbytes <= MOST:
        file = io.BytesIO()
        np.save(file, made.cpu().numpy(), allow_pickle=False)
        write(path, file.getvalue())
    return made
