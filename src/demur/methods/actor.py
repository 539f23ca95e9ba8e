"""Shift prompts along the refusal direction at one layer, by training that layer alone (ACTOR-style)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from sklearn.metrics import silhouette_score

from demur import losses, training
from demur.files import write_json
from demur.interventions.adapter import Adapter
from demur.lora import Lora
from demur.methods import _tuned
from demur.methods._contrast import check_layers
from demur.methods._held_out import HeldOut
from demur.methods.dcr import refined_model
from demur.representation import Part, Passage, Read, Representation, alternate, course, cycle, passage
from demur.residuals import capture
from demur.training import How
from demur.types import Example, FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Train one block so that benign prompts lose some of their refusal component, and harmful ones gain as much.

    ACTOR-style after Dabas et al. (ICML 2025, arXiv 2507.04250), of which a summary is known to us and no code. R is
    the mean state of harmful prompts less that of plain ones, at the last prompt token of the layer at which the two
    part best by silhouette; the target of a prompt is its state less (benign) or plus (harmful) `amount` of its
    component along R; the loss is 1 − cosine. R and targets are taken anew, from the model as it stands, before each
    round. No answers are needed. The amount, the rate, the counts and an adapter in place of the weights are ours.
    """

    layer: int = -1
    """The block that is trained and after which states are shifted; -1: where the classes part best."""
    amount: float = 0.5
    """How much of the component along R is taken away or added."""
    origin: Literal["zero", "plain"] = "zero"
    """Where the component along R is measured from: zero, as in the formula known to us, or the mean of the plain
    prompts. Where all states lie on the far side of zero, less of a negative component is a step towards refusal."""
    rounds: int = 3
    """How often R is taken anew."""
    steps: int = 60
    """Updates per round."""
    batch: int = 32
    """Prompts per update: benign that are refused, plain, and harmful in turn."""
    at_once: int = 16
    """Prompts that are read at a time."""
    rate: float = 1e-5
    """The learning rate, constant; a tiny model wants more (1e-3)."""
    rank: int = 8
    """Rank of each round's adapter; the rounds' ranks add up."""
    max_new_tokens: int = 512
    """Longest answer that is measured."""
    judge: str = ""
    """Judge of the answers; by default that of the fit, else `classifier`."""
    seed: int = 0
    """Of the order of prompts and the adapters' start."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on the `fit` split, round by round, and choose the round on `dev` under the safety floor.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when plain, borderline or harmful prompts are missing.
            ModelError: when the loss is not finite.
        """
        if self.layer != -1:
            check_layers(lm, (self.layer,))
        groups = [
            data.of("borderline", "fit"),
            data.of("plain", "fit", label="compliance", least=2),
            data.of("harmful", "fit", least=2),
        ]
        layer = self.layer if self.layer != -1 else best_layer(lm, groups[1], groups[2], seed=self.seed)
        with _tuned.folder(data) as out:
            held_out = HeldOut.of(data, _tuned.judge_of(data, self.judge), self.max_new_tokens)
            tried, found = {}, {}
            lora: Lora | None = None
            for number in range(self.rounds):
                now = lm if lora is None else refined_model(lm, lora)
                own = self._round(now, groups, layer, out / f"round-{number + 1}")
                lora = own if lora is None else dataclasses.replace(lora.stacked(own), base=lm.ref.id)
                name = f"round {number + 1}"
                found[name] = lora
                tried[name] = held_out.score(lm, Adapter(lora=lora)) if training.processes()[0] == 0 else {}
            name, why = HeldOut.best(tried, "round")
            write_json(out / "training.json", {"why": why, "layer": layer, "tried": tried})
            return Adapter(lora=found[name], note=why)

    def _round(self, lm: LM, groups: Sequence[Sequence[Example]], layer: int, out: Path) -> Lora:
        states = [capture(lm, [e.prompt for e in group], layers=(layer,))[:, 0] for group in groups[1:]]
        plain = states[0].double().mean(0)
        direction = states[1].double().mean(0) - plain
        origin = plain.float() if self.origin == "plain" else torch.zeros_like(plain).float()
        draws = []
        for number, group in enumerate(groups):
            some = [passage(lm, e.prompt, "") for e in group]
            draws.append(cycle([_towards(one, harmful=number == 2) for one in some], seed=self.seed))
        loss = Representation(
            terms={"shift": self._shifting(layer, direction.float(), origin)},
            layers=(layer,),
            record={"loss": "shift", "layer": layer, "amount": self.amount, "origin": self.origin},
        )
        how = How(
            rate=self.rate,
            batch=self.batch,
            at_once=self.at_once,
            rank=self.rank,
            alpha=self.rank,
            dropout=0.0,
            warmup=0.0,
            schedule="constant",
            blocks=(layer,),
            checkpoints=1,
            seed=self.seed,
        )
        rows = course([Part(role="shift", draw=alternate(*draws), each=self.batch)], self.steps, seed=self.seed)
        done = training.train(lm, rows, out, objective=loss, how=how)
        return Lora.read(done.checkpoints[-1].folder)

    def _shifting(self, layer: int, direction: torch.Tensor, origin: torch.Tensor) -> Any:
        def term(read: Read) -> Any:
            rows = torch.arange(len(read.answer), device=read.answer.device)
            before = read.before[layer][rows, read.answer - 1]
            start, along = origin.to(before.device), direction.to(before.device)
            target = start + losses.shifted(before - start, along, self.amount * read.item)
            return losses.apart(read.last_prompt((layer,))[0], target)

        return term


def best_layer(lm: LM, plain: Sequence[Example], harmful: Sequence[Example], *, most: int = 200, seed: int = 0) -> int:
    """Return the block after which plain and harmful prompts part best, by their mean silhouette."""
    dice = random.Random(seed)
    some = [dice.sample(list(group), min(most, len(group))) for group in (plain, harmful)]
    states = capture(lm, [e.prompt for group in some for e in group]).numpy()
    labels = [number for number, group in enumerate(some) for _ in group]
    scores = [float(silhouette_score(states[:, layer], labels)) for layer in range(lm.n_layers)]
    return max(range(lm.n_layers), key=scores.__getitem__)


def _towards(one: Passage, *, harmful: bool) -> Passage:
    return dataclasses.replace(one, item=1 if harmful else -1)
