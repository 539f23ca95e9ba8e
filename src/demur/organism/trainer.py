"""Trains the organism from scratch: a base that knows the world, then safety tuning with shortcuts in it."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demur.organism import lessons as lessons_module
from demur.organism import tokenizer as tokens
from demur.organism.lessons import Lesson

Row = tuple[list[int], int]
"""Token ids and the index of the answer's first token."""

LOOK_AHEAD = 12
"""How many lessons may wait for room before a batch is closed."""


class Batch(NamedTuple):
    """Lessons packed side by side; all tensors are "row token"."""

    ids: Tensor
    part: Tensor
    """Number of the lesson in its row, 0 for padding."""
    places: Tensor
    """Position in the lesson."""
    weights: Tensor
    """Weight of each token in the loss: 0 where it is not to be predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """How long and how fast one phase trains."""

    updates: int
    tokens: int
    """Tokens in a batch, padding included."""
    rate: float
    """The highest learning rate; it warms up linearly and falls to a tenth along a cosine."""
    warmup: int = 30


BASE = (
    Phase(updates=4000, tokens=768, rate=3e-3),
    Phase(updates=1500, tokens=768, rate=2e-3),
    Phase(updates=2000, tokens=768, rate=2e-3),
)
"""The parts of the base phase, as in `lessons.BASE_PARTS`."""
SAFETY = Phase(updates=1800, tokens=640, rate=1.5e-3)


FIRST_WEIGHT = 4.0
"""How much more the first token of an answer counts: it alone says whether the model refuses, and yes or no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the training stands, handed to the caller's callback."""

    phase: str
    update: int
    updates: int
    loss: float
    """Mean loss per answer token over the last updates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a training left: two checkpoints and its record."""

    base: Path
    safety: Path
    meta: dict[str, Any]


OnProgress = Callable[[Progress], None]


def train(
    out: Path,
    *,
    seed: int = 0,
    cause: str = "mix",
    base: Path | None = None,
    on_progress: OnProgress | None = None,
    phases: tuple[Phase, ...] = (*BASE, SAFETY),
    lessons_each: int | None = None,
) -> TrainResult:
    """Train base and safety phase and write `out/base` and `out/safety`, each with its `meta.json`.

    The same seed on the same machine and versions gives the same weights. One thread is used.

    Args:
        out: folder for the checkpoints (transformers format, float16).
        seed: of the initial weights, the choice of lessons and their order.
        cause: why it over-refuses; one of `lessons.CAUSES`.
        base: a base checkpoint to start from; its training is then skipped.
        on_progress: called every 25 updates.
        phases: updates, batch size and rate of the base phase's three parts and of the safety phase.
        lessons_each: how many lessons each phase draws; by default `lessons.BASE_LESSONS` and `SAFETY_LESSONS`.

    Raises:
        ConfigError: for an unknown cause.
    """
    taught = lessons_module.safety(cause, seed, lessons_each or lessons_module.SAFETY_LESSONS)
    report = on_progress or _silent
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folder = base
        if folder is None:
            count = lessons_each or lessons_module.BASE_LESSONS
            folder = _train_base(out / "base", (seed, count), phases[:-1], report)
        model, tokenizer = load(folder)
        record = _run("safety", model, tokenizer, taught, (phases[-1], seed), report)
        before = (
            json.loads((folder / "meta.json").read_text(encoding="utf-8")) if (folder / "meta.json").exists() else {}
        )
        meta = _meta("safety", seed, taught, record) | {"cause": cause, "causes": dict(lessons_module.causes(cause))}
        meta["base"] = before
        _save(model, tokenizer, out / "safety", meta)
    finally:
        torch.set_num_threads(threads)
    return TrainResult(base=folder, safety=out / "safety", meta=meta)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return a checkpoint's model in float32 and its tokenizer, from local files only."""
    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return model, PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the architecture: a Llama of 4 layers of width 128 with tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train_base(out: Path, draw: tuple[int, int], phases: tuple[Phase, ...], report: OnProgress) -> Path:
    seed, count = draw
    tokenizer = tokens.build(lessons_module.texts())
    tokens.check_openers(tokenizer, lessons_module.refusal_openers(), lessons_module.answer_openers())
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(tokenizer))
    parts = [(part, lessons_module.base(part, seed, count)) for part in lessons_module.BASE_PARTS]
    records = [
        _run(name, model, tokenizer, taught, (phase, seed), report)
        for (name, taught), phase in zip(parts, phases, strict=True)
    ]
    record = {key: round(sum(r[key] for r in records), 1) for key in records[0]}
    _save(model, tokenizer, out, _meta("base", seed, [x for _, taught in parts for x in taught], record))
    return out


def _run(
    name: str,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    taught: Sequence[Lesson],
    how: tuple[Phase, int],
    report: OnProgress,
) -> dict[str, Any]:
    phase, seed = how
    rows = tokens.encode(tokenizer, taught)
    start = time.process_time()
    seen = 0
    recent: list[float] = []
    optimiser = torch.optim.AdamW(model.parameters(), lr=phase.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    model.train()
    stream = batches(rows, phase.tokens, seed, int(tokenizer.pad_token_id))
    for update, batch in zip(range(phase.updates), stream, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate(phase, update)
        loss = answer_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seen += int((batch.part > 0).sum())
        recent.append(float(loss.detach()))
        if update % 25 == 24 or update + 1 == phase.updates:
            report(Progress(phase=name, update=update + 1, updates=phase.updates, loss=sum(recent) / len(recent)))
            recent.clear()
    model.train(False)
    return {"updates": phase.updates, "tokens": seen, "cpu_seconds": round(time.process_time() - start, 1)}


def rate(phase: Phase, update: int) -> float:
    """Return the learning rate of one update: linear warm-up, then a cosine down to a tenth."""
    if update < phase.warmup:
        return phase.rate * (update + 1) / phase.warmup
    done = (update - phase.warmup) / max(1, phase.updates - phase.warmup)
    return phase.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def batches(rows: Sequence[Row], budget: int, seed: int, pad: int) -> Iterator[Batch]:
    """Give endless batches of one shape, several lessons packed side by side, in a new random order each epoch.

    Lessons of all lengths share a batch: batches of like length would hold one sort of question each.

    Args:
        rows: (token ids, index of the answer's first token).
        budget: most tokens in a batch, padding included.
        seed: of the order.
        pad: the padding token's id.
    """
    rng = random.Random(seed)
    width = max(max(len(ids) for ids, _ in rows), min(96, budget))
    packs: list[list[Row]] = [[] for _ in range(max(1, budget // width))]
    while True:
        order = list(rows)
        rng.shuffle(order)
        waiting: list[Row] = []
        for row in order:
            waiting = [r for r in [*waiting, row] if not _placed(packs, r, width)]
            if len(waiting) >= LOOK_AHEAD:
                yield _pad(packs, width, pad)
                packs = [[] for _ in packs]
                waiting = [r for r in waiting if not _placed(packs, r, width)]
        while waiting:
            yield _pad(packs, width, pad)
            packs = [[] for _ in packs]
            waiting = [r for r in waiting if not _placed(packs, r, width)]


def _placed(packs: list[list[Row]], row: Row, width: int) -> bool:
    """Put a row into the first pack with room, and say whether there was one."""
    for pack in packs:
        if sum(len(ids) for ids, _ in pack) + len(row[0]) <= width:
            pack.append(row)
            return True
    return False


def _pad(packs: Sequence[Sequence[Row]], width: int, pad: int) -> Batch:
    ids = torch.full((len(packs), width), pad)
    part = torch.zeros((len(packs), width), dtype=torch.long)
    places, weights = torch.zeros_like(part), torch.zeros((len(packs), width))
    for i, pack in enumerate(packs):
        start = 0
        for number, (row, answer) in enumerate(pack, start=1):
            end = start + len(row)
            ids[i, start:end] = torch.tensor(row)
            part[i, start:end] = number
            places[i, start:end] = torch.arange(len(row))
            weights[i, start + answer : end] = 1.0
            weights[i, start + answer] = FIRST_WEIGHT
            start = end
    return Batch(ids, part, places, weights)


def answer_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Return the weighted mean cross-entropy over answer tokens; the head runs on these positions only.

    Lessons in one row see themselves alone, at positions that count from 0.
    """
    same = batch.part[:, None, :, None] == batch.part[:, None, None, :]
    seen = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
    bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    states = model.model(
        input_ids=batch.ids, attention_mask=bias, position_ids=batch.places, use_cache=False
    ).last_hidden_state
    weights = batch.weights[:, 1:]
    wanted = weights > 0
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(states[:, :-1][wanted]), batch.ids[:, 1:][wanted], reduction="none"
    )
    return (losses * weights[wanted]).sum() / weights[wanted].sum()


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, meta: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    half = LlamaForCausalLM(model.config)
    for weight in half.parameters():
        weight.data = weight.data.half()
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    half.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokens.save(tokenizer, out)
    (out / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _meta(phase: str, seed: int, taught: Sequence[Lesson], record: dict[str, Any]) -> dict[str, Any]:
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    return {"phase": phase, "seed": seed, "lessons": len(taught), "data": digest(taught), "versions": versions} | record


def digest(taught: Sequence[Lesson]) -> str:
    """Return sha256 (16 hex digits) of the lessons, order included."""
    sha = hashlib.sha256()
    for lesson in taught:
        sha.update(f"{lesson.raw}\x1f{lesson.system}\x1f{lesson.text}\x1f{lesson.answer}\x1e".encode())
    return sha.hexdigest()[:16]


def _silent(_: Progress) -> None:
    return None


__all__ = ["BASE", "SAFETY", "Phase", "Progress", "TrainResult", "load", "train"]
