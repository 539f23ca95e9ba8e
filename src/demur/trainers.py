"""The transformers trainers behind `training.train`: trl's for its objectives, a plain one for any other loss."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import datasets
import peft
import torch
import transformers
from torch import Tensor
from torch.utils.data import Sampler
from trl.kernels import chunked_logprob
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from demur import full_rank, heads
from demur.architectures import frame
from demur.checkpoints import NAME, STAGING, publish
from demur.losses import IGNORED
from demur.representation import collate
from demur.training import PART
from demur.types import Prompt

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.training import How, Loss, Objective, Row

_NAMES = {f.name for f in dataclasses.fields(transformers.TrainingArguments)}
RECOMPUTING = "activation_checkpointing" if "activation_checkpointing" in _NAMES else "gradient_checkpointing"
"""What transformers calls reading the batch twice to save memory; the name changed in version 5."""

ALWAYS: Mapping[str, Any] = {
    "logging_strategy": "steps",
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "report_to": "none",
    "disable_tqdm": True,
    "optim": "adamw_torch",
    "weight_decay": 0.0,
    RECOMPUTING: False,
    "bf16": False,
    "fp16": False,
    "dataloader_pin_memory": False,
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
}
"""Settings of every training, beside those that the caller chooses."""

CPU_TOKENS = 256
"""Tokens whose logits trl makes at once, on a CPU: its own 4,096 leave the cache, and take 1.2 to 1.6 times as long."""

PRINTS = transformers.PrinterCallback
"""Prints every update; taken out."""


class _Order(Sampler[int]):
    """Gives fixed indices."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class _Whole:
    """Mixed into a trainer: a fixed order of rows, and checkpoints that are whole or not there."""

    indices: list[int]

    def _get_train_sampler(self, train_dataset: Any = None) -> _Order:
        return _Order(self.indices)

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        place = Path(self.args.output_dir)
        staging = place / STAGING
        if self.args.should_save and staging.exists():
            shutil.rmtree(staging)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self.args.output_dir = str(place)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(staging / f"{NAME}{self.state.global_step}", place)
        self.accelerator.wait_for_everyone()

    def _save(self: Any, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the adapter alone; whether the embedding was changed need not be looked up on the hub."""
        if not self.args.should_save:  # under FSDP every process comes here, and the first alone has all weights
            return
        place = Path(output_dir or self.args.output_dir)
        wrapped = self.accelerator.unwrap_model(self.model)
        wrapped.save_pretrained(place, state_dict=state_dict, save_embedding_layers=False)
        torch.save(self.args, place / "training_args.bin")

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none."""


class _Headed(_Whole):
    """A trainer of trl's that logs only what the head makes."""

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log without what `heads.UNREAD` names."""
        for name in heads.UNREAD:
            self._metrics["train"].pop(name, None)
        super().log(logs, start_time)  # type: ignore[misc]


class _Dpo(_Headed, DPOTrainer):
    pass


class _Sft(_Headed, SFTTrainer):
    pass


class Plugged(_Whole, transformers.Trainer):
    """A trainer whose loss is a function from model and batch to one loss per example."""

    plug: Loss
    rows: int
    """Rows per update, over all processes."""
    loss_is_scaled_for_ga = False
    """What a plug gives is a mean over what is read at once: transformers divides by the parts of a batch."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean of the plug's losses."""
        loss = self.plug(model, inputs).mean()
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss, where the plug has any, beside it."""
        parts = getattr(self.plug, "parts", None)
        if parts and "loss" in logs:
            names = sorted(parts)
            sums = torch.tensor([parts.pop(name) for name in names], device=self.args.device)
            for name, value in zip(names, self.accelerator.reduce(sums, "sum").tolist(), strict=True):
                logs[PART + name] = value / self.rows
        super().log(logs, start_time)


WINDOW = 8
"""Updates over which a loss that has grown is looked at."""


class Watch(transformers.TrainerCallback):
    """Ends a training whose loss is not finite or has grown too far, or whose checkpoint says so when called back."""

    def __init__(self, saved: Callable[[], bool], diverged: float = 0.0) -> None:
        self.saved, self.diverged = saved, diverged
        self.broken = ""
        """What broke, and at which update."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at the loss of an update: its parts first, since they say more."""
        seen = {k: float(v) for k, v in (logs or {}).items() if k in ("loss", "grad_norm") or k.startswith(PART)}
        if not seen:
            return
        names = [*sorted(k for k in seen if k.startswith(PART)), "loss", "grad_norm"]
        odd = next((name for name in names if not math.isfinite(seen.get(name, 0.0))), None)
        if odd is not None:
            said = {"loss": "loss", "grad_norm": "norm of the gradient"}.get(odd, odd)
            self.broken = f"the {said} is {seen[odd]} at update {state.global_step}"
        else:
            self.broken = grown([row for row in state.log_history if "loss" in row], names[:-1], self.diverged)
        if self.broken:
            control.should_training_stop, control.should_save = True, False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell that a checkpoint is there."""
        if self.saved():
            control.should_training_stop = True


def grown(updates: Sequence[Mapping[str, float]], names: Sequence[str], times: float) -> str:
    """Return which loss has diverged, and when: "" for none.

    A loss has where its median over the last `WINDOW` updates is more than `times` that of the whole loss over the
    first ones. A part is held against the whole, too, since it may well begin at 0. Nothing is said where the whole
    begins below .01, of less than two windows, or where `times` is 0.
    """
    if not times or len(updates) < 2 * WINDOW:
        return ""
    began = abs(statistics.median(row["loss"] for row in updates[:WINDOW]))
    if began < 0.01:
        return ""
    for name in names:
        now = statistics.median(row[name] for row in updates[-WINDOW:])
        if now > times * began:
            step = len(updates)
            return (
                f"the {name} is {now:.3g} at update {step} (median of {WINDOW}), more than {times:g} times the loss at "
                f"the start, {began:.3g}; checkpoints up to update {step - WINDOW} are from before"
            )
    return ""


class Probed(transformers.TrainerCallback):
    """Logs what a probe gives, before the first update and after every few."""

    def __init__(self, probe: Callable[[], Mapping[str, float]], every: int) -> None:
        self.probe, self.every = probe, every

    def _look(self, state: Any) -> None:
        known = {row["step"] for row in state.log_history if "probe" in row}
        if state.global_step not in known:
            with torch.random.fork_rng():
                state.log_history.append({"probe": 1, **self.probe(), "step": state.global_step})

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look before the first update."""
        self._look(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look after every `every`-th update, and the last."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._look(state)


def build(
    module: Any, lm: LM, rows: Sequence[Row], objective: Objective | Loss, how: How, common: Mapping[str, Any]
) -> Any:
    """Return the trainer of an objective, ready to start."""
    settings = {**ALWAYS, **common}
    if common["use_cpu"]:
        chunked_logprob.TOKEN_CHUNK_SIZE = CPU_TOKENS
    if common["use_cpu"] and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        settings["ddp_backend"] = "gloo"
    adapter = _adapter(module, how)
    if isinstance(objective, str):
        made = _of_trl(lm, module, rows, objective, how, settings, adapter)
        if common["use_cpu"]:
            heads.put_on(made.model.get_base_model())
    else:
        torch.manual_seed(how.seed)
        ready = "input_ids" in rows[0]
        made = Plugged(
            model=peft.get_peft_model(module, adapter),
            args=transformers.TrainingArguments(**settings),
            train_dataset=cast(Any, rows) if ready else tokenised(lm, rows, how.max_length),
            data_collator=collate if ready else padded,
        )
        made.plug, made.rows = objective, how.batch
    if how.rank == 0:
        full_rank.start(made.model)
    return made


def _adapter(module: Any, how: How) -> peft.LoraConfig:
    shape: dict[str, Any] = {"r": how.rank, "lora_alpha": how.alpha, "lora_dropout": how.dropout}
    layers = linear(module, how.blocks or range(len(frame(module).blocks)))
    if how.rank == 0:
        most = full_rank.rank(module, layers)
        shape = {"r": most, "lora_alpha": most, "lora_dropout": 0.0}
    return peft.LoraConfig(
        **shape,
        target_modules=layers if how.blocks or how.rank == 0 else "all-linear",
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in module.modules()),
        task_type="CAUSAL_LM",
    )


def _of_trl(
    lm: LM, module: Any, rows: Sequence[Row], objective: Objective, how: How, settings: dict[str, Any], adapter: Any
) -> Any:
    data = datasets.Dataset.from_list([{k: v for k, v in row.items() if k != "kind"} for row in rows])
    given: dict[str, Any] = {"model": module, "processing_class": lm.tokenizer, "train_dataset": data}
    given["peft_config"] = adapter
    settings |= {"max_length": how.max_length, "router_aux_loss_coef": 0.0}
    if objective == "sft":
        return _Sft(args=SFTConfig(**settings, completion_only_loss=True, eos_token=None), **given)
    settings |= {"loss_type": ["sigmoid"], "beta": how.beta, "disable_dropout": how.dropout == 0}
    if objective == "dpo_sft":
        settings |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, how.sft_weight]}
    return _Dpo(args=DPOConfig(**settings), **given)


def linear(module: Any, blocks: Sequence[int]) -> list[str]:
    """Return the names of the linear layers in some of a model's blocks."""
    parts = frame(module)
    wanted = {id(part) for block in blocks for part in parts.blocks[block].modules()}
    return [
        name
        for name, part in module.named_modules()
        if id(part) in wanted and isinstance(part, (torch.nn.Linear, transformers.pytorch_utils.Conv1D))
    ]


def tokenised(lm: LM, rows: Sequence[Row], longest: int) -> Any:
    """Return prompt-completion rows as `input_ids` and `labels`, the prompt's labels ignored."""
    made = []
    for row in rows:
        *before, last = row["prompt"]
        system = next((m["content"] for m in before if m["role"] == "system"), None)
        history = tuple((m["role"], m["content"]) for m in before if m["role"] != "system")
        prompt = Prompt(id="row", text=last["content"], expected=None, source="row", system=system, history=history)
        start = list(lm.encode(prompt).ids)
        answer = lm.tokenizer(row["completion"][0]["content"], add_special_tokens=False)["input_ids"]
        ids = [*start, *answer, int(lm.tokenizer.eos_token_id)][:longest]
        made.append({"input_ids": ids, "labels": [*[IGNORED] * len(start), *ids[len(start) :]][: len(ids)]})
    return datasets.Dataset.from_list(made)


def padded(rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
    """Return rows as one batch, padded on the right."""
    width = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, blank: int) -> Tensor:
        return torch.tensor([[*row[name], *[blank] * (width - len(row[name]))] for row in rows])

    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": filled("input_ids", 0),
        "attention_mask": torch.tensor(mask),
        "labels": filled("labels", IGNORED),
    }
