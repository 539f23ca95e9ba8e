"""How the probability of a refusal moves during a training, by class of prompts: one row per checkpoint and class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from demur.checkpoints import found
from demur.counted import codes, mean
from demur.errors import DataError
from demur.interventions.adapter import Adapter
from demur.lora import Lora
from demur.readout import Openers, p_refuse
from demur.screen import Screen
from demur.types import Prompt

if TYPE_CHECKING:
    from demur.lm import LM


def along(
    lm: LM, folder: Path, prompts: Sequence[Prompt], classes: Sequence[str], openers: Openers
) -> list[dict[str, Any]]:
    """Read P(refuse) at the first answer token at every checkpoint of a training, and before it (step 0).

    Args:
        lm: the model that was trained.
        folder: holds the checkpoints, in itself or below (`training/HASH` of a fit's folder).
        prompts: what is asked.
        classes: the class of each.
        openers: of refusals; those of the model after the training, where it refused nothing before.

    Returns:
        rows with step, class, mean P(refuse) and an interval that resamples groups.

    Raises:
        DataError: when there is no whole checkpoint.
    """
    places = [p.folder for p in found(folder)] or [
        c.folder for below in sorted(folder.rglob("checkpoint-*/..")) for c in found(below.resolve())
    ]
    places = sorted(set(places), key=lambda place: int(place.name.rpartition("-")[2]))
    if not places:
        raise DataError(f"{folder} holds no whole checkpoint of a training")
    if len({place.parent for place in places}) > 1:
        raise DataError(
            f"{folder} holds several trainings; name one: {', '.join(sorted({str(p.parent) for p in places}))}"
        )
    screen, named, groups = Screen(lm, prompts), np.array(classes), codes(list(prompts))
    made = []
    for step, what in [(0, None), *((int(p.name.rpartition("-")[2]), Adapter(lora=Lora.read(p))) for p in places)]:
        values = p_refuse(screen.logits(what), openers).double().numpy()
        for name in dict.fromkeys(classes):
            number = mean(values, named == name, groups, n_unscored=0)
            row = {"step": step, "class": name, "value": number.value, "low": number.low, "high": number.high}
            made.append({**row, "n": number.n})
    return made
