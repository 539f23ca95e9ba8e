"""The trainer: losses against trl and formulas, order, checkpoints whole or not there, a kill, two processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from demur import heads, losses
from demur.checkpoints import found
from demur.errors import ConfigError, ModelError
from demur.interventions.adapter import Adapter
from demur.lm import attach
from demur.lora import Lora
from demur.responses import Pair, export
from demur.thirdparty import quiet
from demur.training import How, completion, order, preference, shared_copy, train
from demur.types import Prompt
from tests.models.families import lm

pytestmark = pytest.mark.torch

PROMPTS = [
    Prompt(id=str(i), text=f"question {i}", expected="comply", kind="plain" if i % 3 else "borderline", source="t")
    for i in range(16)
]
PREFERENCES = [preference(p, f"answer {p.id}", "no, sorry") for p in PROMPTS]
COMPLETIONS = [completion(p, f"answer {p.id}") for p in PROMPTS]
HOW = How(rate=1e-2, epochs=2, batch=8, rank=4, alpha=8, dropout=0.0, checkpoints=2)


def plug(model: Any, batch: Any) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return losses.nll(logits, batch["labels"])


def test_nll_and_dpo_are_their_formulas() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0], [9.0, 9.0]]] * 2)
    labels = torch.tensor([[0, 1, 0], [0, losses.IGNORED, 0]])
    expected = [-(math.log(3 / 4) + math.log(4 / 5)) / 2, -math.log(4 / 5)]
    assert losses.nll(logits, labels).tolist() == pytest.approx(expected)
    assert losses.nll(logits, torch.full((2, 3), losses.IGNORED)).tolist() == [0, 0]
    one = torch.tensor([-1.0, -2.0])
    found_losses = losses.dpo(one, one - 3, one - 0.5, one - 1.5, beta=0.5)
    assert found_losses.tolist() == pytest.approx([math.log(1 + math.exp(-0.5 * 2.0))] * 2)


def test_each_pass_holds_every_row_once_and_spreads_the_kinds() -> None:
    kinds = ["a"] * 30 + ["b"] * 10
    indices = order(kinds, How(batch=8, epochs=2))
    assert len(indices) == 80
    for half in (indices[:40], indices[40:]):
        assert sorted(half) == list(range(40))
    counts = [Counter(kinds[i] for i in indices[at : at + 8])["b"] for at in range(0, 80, 8)]
    assert min(counts) >= 1
    assert max(counts) <= 3
    assert order(kinds, How(batch=8, epochs=2, seed=1)) != indices
    assert len(order(kinds, How(batch=32))) == 64


@pytest.mark.parametrize("objective", ["sft", "dpo", "dpo_sft"])
def test_training_lowers_the_loss_and_leaves_the_model_as_it_was(objective: Any, tmp_path: Path) -> None:
    model = lm("llama")
    rows = COMPLETIONS if objective == "sft" else PREFERENCES
    ids = torch.tensor([[5, 6, 7]])
    before = model.module(input_ids=ids).logits
    names = {name: p.data_ptr() for name, p in model.module.named_parameters()}
    done = train(model, rows, tmp_path, objective=objective, how=HOW, score=lambda c: {"at": c.step})
    assert torch.equal(model.module(input_ids=ids).logits, before)
    assert {name: p.data_ptr() for name, p in model.module.named_parameters()} == names
    assert [(c.step, c.score) for c in done.checkpoints] == [(2, {"at": 2}), (4, {"at": 4})]
    assert len(done.losses) == 4
    assert done.losses[-1] < done.losses[0] - 0.05
    if objective == "dpo":
        assert done.losses[0] == pytest.approx(math.log(2), abs=1e-4)
    with attach(model, Adapter(lora=Lora.read(done.checkpoints[-1].folder))):
        assert not torch.equal(model.module(input_ids=ids).logits, before)
    again = train(model, rows, tmp_path, objective=objective, how=HOW, score=lambda c: {"at": 9})
    assert again == done


def test_a_loss_handed_in_gives_about_what_trl_gives(tmp_path: Path) -> None:
    ours = train(lm("llama"), COMPLETIONS, tmp_path, objective=plug, how=HOW)
    theirs = train(lm("llama"), COMPLETIONS, tmp_path, objective="sft", how=HOW)
    assert ours.losses == pytest.approx(theirs.losses, rel=5e-3)  # trl's mean is over tokens, ours over rows


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_head_on_a_cpu_gives_what_trls_gives(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared_copy(lm(family)).requires_grad_(True)
    add_fused_lm_head(model)
    ids = torch.randint(0, 250, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, losses.IGNORED)
    labels[0, 4:7], labels[1, 6:] = ids[0, 4:7], ids[1, 6:]  # the third row is not trained on

    def made() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        given = model(input_ids=ids, labels=labels, fused_lm_head=True)
        into = next(p for name, p in model.named_parameters() if "mlp" in name)
        (grad,) = torch.autograd.grad(given.log_probs.sum(), into)
        return given.log_probs, given.label_mask, grad

    theirs = made()
    heads.put_on(model)
    asked: list[int] = []
    monkeypatch.setattr(heads, "scored", lambda *given, own=heads.scored: asked.append(len(given[2])) or own(*given))
    torch.testing.assert_close(made(), theirs)
    assert asked == [5]  # places 3 to 5 and 5 to 7
    plain = model(input_ids=ids, labels=labels)
    assert plain.logits.shape[:2] == ids.shape
    assert plain.loss.item() == pytest.approx(-theirs[0].sum().item() / 6, rel=1e-5)
    monkeypatch.setattr(heads, "MOST", 5)
    torch.testing.assert_close(made(), theirs)
    assert asked == [5]


def test_a_training_on_a_cpu_has_that_head_and_logs_nothing_it_does_not_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(heads, "scored", lambda *given, own=heads.scored: asked.append(1) or own(*given))
    done = train(lm("llama"), PREFERENCES, tmp_path, objective="dpo_sft", how=HOW)
    assert len(asked) == 2 * len(done.losses)  # once now, once with the adapter off
    log = json.loads((done.checkpoints[-1].folder / "trainer_state.json").read_text())["log_history"]
    assert {"loss", "grad_norm", "rewards/accuracies"} <= log[0].keys()
    assert not set(heads.UNREAD) & log[0].keys()


def test_only_whole_checkpoints_are_resumed_and_give_the_same_losses(tmp_path: Path) -> None:
    whole = train(lm("llama"), PREFERENCES, tmp_path / "whole", how=HOW)
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    last = tmp_path / "torn" / whole.folder.name / "checkpoint-4"
    (last / "optimizer.pt").write_bytes((last / "optimizer.pt").read_bytes()[:-7])
    assert [c.step for c in found(last.parent)] == [2]
    (last.parent / ".partial" / "checkpoint-4").mkdir(parents=True, exist_ok=True)
    torn = train(lm("llama"), PREFERENCES, tmp_path / "torn", how=HOW)
    assert torn.losses == whole.losses
    weights = [Lora.read(t.checkpoints[-1].folder).tensors for t in (whole, torn)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_loss_that_is_not_finite_ends_the_training_before_it_is_saved(tmp_path: Path) -> None:
    calls = iter(range(100))

    def breaks(model: Any, batch: Any) -> torch.Tensor:
        return plug(model, batch) * (float("nan") if next(calls) == 2 else 1.0)

    with pytest.raises(ModelError, match="the loss is nan at update 3; lower the rate"):
        train(lm("llama"), COMPLETIONS, tmp_path, objective=breaks, how=HOW)
    assert [c.step for place in tmp_path.iterdir() for c in found(place)] == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rank": -1}, "rank is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"batch": 0}, "batch"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        How(**settings)


def test_exported_rows_load_in_datasets_and_train_in_plain_trl(tmp_path: Path) -> None:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    pairs = [Pair(prompt=p, role="benign", chosen="yes, so", rejected="no") for p in PROMPTS[:4]]
    export([*pairs, Pair(prompt=PROMPTS[5], role="general", chosen="only sft")], tmp_path / "data")
    common = {"report_to": "none", "max_steps": 1, "use_cpu": True, "bf16": False, "disable_tqdm": True}
    common |= {"activation_checkpointing": False, "dataloader_pin_memory": False, "save_strategy": "no"}
    given = {"processing_class": lm("llama").tokenizer}
    with quiet():
        for name, count, kind, config in (
            ("preference", 4, DPOTrainer, DPOConfig),
            ("sft", 5, SFTTrainer, SFTConfig),
        ):
            file = str(tmp_path / "data" / f"{name}.jsonl")
            data = datasets.load_dataset("json", data_files=file, cache_dir=str(tmp_path / "cache"), split="train")
            assert len(data) == count
            args = config(output_dir=str(tmp_path / name), **common)
            model = shared_copy(lm("llama"))
            model.requires_grad_(False)
            extra = {"ref_model": shared_copy(lm("llama"))} if name == "preference" else {}
            made = kind(model=model, args=args, train_dataset=data, **given, **extra)
            assert made.train_dataset[0]["chosen_ids" if name == "preference" else "input_ids"]


WORKER = """
import sys, json, os, time
from pathlib import Path
from tests.models.test_training import PREFERENCES, COMPLETIONS, HOW
from tests.models.families import lm
from demur.training import How, train
from dataclasses import replace
import torch
torch.set_num_threads(1)
out, objective, steps, nap = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
rows = COMPLETIONS if objective == "sft" else PREFERENCES
how = replace(HOW, epochs=steps / 2, checkpoints=max(2, steps // 2))
if objective == "weights":
    objective, how = "dpo", replace(how, rank=0, rate=1e-3)
if objective == "stream":
    from tests.models import test_representation as stream
    rows, objective = stream.course(stream.parts(), steps), stream.parted()
    how = replace(stream.HOW, checkpoints=how.checkpoints)
done = train(lm("llama"), rows, out, objective=objective, how=how, score=lambda c: time.sleep(nap) or {})
if os.environ.get("RANK", "0") == "0":
    parts = [value for values in done.parts.values() for value in values]
    (out / "losses.json").write_text(json.dumps([*done.losses, *parts]))
"""


def launch(out: Path, objective: str, steps: int = 6, nap: float = 0.0, processes: int = 1) -> subprocess.Popen[bytes]:
    out.mkdir(parents=True, exist_ok=True)
    script = out.parent / "worker.py"
    script.write_text(WORKER)
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"}
    words = [str(script), str(out), objective, str(steps), str(nap)]
    if processes > 1:  # --multi_gpu is torchrun; where there is no GPU the processes are on the CPU, joined by gloo
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
        flags += ["--dynamo_backend", "no", "--main_process_port", str(port), "--num_cpu_threads_per_process", "1"]
        words = ["-m", "accelerate.commands.launch", *flags, *words]
    return subprocess.Popen(
        [sys.executable, *words], env=env, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def curve(out: Path, *words: Any, **named: Any) -> list[float]:
    process = launch(out, *words, **named)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]
    return json.loads((out / "losses.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "dpo", "stream", "weights"])
def test_two_processes_train_to_the_losses_of_one(objective: str, tmp_path: Path) -> None:
    one = curve(tmp_path / "one", objective)
    two = curve(tmp_path / "two", objective, processes=2)
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "stream"])
def test_a_killed_training_continues_as_if_undisturbed(objective: str, tmp_path: Path) -> None:
    whole = curve(tmp_path / "whole", objective, 12)
    for goal in (1, 3, 5):
        process = launch(tmp_path / "killed", objective, 12, 0.3)
        while process.poll() is None and sum(len(found(f)) for f in (tmp_path / "killed").glob("*")) < goal:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert curve(tmp_path / "killed", objective, 12) == whole
