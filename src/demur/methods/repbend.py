"""Bend the states of harmful answers away by distance, with no bound, and hold the rest (RepBend-style)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur import losses
from demur.errors import ConfigError
from demur.interventions.adapter import Adapter
from demur.losses import Distance
from demur.methods._passages import Texts, passages
from demur.methods._representation import Moved, fit, reach, retaining
from demur.representation import Part, Read, Representation, Term, alternate, cycle
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repbend(Moved):
    """Train a LoRA adapter that moves harmful answers' states as far as it can and pulls harmful prompts together.

    RepBend-style after arXiv 2504.01550, as its released code has it: safe · (distance of the states of safe answers,
    all layers) − unsafe · (the same of harmful answers, late layers) + cosine · (mean 1 − cos between harmful prompts'
    last states) + kl · (KL of the next token on benign texts, temperature 2, summed over tokens). The second term has
    no lower bound: short training and a low rate keep it in hand.
    """

    steps: int = 450
    layers: tuple[int, ...] = ()
    """Blocks after which harmful states are moved; by default those of the paper's hidden states 20 to 30 of 32."""
    safe: float = 0.5
    """Weight of what holds the states of the model's own answers and refusals."""
    unsafe: float = 0.5
    """Weight of what moves the states of harmful answers."""
    cosine: float = 0.1
    """Weight of what pulls harmful prompts together."""
    distance: Distance = "norm"
    """How the first two terms measure a state's change: the paper's `norm`, or that `relative` to the state's length;
    with `squared` the first is the square of the latter and the second, which has no bound, stays `relative`."""
    kl: float = 0.3
    """Weight of what holds the next token on benign texts; it grows with their length."""
    each: int = 16
    """Texts of each of the four terms per update, but for the safe ones: twice as many."""
    rate: float = 1e-5
    """The learning rate, constant; a tiny model wants more (1e-4)."""
    at_once: int = 16
    """Texts that are read at a time; harmful prompts are pulled to those that are read with them."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on the `fit` split and choose a checkpoint on `dev`.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when there are no plain prompts that are answered, or no harmful answers.
            ModelError: when a term is not finite.
        """
        where = reach(lm, self.layers, range(20, 31))
        texts = Texts.of(data, benign=self.benign, attacked=self.attacked)
        own = [cycle(passages(lm, s, whole=False), seed=self.seed) for s in (texts.safe, texts.refusals) if s]
        harmful = cycle(passages(lm, texts.harmful, whole=False), seed=self.seed)
        parts = [
            Part(role="safe", draw=alternate(*own), each=2 * self.each, coefficient=lambda done: self.safe),
            Part(role="unsafe", draw=harmful, each=self.each, coefficient=lambda done: -self.unsafe),
            Part(role="cosine", draw=harmful, each=self.each, coefficient=lambda done: self.cosine),
            Part(
                role="kl",
                draw=cycle(passages(lm, texts.safe), seed=self.seed + 1),
                each=self.each,
                coefficient=lambda done: self.kl,
            ),
        ]
        every = tuple(range(lm.n_layers))
        loss = Representation(
            terms={
                "safe": retaining(every, self.distance),
                "unsafe": retaining(where.layers, "norm" if self.distance == "norm" else "relative"),
                "cosine": _pulling(where.layers),
                "kl": _holding,
            },
            layers=every,
            logits=frozenset({"kl"}),
            record={"loss": "RepBend's four", "where": dataclasses.asdict(where), "distance": self.distance},
        )
        return fit(lm, data, self, parts, loss, where.blocks)


def _pulling(layers: tuple[int, ...]) -> Term:
    return lambda read: losses.spread(read.last_prompt(layers))


def _holding(read: Read) -> Any:
    if read.logits is None:
        raise ConfigError("repbend: the term `kl` was given no logits")
    return losses.kl(*read.logits, read.mask, temperature=2.0)
