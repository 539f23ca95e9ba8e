"""A trained adapter outside demur: in plain peft, and merged, in plain transformers."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import torch
import transformers

from demur.export.merged import Merged
from demur.interventions.adapter import Adapter
from demur.lm import LM, attach
from demur.plan import Plan
from demur.thirdparty import quiet
from tests.models.test_interventions import PROMPTS, alone, close, moved

IDS = torch.tensor([PROMPTS[0]])


def same_elsewhere(model: LM, what: Adapter, folder: Path) -> None:
    """Hold the logits of what was saved and exported against those under the adapter, which must do something."""
    with attach(model, what):
        ours = alone(model, PROMPTS[0], Plan())
    assert moved(ours, alone(model, PROMPTS[0], Plan()))
    with quiet():
        wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(model.module), folder / "adapter")
    Merged()(model, what.plan(model), folder / "merged", {})
    merged = transformers.AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    with torch.no_grad():
        assert close(wrapped(input_ids=IDS).logits[0], ours)
        assert close(merged(input_ids=IDS).logits[0], ours)
