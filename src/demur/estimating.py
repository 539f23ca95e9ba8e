"""What working with a model will need, before any of its weights is loaded: memory by stage, tokens, time.

Memory is the most that is alive at once when the model's own code runs the batches that demur would make (see
`footprint`), its weights, and the libraries, whose share is read off this process. Time is arithmetic on two numbers
that are measured here (`speed`), and rough. What is assumed is said in `Estimate.assumed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from demur import footprint, speed
from demur.architectures import Frame, frame
from demur.decoding import BATCH_TOKENS as CACHED
from demur.decoding import LEAST_ROWS, MOST_ROWS
from demur.residuals import BATCH_TOKENS, GPU_TOKENS
from demur.slots import Slots, rounded

Stage = Literal["load", "generation", "capture", "training"]
STAGES: tuple[Stage, ...] = ("load", "generation", "capture", "training")
ADAM = 3
"""Copies of an adapter beside itself: its gradient and Adam's two moments."""
LOGITS = 2**26
"""Logits that a training keeps at once (`demur.heads.MOST`)."""
HELD_BACK = 1.3
"""Bytes that a training holds on a CPU for each that is alive: the C library keeps freed blocks for the next batch.

With every larger block given back at once a training of the 67M model peaks at 1,890 MiB instead of 2,650, and takes
half as long again; so demur leaves the allocator as it is.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done."""

    prompts: int = 500
    prompt_tokens: int = 64
    """Tokens of the longest prompt, its template included."""
    new_tokens: int = 256
    """Tokens of an answer at most."""
    samples: int = 1
    rows: int = 1000
    """To train on."""
    row_tokens: int = 128
    """Tokens of prompt and answer of the longest row."""
    learnt_tokens: int = 0
    """Tokens of a row whose logits are made: those after the shortest prompt of a batch; 0: all of `row_tokens`."""
    at_once: int = 8
    """Rows of one forward pass in training."""
    preference: bool = False
    """Whether rows hold a chosen and a rejected answer, as in DPO: twice as many are read."""
    rank: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one stage needs on its device, in bytes, tokens and seconds."""

    stage: Stage
    weights: int
    cache: int = 0
    """Keys and values of the answers in hand."""
    adapter: int = 0
    """LoRA weights, their gradients and Adam's moments."""
    working: int = 0
    """Everything else that is alive at once: states, what autograd keeps, logits."""
    libraries: int = 0
    """Resident memory of Python, torch and what the stage imports; 0 on a GPU, where it lies in the host's memory."""
    tokens: int = 0
    """At most."""
    seconds: float | None = None
    note: str = ""

    @property
    def memory(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.adapter + self.working + self.libraries


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a model needs on a device."""

    model: str
    parameters: int
    dtype: str
    device: str
    available: int
    """Bytes of memory that are free on the device now."""
    needs: tuple[Need, ...]
    assumed: tuple[str, ...]


ASSUMED = (
    "every prompt is as long as the longest, and every answer as long as allowed; shorter ones need less",
    "attention is torch's fused kernel, which keeps no matrix of scores",
    "training makes the logits of every token of a row unless told how many are learnt from (`--learnt-tokens`)",
    "no intervention that adds branches (contrastive decoding doubles the cache)",
    "time: two operations per weight and token, weights read once per decoded token, both at the speeds measured here",
    f"a training on a CPU holds {HELD_BACK} times what is alive, since the C library keeps freed blocks; what other "
    "allocators hold back, and the scratch of matrix products, is not counted",
)


def estimate(name: str, config: Any, work: Work, place: torch.device, dtype: torch.dtype) -> Estimate:
    """Estimate every stage for a model on a device.

    Args:
        name: of the model.
        config: its configuration, of transformers.
        work: what is to be done.
        place: the device; nothing is put on it but a probe of its speed.
        dtype: of the weights.
    """
    on_gpu = place.type != "cpu"
    with footprint.weightless(config, dtype) as module:
        base = 0 if on_gpu else footprint.resident()  # what making a model imports included
        parts = frame(module)
        parameters, weights = footprint.size(module)
        answering, cache = _generation(module, parts, work, place)
        reading = _capture(parts, work, place)
        learning, adapter = _training(module, parts, work)
    training_base = 0 if on_gpu else _with_training(base)
    rate = speed.of(place, dtype)
    each = 2 * parameters
    prompt, answer = work.prompts * work.prompt_tokens, work.prompts * work.samples * work.new_tokens
    trained = work.rows * work.row_tokens * (2 if work.preference else 1)
    batch = _capacity(work, place)
    steps = -(-work.prompts * work.samples // batch) * work.new_tokens
    decode = steps * max(weights / rate.bytes, batch * each / rate.operations, len(parts.blocks) * rate.block)
    needs = (
        Need(stage="load", weights=weights, libraries=base, note="downloading and reading the disk not counted"),
        Need(
            stage="generation",
            weights=weights,
            cache=cache,
            working=answering,
            libraries=base,
            tokens=prompt * work.samples + answer,
            seconds=prompt * work.samples * each / rate.operations + decode,
            note=f"{batch} answers at a time",
        ),
        Need(
            stage="capture",
            weights=weights,
            working=reading,
            libraries=base,
            tokens=prompt,
            seconds=prompt * each / rate.operations,
            note="last token of every prompt, every block",
        ),
        Need(
            stage="training",
            weights=weights,
            adapter=adapter,
            working=round(learning * (HELD_BACK if place.type == "cpu" else 1)),
            libraries=training_base,
            tokens=trained,
            seconds=trained * each * 2 / rate.operations,
            note=f"LoRA of rank {work.rank}, {work.at_once} rows at once",
        ),
    )
    return Estimate(
        model=name,
        parameters=parameters,
        dtype=str(dtype).removeprefix("torch."),
        device=str(place),
        available=speed.available(place),
        needs=needs,
        assumed=ASSUMED,
    )


def _with_training(base: int) -> int:
    """Return the resident memory once the training libraries are imported; that of before where they are missing."""
    try:
        from demur import trainers  # noqa: F401
    except ImportError:
        return base
    return footprint.resident()


def _capacity(work: Work, place: torch.device) -> int:
    """Return how many rows the decode loop holds at once: its own rule."""
    room = CACHED // max(rounded(work.prompt_tokens) + min(work.new_tokens, 64), 1)
    return max(LEAST_ROWS if place.type == "cpu" else 1, min(MOST_ROWS, room, work.prompts * work.samples))


def _generation(module: nn.Module, parts: Frame, work: Work, place: torch.device) -> tuple[int, int]:
    """Return (working, cache): the cache at its largest, and what reading prompts or the last step needs beyond it."""
    rows, width = _capacity(work, place), rounded(work.prompt_tokens)
    last = rounded(work.prompt_tokens + work.new_tokens)
    columns = rounded(width + 32)
    while columns < last:
        columns = rounded(2 * columns)
    head: Any = module.get_output_embeddings()  # type: ignore[operator]
    sizes: list[int] = []

    def step(tokens: int, before: int, room: int) -> None:
        slots = Slots(len(parts.blocks), rows, room)
        slots.aim(0, torch.full((rows,), before), tokens, longest=before)
        position = (before + torch.arange(tokens))[None].expand(rows, tokens)
        mask = torch.ones(rows, 1, tokens, slots.read, dtype=torch.bool) if before else None
        with torch.no_grad():
            hidden = parts.body(
                input_ids=torch.zeros(rows, tokens, dtype=torch.long),
                attention_mask=mask,
                position_ids=position,
                past_key_values=slots,
                use_cache=True,
            ).last_hidden_state
            logits = head(hidden[:, -1]).float()
            logits.logsumexp(-1)
        kept = [t for layer in slots.kept for t in (layer.keys, layer.values) if t is not None]
        sizes.append(sum(t.untyped_storage().nbytes() for t in kept))

    read = footprint.peak(lambda: step(width, 0, rounded(width + 32)), module)[0]
    write = footprint.peak(lambda: step(1, work.prompt_tokens + work.new_tokens - 1, columns), module)[0]
    return max(read, write) - sizes[1], sizes[1]


def _capture(parts: Frame, work: Work, place: torch.device) -> int:
    """Return the states of one batch while it is read, and three copies of what is kept of all (see `capture`)."""
    most = BATCH_TOKENS.get(place.type, GPU_TOKENS)
    rows = max(1, min(work.prompts, most // work.prompt_tokens))

    def read() -> None:
        ids = torch.zeros(rows, work.prompt_tokens, dtype=torch.long)
        with torch.no_grad():
            parts.body(input_ids=ids, use_cache=False)

    kept = work.prompts * len(parts.blocks) * parts.d_model * 4
    return max(footprint.peak(read, parts.body)[0] + kept, 3 * kept)


def _training(module: nn.Module, parts: Frame, work: Work) -> tuple[int, int]:
    """Return (working, adapter) of one forward and backward pass with LoRA on every linear layer.

    The logits are those of the tokens that are learnt from, as many as the trainer makes at once.
    """
    learnt = _adapted(module, work.rank)
    adapter = sum(p.untyped_storage().nbytes() for p in learnt)
    module.train()
    head: Any = module.get_output_embeddings()  # type: ignore[operator]
    rows = work.at_once * (2 if work.preference else 1)
    learnt_from = min(work.learnt_tokens or work.row_tokens, work.row_tokens)
    places = max(1, min(learnt_from, LOGITS // (rows * head.out_features)))

    def learn() -> None:
        ids = torch.zeros(rows, work.row_tokens, dtype=torch.long)
        hidden = parts.body(input_ids=ids, use_cache=False).last_hidden_state
        logits = head(hidden[:, -places:]).flatten(0, 1).float()
        loss: Any = cross_entropy(logits, ids[:, -places:].flatten())
        loss.backward()

    most = footprint.peak(learn, module)[0]
    return max(0, most - adapter), adapter * (1 + ADAM)


class _Adapted(nn.Module):
    """A linear layer with a low-rank change beside it, as peft computes it."""

    def __init__(self, base: nn.Module, rank: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.base = base
        self.dropout = nn.Dropout(0.05)
        self.down, self.up = nn.Linear(sizes[0], rank, bias=False), nn.Linear(rank, sizes[1], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer gives, changed."""
        plain: torch.Tensor = self.base(x)
        wide = self.dropout(x.to(self.down.weight.dtype))
        changed: torch.Tensor = self.up(self.down(wide)) * 2.0
        return plain + changed.to(plain.dtype)


def _adapted(module: Any, rank: int) -> list[nn.Parameter]:
    """Put an adapter beside every linear layer of a model but its head; return what is trained (float32)."""
    head = module.get_output_embeddings()
    learnt: list[nn.Parameter] = []
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            turned = isinstance(child, Conv1D)
            if child is head or not (turned or isinstance(child, nn.Linear)):
                continue
            sizes = tuple(child.weight.shape)
            made = _Adapted(child, rank, sizes if turned else sizes[::-1])
            learnt += [*made.down.parameters(), *made.up.parameters()]
            setattr(parent, name, made)
    return learnt
