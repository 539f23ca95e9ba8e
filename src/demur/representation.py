"""Losses on the residual stream as the trainer takes them, and the rows they are trained on.

A row is a text with its place in the training: which term reads it (`role`), at which tokens (`mask`), divided by how
many (`tokens`), and times what (`scale`: its share of the batch, its weight, and the term's coefficient at that
update). A schedule is thereby data: no part of a training counts forward passes, so accumulation, several processes
and a resumed run leave it as it is.
"""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from demur.architectures import Frame, frame
from demur.errors import ConfigError
from demur.residuals import kept

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from demur.lm import LM
    from demur.types import Prompt

    Logits = Float[Tensor, "row token vocab"]
    States = Float[Tensor, "layer row token d_model"]

LONGEST = 1024
"""Tokens of a passage: half for the prompt, of which the last are kept, and the rest for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A prompt and an answer as tokens, and what of them a term reads."""

    ids: tuple[int, ...]
    answer: int
    """Where the answer begins."""
    first: int = 0
    """Where the term begins to read: 0 reads the prompt, too."""
    last: int | None = None
    """Where it ends."""
    weight: float = 1.0
    item: int = -1
    """Which of the loss's own vectors belong to it."""


def passage(lm: LM, prompt: Prompt, answer: str, *, longest: int = LONGEST, whole: bool = True) -> Passage:
    """Return a prompt with its answer and the token that ends it.

    Args:
        lm: the model that will be trained.
        prompt: rendered with the generation header.
        answer: "" for none: the passage then ends with the prompt.
        longest: tokens to keep.
        whole: whether the term reads the prompt, too, and not the answer alone.
    """
    asked = lm.encode(prompt).ids[-longest // 2 :]
    said = lm.tokenizer(answer, add_special_tokens=False)["input_ids"] if answer else []
    end = [int(lm.tokenizer.eos_token_id)] if answer else []
    ids = (*asked, *said, *end)[:longest]
    return Passage(ids=ids, answer=len(asked), first=0 if whole else len(asked))


Draw = Callable[[int, random.Random], Passage]
"""From a number that counts up, over all updates, and dice, to a passage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one term reads at each update, and how much it counts."""

    role: str
    draw: Draw
    each: int
    """Passages per update."""
    coefficient: Callable[[float], float] = lambda done: 1.0
    """From the share of the training that is done (0 at the first update) to the term's coefficient."""
    pool: str = ""
    """Parts of one pool are averaged together; by default each is averaged alone."""


def course(parts: Sequence[Part], steps: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return the rows of every update, one update after the other.

    The mean over an update's rows of scale * loss is the sum over the pools of coefficient * (sum of the weighted
    values over the pool's tokens / number of these tokens).
    """
    size = sum(part.each for part in parts)
    return [row for step in range(steps) for row in _update(parts, step, step / steps, (size, seed))]


def _update(parts: Sequence[Part], step: int, done: float, what: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the rows of one update; `what` holds their number and the seed."""
    size, seed = what
    drawn: list[tuple[Part, Passage, tuple[int, int]]] = []
    for part in parts:
        for i in range(part.each):
            one = part.draw(step * part.each + i, random.Random(f"{seed} {part.role} {step} {i}"))
            drawn.append((part, one, (one.first, len(one.ids) if one.last is None else one.last)))
    counts: dict[str, list[int]] = {}
    for part, _, (start, end) in drawn:
        counts.setdefault(part.pool or part.role, []).append(end - start)
    rows = []
    for part, one, span in drawn:
        own = counts[part.pool or part.role]
        row = {"kind": part.role, "input_ids": list(one.ids), "span": span, "answer": one.answer, "item": one.item}
        scale = part.coefficient(done) * one.weight * size / len(own)
        rows.append({**row, "tokens": sum(own) / len(own), "scale": scale})
    return rows


def cycle(passages: Sequence[Passage], *, seed: int = 0) -> Draw:
    """Return what draws each passage once per pass, every pass in an order of its own.

    Raises:
        ConfigError: where there is none.
    """
    if not passages:
        raise ConfigError("training: a term has no passages to read")

    orders: dict[int, list[int]] = {}

    def draw(number: int, dice: random.Random) -> Passage:
        turn, place = divmod(number, len(passages))
        if turn not in orders:
            orders[turn] = random.Random(f"{seed} {turn}").sample(range(len(passages)), len(passages))
        return passages[orders[turn][place]]

    return draw


def alternate(*draws: Draw) -> Draw:
    """Return what draws from each of several in turn."""
    return lambda number, dice: draws[number % len(draws)](number // len(draws), dice)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Read:
    """What a term is given: the rows of its role, with what the model gives now and what it gave before training."""

    now: Mapping[int, Tensor]
    """Block -> Float["row token d_model"]."""
    before: Mapping[int, Tensor]
    logits: tuple[Tensor, Tensor] | None
    """Now and before; None where no term asks for them."""
    mask: Float[Tensor, "row token"]
    tokens: Float[Tensor, " row"]
    answer: Int[Tensor, " row"]
    """Where each row's answer begins."""
    item: Int[Tensor, " row"]
    ids: Int[Tensor, "row token"]

    def states(self, layers: Sequence[int]) -> tuple[States, States]:
        """Return the states after `layers`, now and before."""
        return torch.stack([self.now[i] for i in layers]), torch.stack([self.before[i] for i in layers])

    def last_prompt(self, layers: Sequence[int]) -> Float[Tensor, "layer row d_model"]:
        """Return the states at each row's last prompt token, now."""
        rows = torch.arange(len(self.answer), device=self.answer.device)
        return torch.stack([self.now[i][rows, self.answer - 1] for i in layers])


Term = Callable[[Read], "Float[Tensor, ' row']"]


@dataclass(slots=True, kw_only=True, eq=False)
class Representation:
    """A loss for `training.train`: terms by role, on the stream of the model that is trained and of it before.

    "Before" is the same model with its adapter off and without dropout. No block after the last that a term reads is
    run, unless one wants logits.
    """

    terms: Mapping[str, Term]
    layers: tuple[int, ...]
    """The blocks whose output the terms read."""
    record: Mapping[str, Any]
    """What tells this loss from others, as JSON values."""
    reference: bool = True
    """Whether a term reads what the model gave before; where not, it is not run a second time."""
    logits: frozenset[str] = frozenset()
    """Roles whose terms read logits, too."""
    parts: dict[str, float] = field(default_factory=dict)
    """The sum of each term's losses, scaled, since it was last emptied; the trainer logs and empties it."""
    _frame: tuple[nn.Module, Frame] | None = None
    """The model that was last read, and its parts."""

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, " row"]:
        """Return each row's loss times its scale."""
        kinds = list(batch["kind"])
        whole = any(kind in self.logits for kind in kinds)
        for role in self.terms:  # processes add theirs up by name, whichever rows each has
            self.parts.setdefault(role, 0.0)
        before: dict[int, Tensor] = {}
        old: Tensor | None = None
        if self.reference:
            with torch.no_grad(), _off(model):
                before, old = self._run(model, batch, whole=whole)
        now, new = self._run(model, batch, whole=whole)
        made = torch.zeros(len(kinds), device=batch["input_ids"].device)
        if isinstance(model, DistributedDataParallel):  # waits for the gradient of every weight, whatever the rows read
            made = made + 0 * now[max(self.layers)].sum()
        for role in dict.fromkeys(kinds):
            mine = torch.tensor([i for i, kind in enumerate(kinds) if kind == role], device=made.device)
            read = Read(
                now={i: h[mine] for i, h in now.items()},
                before={i: h[mine] for i, h in before.items()},
                logits=(new[mine], old[mine]) if new is not None and old is not None and role in self.logits else None,
                mask=batch["mask"][mine],
                tokens=batch["tokens"][mine],
                answer=batch["answer"][mine],
                item=batch["item"][mine],
                ids=batch["input_ids"][mine],
            )
            found = self.terms[role](read) * batch["scale"][mine]
            self.parts[role] = self.parts.get(role, 0.0) + float(found.detach().sum())
            made = made.index_add(0, mine, found.float())
        return made

    def _run(
        self, model: nn.Module, batch: Mapping[str, Any], *, whole: bool
    ) -> tuple[dict[int, Tensor], Logits | None]:
        base: Any = plain(model)
        if self._frame is None or self._frame[0] is not base:
            self._frame = (base, frame(base))
        given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        if not whole and "logits_to_keep" in inspect.signature(base.forward).parameters:
            given["logits_to_keep"] = 1  # the head has nothing to do
        states, output = kept(self._frame[1], self.layers, lambda: model(**given), whole=whole)
        return states, output.logits if whole else None


def plain(model: nn.Module) -> nn.Module:
    """Return the model inside what several processes and the adapter wrap it in."""
    inner: Any = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # type: ignore[no-any-return]


@contextlib.contextmanager
def _off(model: nn.Module) -> Iterator[None]:
    """Turn adapter and dropout off."""
    inner: Any = getattr(model, "module", model)
    training = model.training
    with inner.disable_adapter():
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return rows of `course` as one batch, padded on the right."""
    width = max(len(row["input_ids"]) for row in rows)
    place = torch.arange(width)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    spans = torch.tensor([row["span"] for row in rows])
    return {
        "kind": [row["kind"] for row in rows],
        "input_ids": torch.tensor([[*row["input_ids"], *[0] * (width - len(row["input_ids"]))] for row in rows]),
        "attention_mask": (place < lengths[:, None]).long(),
        "mask": ((place >= spans[:, :1]) & (place < spans[:, 1:])).float(),
        **{name: torch.tensor([float(row[name]) for row in rows]) for name in ("tokens", "scale")},
        **{name: torch.tensor([int(row[name]) for row in rows]) for name in ("answer", "item")},
    }
