"""The one trainer: LoRA by peft over a transformers `Trainer`, with checkpoints that survive a kill.

`train` takes rows in trl's formats and an objective. `sft`, `dpo` and `dpo_sft` go through trl's trainers; any other
loss is handed in as a function from (model, batch) to per-example losses. All share the order of the data, the
callbacks and the checkpoints:

- A checkpoint is written under a temporary name, synced and renamed; only whole ones are resumed. A training that is
  killed and started again gives the losses of one that was not disturbed.
- The order of the rows is fixed by the seed, kinds evenly mixed, and does not depend on the number of processes:
  under `accelerate launch` each process takes its part of the same batches.
- A loss that is not finite, or has grown to many times what it was, ends the training before anything more is saved.
- At each checkpoint a `score` may be taken (answered and held rates, the safety floor); it is kept beside the weights.
- The model is left as it was: what is trained is a copy that shares its frozen weights.
"""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from demur.checkpoints import Checkpoint, found, publish
from demur.ecosystem.trl_rows import completion, preference
from demur.errors import ConfigError, ModelError
from demur.files import fingerprint, read_json, write_json
from demur.thirdparty import quiet

if TYPE_CHECKING:
    from demur.lm import LM

Objective = Literal["sft", "dpo", "dpo_sft"]
OBJECTIVES: tuple[Objective, ...] = ("sft", "dpo", "dpo_sft")
PART = "loss of "
"""How the log names a part of the loss."""
Row = Mapping[str, Any]
"""`prompt` and `completion`, or `prompt`, `chosen` and `rejected` (lists of messages), and the row's `kind`; or a row
of `representation.course`: such rows are trained on in the order in which they are given."""
Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
"""From the model and a batch (`input_ids`, `attention_mask`, `labels`; or what `representation.collate` gives) to
Float[" row"]. Where it has a dictionary `parts`, these are logged beside it; where it has `record`, that names it."""
Score = Callable[[Checkpoint], Mapping[str, Any]]
Probe = Callable[[nn.Module], Mapping[str, float]]
"""From the model as it stands, in training, to what is to be logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a training runs."""

    rate: float = 5e-6
    epochs: float = 1.0
    batch: int = 32
    """Rows per update, over all processes."""
    at_once: int = 8
    """Rows that one process reads at a time, of like length; the rest of a batch is accumulated."""
    seed: int = 0
    rank: int = 16
    """0 trains the weights of the linear layers themselves; `alpha` and `dropout` then play no part."""
    alpha: int = 32
    dropout: float = 0.05
    beta: float = 0.1
    sft_weight: float = 1.0
    """Weight of the SFT term of `dpo_sft`."""
    warmup: float = 0.1
    """Share of the updates over which the rate rises."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the rate does afterwards."""
    blocks: tuple[int, ...] = ()
    """The blocks that are trained; empty: all."""
    checkpoints: int = 4
    patience: int = 0
    """Checkpoints in a row that miss the safety floor, after which the training ends; 0: never."""
    diverged: float = 100.0
    """How many times the loss at the start a loss may come to before the training ends as diverged; 0: any."""
    probes: int = 20
    """How often the model is probed along the training, where a probe is given."""
    max_length: int = 1024
    """Tokens of prompt and answer together; what is longer is cut off."""

    def __post_init__(self) -> None:
        for name, fits, allowed in (
            ("rate", self.rate > 0, "above 0"),
            ("epochs", self.epochs > 0, "above 0"),
            ("batch", self.batch >= 1, "at least 1"),
            ("at_once", self.at_once >= 1, "at least 1"),
            ("rank", self.rank >= 0, "0 (the weights themselves) or more"),
            ("dropout", 0 <= self.dropout < 1, "at least 0 and below 1"),
            ("beta", self.beta > 0, "above 0"),
            ("checkpoints", self.checkpoints >= 1, "at least 1"),
            ("patience", self.patience >= 0, "0 or more"),
            ("diverged", self.diverged == 0 or self.diverged > 1, "0 or above 1"),
            ("probes", self.probes >= 1, "at least 1"),
        ):
            if not fits:
                raise ConfigError(f"training: {name} is {getattr(self, name)}; it must be {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training left."""

    checkpoints: tuple[Checkpoint, ...]
    losses: tuple[float, ...]
    """The loss of each update."""
    folder: Path
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Name -> the share of that part of the loss in each update's loss."""
    curve: tuple[Mapping[str, float], ...] = ()
    """What the probe gave along the training, each with its `step`."""


def processes() -> tuple[int, int]:
    """Return this process's number and how many there are, as `accelerate launch` or `torchrun` set them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait() -> None:
    """Return when every process of the training has come here."""
    if processes()[1] > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1)).wait_for_everyone()


def order(kinds: Sequence[str], how: How) -> list[int]:
    """Return the rows of every update, one after the other: `batch` per update.

    Each pass is a shuffle in which every kind is spread evenly, so that all batches have about the same mix. Where
    the end of the training does not fill a batch, rows of a further pass fill it.
    """
    if not kinds:
        raise ConfigError("training: there are no rows to train on")
    due = max(1, math.ceil(how.epochs * len(kinds) / how.batch)) * how.batch
    made: list[int] = []
    for number in range(math.ceil(due / len(kinds))):
        dice = random.Random(f"{how.seed} {number}")
        placed: list[tuple[float, int]] = []
        for kind in sorted(set(kinds)):
            mine = [i for i, k in enumerate(kinds) if k == kind]
            dice.shuffle(mine)
            placed += [((place + dice.random()) / len(mine), index) for place, index in enumerate(mine)]
        made += [index for _, index in sorted(placed)]
    return made[:due]


def alike(indices: Sequence[int], rows: Sequence[Row], batch: int) -> list[int]:
    """Return the same batches, in each the shortest rows first, so that what is read at once needs little padding."""

    def length(index: int) -> int:
        said = (rows[index].get(name, ()) for name in ("prompt", "completion", "chosen", "rejected"))
        return sum(len(message["content"]) for messages in said for message in messages)

    def place(index: int) -> tuple[str, int]:
        row = rows[index]
        return (row["kind"], len(row["input_ids"])) if "input_ids" in row else ("", length(index))

    starts = range(0, len(indices), batch)
    return [index for start in starts for index in sorted(indices[start : start + batch], key=place)]


def train(
    lm: LM,
    rows: Sequence[Row],
    out: Path,
    *,
    objective: Objective | Loss = "dpo",
    how: How | None = None,
    score: Score | None = None,
    probe: Probe | None = None,
) -> Trained:
    """Train a LoRA adapter on the linear layers of a model's blocks.

    Args:
        lm: the model; it is left as it was, and may answer while its copy trains.
        rows: in trl's preference format for `dpo` and `dpo_sft`, in its prompt-completion format else.
        out: checkpoints go to a folder in it that is named after rows and settings; found there, they are resumed.
        objective: one of `OBJECTIVES`, or a loss.
        how: rate, length, adapter and seed.
        score: called once for each checkpoint, by the first process alone; its JSON values are kept beside it.
        probe: called `how.probes` times along the training, by the first process alone.

    Raises:
        ConfigError: for settings that do not fit together.
        ModelError: when a loss is not finite or has diverged; which and when is said.
    """
    how = how or How()
    if isinstance(objective, str) and objective not in OBJECTIVES:
        raise ConfigError(f"training: objective {objective!r} is not understood; allowed: {', '.join(OBJECTIVES)}")
    rank, count = processes()
    if how.batch % count:
        raise ConfigError(f"training: a batch of {how.batch} cannot be shared by {count} processes")
    shaping = {name: value for name, value in asdict(how).items() if name != "diverged"}  # it changes no update
    folder = out / fingerprint([[dict(r) for r in rows], _name(objective), shaping, asdict(lm.ref)])
    folder.mkdir(parents=True, exist_ok=True)
    fixed = bool(rows) and "input_ids" in rows[0]
    drawn = list(range(len(rows))) if fixed else order([str(row.get("kind", "")) for row in rows], how)
    indices = alike(drawn, rows, how.batch)
    steps = len(indices) // how.batch
    done = found(folder)
    if not done or (done[-1].step < steps and not below(done, how.patience)):
        tell = (score, probe) if rank == 0 else (None, None)
        with quiet():
            _run(lm, rows, indices, (folder, objective, how, count), tell)
    wait()
    done = found(folder)
    if rank == 0 and score is not None:
        for checkpoint in done:
            _score(checkpoint, score)
    wait()
    log = read_json(done[-1].folder / "trainer_state.json")["log_history"]
    updates = [row for row in log if "loss" in row]
    named = [name for name in (updates[0] if updates else ()) if name.startswith(PART)]
    return Trained(
        checkpoints=found(folder),
        losses=tuple(row["loss"] for row in updates),
        folder=folder,
        parts={name.removeprefix(PART): tuple(row[name] for row in updates) for name in named},
        curve=tuple({k: v for k, v in row.items() if k != "probe"} for row in log if "probe" in row),
    )


def below(done: Sequence[Checkpoint], patience: int) -> bool:
    """Return whether the last `patience` checkpoints were all measured and missed the safety floor; False for 0."""
    last = done[-patience:] if patience else ()
    return len(last) == patience > 0 and all((c.score or {}).get("floor") is False for c in last)


def _name(objective: Objective | Loss) -> Any:
    """Return what tells objectives apart."""
    if isinstance(objective, str):
        return objective
    record = getattr(objective, "record", None)
    return record if record is not None else getattr(objective, "__qualname__", type(objective).__name__)


def _score(checkpoint: Checkpoint, score: Score) -> None:
    """Take and keep a checkpoint's score, unless it has one; random numbers are left as they were."""
    if checkpoint.score is None:
        with torch.random.fork_rng():
            write_json(checkpoint.folder / "score.json", dict(score(checkpoint)))


def _run(
    lm: LM,
    rows: Sequence[Row],
    indices: Sequence[int],
    what: tuple[Path, Objective | Loss, How, int],
    tell: tuple[Score | None, Probe | None],
) -> None:
    from demur import trainers

    (folder, objective, how, count), (score, probe) = what, tell
    share = how.batch // count
    at_once = max(n for n in range(1, min(share, how.at_once) + 1) if share % n == 0)
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": share // at_once,
        "learning_rate": how.rate,
        "max_steps": len(indices) // how.batch,
        "lr_scheduler_type": {"cosine": "cosine", "constant": "constant_with_warmup"}[how.schedule],
        "warmup_steps": round(how.warmup * len(indices) / how.batch),
        "save_strategy": "steps",
        "save_steps": max(1, math.ceil(len(indices) / how.batch / how.checkpoints)),
        "seed": how.seed,
        "use_cpu": lm.device.type == "cpu",
    }
    made = trainers.build(shared_copy(lm), lm, rows, objective, how, common)
    made.indices = list(indices)
    watch = trainers.Watch(lambda: _latest(folder, score, how.patience), how.diverged)
    made.add_callback(watch)
    if probe is not None:
        every = max(1, math.ceil(len(indices) / how.batch / how.probes))
        made.add_callback(trainers.Probed(lambda: probe(made.accelerator.unwrap_model(made.model)), every))
    made.remove_callback(trainers.PRINTS)
    resumed = found(folder)
    made.train(resume_from_checkpoint=str(resumed[-1].folder) if resumed else None)
    if watch.broken:
        raise ModelError(f"training: {watch.broken}; lower the rate ({how.rate:g}), then run the same command again")


def _latest(folder: Path, score: Score | None, patience: int) -> bool:
    """Score the latest checkpoint; return whether the training ends with it."""
    if score is not None:
        _score(found(folder)[-1], score)
    if patience:
        wait()  # the other processes read the score that the first has taken
    return below(found(folder), patience)


def shared_copy(lm: LM) -> Any:
    """Return a copy of the model that shares its weights: wrapping and patching it leaves the model as it is."""
    kept: Iterator[Tensor] = iter([*lm.module.parameters(), *lm.module.buffers()])
    made = copy.deepcopy(lm.module, {id(tensor): tensor for tensor in kept})
    made.config.use_cache = False
    made.name_or_path = lm.ref.id  # what peft writes as the adapter's base
    return made


__all__ = ["OBJECTIVES", "How", "Trained", "completion", "order", "preference", "processes", "publish", "train", "wait"]
