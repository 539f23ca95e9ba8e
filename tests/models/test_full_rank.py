"""Training the weights themselves: against a plain loop over the weights, as an adapter, and resumed."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from demur import trainers
from demur.interventions.adapter import Adapter
from demur.lm import LM
from demur.lora import Lora
from demur.training import alike, order, train
from tests.models.adapters import same_elsewhere
from tests.models.families import build, lm, tokenizer
from tests.models.test_training import COMPLETIONS, HOW, PREFERENCES, plug

pytestmark = pytest.mark.torch
FULL = replace(HOW, rank=0, rate=1e-3, dropout=0.05, schedule="constant", warmup=0.0)


def undropped(family: str) -> LM:
    """A model that drops nothing in training."""
    made = LM(build(family), tokenizer(), lm(family).ref)
    for part in made.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return made


def by_hand(model: LM) -> tuple[list[float], Any]:
    """Train the linear layers of the blocks with nothing but torch; return the losses and the model."""
    module = copy.deepcopy(model.module).train()
    layers = trainers.linear(module, range(2))
    weights = [module.get_submodule(name).weight for name in layers]
    module.requires_grad_(False)
    adam = torch.optim.AdamW([w.requires_grad_(True) for w in weights], lr=FULL.rate, weight_decay=0.0)
    rows = trainers.tokenised(model, COMPLETIONS, FULL.max_length)
    indices = alike(order([str(row["kind"]) for row in COMPLETIONS], FULL), COMPLETIONS, FULL.batch)
    found = []
    for at in range(0, len(indices), FULL.batch):
        batch = trainers.padded([rows[i] for i in indices[at : at + FULL.batch]])
        loss = plug(module, batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        adam.zero_grad()
        found.append(float(loss.detach()))
    return found, module


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_is_training_the_weights_themselves(family: str, tmp_path: Path) -> None:
    model = undropped(family)
    expected, module = by_hand(model)
    done = train(model, COMPLETIONS, tmp_path, objective=plug, how=FULL)
    assert done.losses == pytest.approx(expected, rel=1e-4)
    lora = Lora.read(done.checkpoints[-1].folder)
    for edit in Adapter(lora=lora).plan(model).weights:
        change = edit.strength * lora.tensors[edit.up] @ lora.tensors[edit.down]
        before, after = (m.get_submodule(edit.module).weight.detach() for m in (model.module, module))
        wanted = (after - before).T if family == "gpt2" else after - before
        assert float((change - wanted).abs().mean() / wanted.abs().mean()) < 1e-2, edit.module


@pytest.mark.parametrize("objective", [pytest.param("sft", marks=pytest.mark.slow), "dpo"])
def test_it_is_resumed_and_loads_as_any_adapter(objective: Any, tmp_path: Path) -> None:
    rows = COMPLETIONS if objective == "sft" else PREFERENCES
    whole = train(lm("llama"), rows, tmp_path / "whole", objective=objective, how=FULL)
    assert whole.losses[-1] < whole.losses[0]
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    (tmp_path / "torn" / whole.folder.name / "checkpoint-4" / "optimizer.pt").write_bytes(b"")
    torn = train(lm("llama"), rows, tmp_path / "torn", objective=objective, how=FULL)
    assert torn.losses == whole.losses
    what = Adapter.read(whole.checkpoints[-1].folder)
    weights = Lora.read(torn.checkpoints[-1].folder).tensors
    assert all(torch.equal(weights[name], tensor) for name, tensor in what.lora.tensors.items())
    what.save(tmp_path / "it")
    same_elsewhere(lm("llama"), what, tmp_path / "it")
