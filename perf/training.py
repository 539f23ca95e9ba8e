"""What the trainer costs beside a bare loop of forward and backward passes over the same tokens in the same batches.

The model is the one whose body outweighs the rest, with random weights, and a LoRA adapter on its linear layers. *Bare*
has no optimizer, log or checkpoint. Times are those of the process, so that other work on the machine matters less, and
leave out the start and the first update.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import say
from table import Row, ratio_row

from models import SHAPES, make_model, token_ids

BATCH, AT_ONCE, UPDATES = 8, 4, 3
OVERHEAD, HALF = 1.10, 0.55
LEAST, MOST = 24, 64
"""Tokens of a text."""


@dataclass(slots=True)
class Taken:
    """What one side took in each round."""

    seconds: list[float] = field(default_factory=list)
    """Per update."""
    """MiB above the loaded model."""
    first: float = 0.0
    """The loss of the first update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A training, and the bare side's way through the same batches."""

    rows: Sequence[Any]
    objective: Any
    settings: Any
    batches: Sequence[Any]
    loss: Callable[[Any, Any], Any]
    """The bare side's."""
    model: Any
    """Likewise, under its adapter."""


def timed(taken: Taken, work: Callable[[Callable[[], None]], float]) -> None:
    """Run a side once; it ticks before the first update and after each, and returns the first update's loss."""
    ticks: list[float] = []
    taken.first = work(lambda: ticks.append(time.process_time()))
    taken.seconds.append((ticks[-1] - ticks[1]) / (len(ticks) - 2))


def how(blocks: tuple[int, ...] = ()) -> Any:
    """Return the settings that both sides share."""
    from demur.training import How

    given = {"batch": BATCH, "at_once": AT_ONCE, "dropout": 0.0, "checkpoints": 1, "warmup": 0.0, "blocks": blocks}
    return How(**given, schedule="constant", epochs=1, probes=UPDATES)


def adapted(lm: Any, blocks: tuple[int, ...] = ()) -> Any:
    """Return the model under the trainer's adapter."""
    import peft
    import torch

    from demur import trainers, training

    module = training.shared_copy(lm)
    torch.manual_seed(0)
    names = trainers.linear(module, blocks) if blocks else "all-linear"
    config = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=names, task_type="CAUSAL_LM")
    return peft.get_peft_model(module, config).train()


def bare(model: Any, batches: Sequence[Any], loss: Callable[[Any, Any], Any], tick: Callable[[], None]) -> float:
    """Read the batches forwards and backwards, `BATCH` rows per update; return the first update's loss."""
    share = BATCH // AT_ONCE
    first = 0.0
    tick()
    for i, batch in enumerate(batches):
        value = loss(model, batch) / share
        value.backward()
        if i < share:
            first += float(value.detach())
        if i % share == share - 1:
            model.zero_grad()
            tick()
    return first


def trained(lm: Any, rows: Sequence[Any], objective: Any, settings: Any, tick: Callable[[], None]) -> float:
    """Train; return the first update's loss."""
    from demur.training import train

    def probe(model: Any) -> dict[str, float]:
        tick()
        return {}

    with tempfile.TemporaryDirectory() as folder:
        return train(lm, rows, Path(folder), objective=objective, how=settings, probe=probe).losses[0]


def answers(lm: Any) -> Case:
    """Return training on answers."""
    from demur import trainers, training
    from demur.types import Prompt

    texts = [[f"w{n}" for n in ids] for ids in token_ids(BATCH * UPDATES, shortest=LEAST, longest=MOST)]
    asked = [Prompt(id=str(i), text=" ".join(t[: len(t) // 2]), expected=None, source="r") for i, t in enumerate(texts)]
    rows = [training.completion(p, " ".join(t[len(t) // 2 :])) for p, t in zip(asked, texts, strict=True)]
    settings = how()
    order = training.alike(training.order([p.kind for p in asked], settings), rows, BATCH)
    made = trainers.tokenised(lm, rows, settings.max_length)
    ids = [{name: row[name][:-1] for name in ("input_ids", "labels")} for row in made]  # the template ends no answer
    batches = [trainers.padded([ids[i] for i in order[k : k + AT_ONCE]]) for k in range(0, len(order), AT_ONCE)]
    share = BATCH // AT_ONCE
    for i, batch in enumerate(batches):  # the mean is over the tokens of an update, not of what is read at once
        mine = batches[i // share * share :][:share]
        batch["num_items_in_batch"] = sum((other["labels"] >= 0).sum() for other in mine) / share
    bared = {"batches": batches, "loss": lambda model, batch: model(**batch).loss, "model": adapted(lm)}
    return Case(rows=rows, objective="sft", settings=settings, **bared)


def stream(lm: Any) -> Case:
    """Return rerouting: bare, both passes run by hand, and one distance of the last states is taken."""
    import torch

    from demur.architectures import frame
    from demur.methods._representation import erasing, falling, reach, retaining, rising
    from demur.representation import Part, Passage, Representation, collate, course, cycle
    from demur.residuals import kept
    from demur.training import alike

    where = reach(lm, (), (10, 20))
    texts = [Passage(ids=tuple(t), answer=len(t) // 2) for t in token_ids(64, shortest=LEAST, longest=MOST)]
    parts = [
        Part(role="erase", draw=cycle(texts[:32]), each=BATCH // 2, coefficient=falling(10)),
        Part(role="retain", draw=cycle(texts[32:]), each=BATCH // 2, coefficient=rising(10)),
    ]
    terms = {"erase": erasing(where.layers), "retain": retaining(where.read)}
    rows = course(parts, UPDATES)
    order = alike(list(range(len(rows))), rows, BATCH)
    batches = [collate([rows[i] for i in order[k : k + AT_ONCE]]) for k in range(0, len(order), AT_ONCE)]
    model = adapted(lm, where.blocks)
    inner, last = frame(model.get_base_model()), max(where.read)

    def loss(model: Any, batch: Any) -> Any:
        given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "logits_to_keep": 1}
        with torch.no_grad(), model.disable_adapter():
            before = kept(inner, (last,), lambda: model(**given, use_cache=False))[0][last]
        now = kept(inner, (last,), lambda: model(**given, use_cache=False))[0][last]
        return (now - before).square().mean()

    objective = Representation(terms=terms, layers=where.read, record={})
    bared = {"batches": batches, "loss": loss, "model": model}
    return Case(rows=rows, objective=objective, settings=how(where.blocks), **bared)


def shortened(lm: Any, rounds: int) -> Row:
    """Compare reading half of the blocks with reading all, trained blocks alike."""
    from demur.methods._representation import erasing
    from demur.representation import Part, Passage, Representation, collate, course, cycle

    texts = [Passage(ids=tuple(t), answer=1) for t in token_ids(32, shortest=LEAST, longest=MOST)]
    rows = course([Part(role="erase", draw=cycle(texts), each=AT_ONCE)], 2 * UPDATES)
    batches = [collate(rows[k : k + AT_ONCE]) for k in range(0, len(rows), AT_ONCE)]
    half = lm.n_layers // 2
    took: dict[int, Taken] = {half: Taken(), lm.n_layers: Taken()}
    models = {n: adapted(lm, tuple(range(n))) for n in took}
    for turn in range(1, rounds + 1):
        say(f"training: half of the blocks, round {turn}")
        for n, taken in took.items():
            loss = Representation(terms={"erase": erasing((n - 1,))}, layers=(n - 1,), record={})
            timed(taken, functools.partial(bare, models[n], batches, lambda m, b, loss=loss: loss(m, b).mean()))
    named = {"what": f"{half} of {lm.n_layers} blocks read and trained", "against": "all blocks, no head"}
    seconds = [taken.seconds for taken in took.values()]
    return ratio_row(*seconds, **named, equal="batches", target=HALF, at_most=True)


def compared(lm: Any, name: str, case: Case, rounds: int) -> Row:
    """Compare the trainer with the bare loop."""
    ours, theirs = Taken(), Taken()
    for turn in range(1, rounds + 1):
        say(f"training: {name}, round {turn}")
        timed(theirs, functools.partial(bare, case.model, case.batches, case.loss))
        timed(ours, functools.partial(trained, lm, case.rows, case.objective, case.settings))
    equal = "batches"
    if name == "sft":
        equal = f"loss {ours.first:.4f}"
        if abs(ours.first / theirs.first - 1) > 1e-4:
            raise SystemExit(f"training: the trainer begins at {ours.first}, the bare loop at {theirs.first}")
    tokens = sum(int(batch["attention_mask"].sum()) for batch in case.batches) / UPDATES
    rate = [tokens / statistics.median(side.seconds) for side in (ours, theirs)]
    named = {"what": f"training, {name}, {SHAPES[1].name}", "against": "bare forward and backward", "equal": equal}
    note = f"{rate[0]:.0f} and {rate[1]:.0f} tokens/s"
    say(f"training: {name}, seconds an update {ours.seconds} and {theirs.seconds}, {note}")
    return ratio_row(ours.seconds, theirs.seconds, **named, target=OVERHEAD, at_most=True, note=note)


def run(*, rounds: int) -> list[Row]:
    """Return the rows: training on answers, on the stream, and the shortened list of blocks."""
    import torch

    from demur.lm import load
    from demur.thirdparty import quiet

    torch.set_num_threads(1)
    lm = load(str(make_model(SHAPES[1])), device="cpu", dtype="float32")
    with quiet():
        cases = {"rerouting": stream(lm), "sft": answers(lm)}
        return [*(compared(lm, name, case, rounds) for name, case in cases.items()), shortened(lm, rounds)]
