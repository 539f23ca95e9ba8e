"""What methods that train on representations share: settings, and the training, from terms and parts to an adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from demur import losses, training
from demur.errors import ConfigError
from demur.files import write_json
from demur.interventions.adapter import Adapter
from demur.losses import Distance
from demur.methods import _tuned
from demur.methods._contrast import check_layers
from demur.methods._held_out import HeldOut
from demur.methods._passages import Benign
from demur.refusal_curve import RefusalCurve
from demur.representation import Part, Read, Representation, Term, course
from demur.training import How
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

DEPTH = 32
"""Blocks of the models whose hidden states the papers name."""
Keep = Literal["trained", "answered", "resists"]
Erased = Literal["text", "answer"]
"""Which states of a harmful text are erased."""
DISTANCES = ("norm", "relative", "squared")
ERASED = ("text", "answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The settings of a method that moves the states of harmful answers."""

    steps: int = 150
    """Updates."""
    benign: Benign = "answered"
    """Which benign prompts are retained: `plain` ones, or all that the model `answered`."""
    attacked: bool = False
    """Use prompts under attack, too; what was not trained on tells more about a defence."""
    rate: float = 1e-4
    """The learning rate, constant; a tiny model wants more (1e-3)."""
    rank: int = 16
    """Rank of the adapter."""
    alpha_lora: int = 16
    """The adapter's change is multiplied by alpha_lora / rank."""
    dropout: float = 0.05
    """Dropout on the adapter's input."""
    at_once: int = 8
    """Texts that are read at a time."""
    checkpoints: int = 2
    """How many checkpoints are kept and measured."""
    patience: int = 0
    """Checkpoints in a row that miss the safety floor, after which the training ends; 0: never."""
    keep: Keep = "trained"
    """Which checkpoint of those that keep the floor: the one `trained` longest, or the one that `answered` most. Or,
    whatever the floor says, the one that `resists` most attacks of those that lose at most 5 points of answered."""
    max_new_tokens: int = 512
    """Longest answer that is measured."""
    judge: str = ""
    """Judge of the answers; by default that of the fit, else `classifier`."""
    seed: int = 0
    """Of the order of texts and the adapter's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerouted(Moved):
    """The settings of one that erases and retains as Circuit Breakers do."""

    layers: tuple[int, ...] = ()
    """Blocks after which states are erased; by default those of the paper's hidden states 10 and 20 of 32."""
    alpha: float = 10.0
    """Weight of the terms together (Circuit Breakers: 10 for Llama-3, 5 for Mistral)."""
    retain_weight: float = 1.0
    """Weight of the retain term beside the erase term. It is a distance in the states' own units, that a cosine:
    longer states want less. The embedded model's are about 350 long, and 1 keeps it from learning at all."""
    distance: Distance = "norm"
    """What the retain term is: the paper's `norm` of a state's change, that `relative` to the state's length, or the
    square of the latter (`squared`), which pulls the more, the further a state is, and at its start not at all."""
    erased: Erased = "text"
    """Which states are erased: those of the whole `text`, as in the release, or of the harmful `answer` alone, and not
    those of the prompt, whose first words benign prompts share."""
    erase: int = 16
    """Texts to erase per update."""
    retain: int = 16
    """Texts to retain per update: benign answers and refusals in turn, where there are refusals."""


def erasing(layers: Sequence[int]) -> Term:
    """Return the erase term: `losses.rerouting` at some layers."""

    def term(read: Read) -> Any:
        return losses.rerouting(*read.states(layers), read.mask, tokens=read.tokens)

    return term


def retaining(layers: Sequence[int], distance: Distance = "norm") -> Term:
    """Return the retain term: `losses.drift` at some layers.

    Raises:
        ConfigError: for a distance that is none.
    """
    if distance not in DISTANCES:
        raise ConfigError(f"distance={distance!r} is not understood; allowed: {', '.join(DISTANCES)}")

    def term(read: Read) -> Any:
        return losses.drift(*read.states(layers), read.mask, tokens=read.tokens, distance=distance)

    return term


def whole(erased: Erased) -> bool:
    """Return whether what is erased is the whole text.

    Raises:
        ConfigError: for a word that is none of `ERASED`.
    """
    if erased not in ERASED:
        raise ConfigError(f"erased={erased!r} is not understood; allowed: {', '.join(ERASED)}")
    return erased == "text"


def falling(alpha: float, slowness: float = 2.0) -> Callable[[float], float]:
    """Return Circuit Breakers' coefficient of the erase term, alpha (1 - t / (slowness T))."""
    return lambda done: alpha * (1 - done / slowness)


def rising(alpha: float, slowness: float = 2.0) -> Callable[[float], float]:
    """Return Circuit Breakers' coefficient of the retain term, alpha t / (slowness T)."""
    return lambda done: alpha * done / slowness


def scaled(lm: LM, hidden: int) -> int:
    """Return the block that writes a hidden state of a model of 32 blocks, or the like one here.

    The k-th hidden state of the papers is what block k - 1 gives; its depth k / 32 is kept, rounded up at a half.
    """
    return max(0, min(lm.n_layers, int(hidden * lm.n_layers / DEPTH + 0.5)) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where the terms read and what is trained."""

    layers: tuple[int, ...]
    """The blocks after which the erase term reads."""
    blocks: tuple[int, ...]
    """The blocks that are trained."""

    @property
    def read(self) -> tuple[int, ...]:
        """Every block up to the last that runs: where the retain term reads."""
        return tuple(range(max(*self.layers, *self.blocks) + 1))


def reach(lm: LM, layers: Sequence[int], hidden: Sequence[int], first: int = 0) -> Reach:
    """Return where a method of the family reads and trains.

    Args:
        lm: the model.
        layers: the blocks that the user named, or none.
        hidden: the paper's hidden states, for a model of 32 blocks.
        first: the first block that is trained, likewise.

    Raises:
        ConfigError: for a layer out of range.
    """
    check_layers(lm, layers)
    chosen = tuple(layers) or tuple(dict.fromkeys(scaled(lm, k) for k in hidden))
    last = min(max(chosen) + 1, lm.n_layers - 1)  # the paper's 20th hidden state is read and block 20 is trained
    return Reach(layers=chosen, blocks=tuple(range(min(scaled(lm, first + 1), last), last + 1)))


def how(settings: Moved, parts: Sequence[Part], blocks: tuple[int, ...]) -> How:
    """Return how a training runs, from the fields of a method that have `How`'s names."""
    names = {f.name for f in dataclasses.fields(How)} & {f.name for f in dataclasses.fields(settings)}
    given = {name: getattr(settings, name) for name in names - {"alpha"}}
    return How(
        **given,
        alpha=settings.alpha_lora,
        batch=sum(p.each for p in parts),
        blocks=blocks,
        warmup=0.0,
        schedule="constant",
    )


def fit(
    lm: LM, data: FitData, settings: Moved, parts: Sequence[Part], loss: Representation, blocks: tuple[int, ...]
) -> Adapter:
    """Train, measure every checkpoint on the dev split, and choose one.

    Args:
        lm: the model.
        data: examples, the judge and the folder.
        settings: the method.
        parts: what is read at each update.
        loss: what is lowered.
        blocks: the blocks that are trained.

    Raises:
        ModelError: when a term is not finite.
    """
    with _tuned.folder(data) as out:
        held_out = HeldOut.of(data, _tuned.judge_of(data, settings.judge), settings.max_new_tokens)
        trained = training.train(
            lm,
            course(parts, settings.steps, seed=settings.seed),
            out,
            objective=loss,
            how=how(settings, parts, blocks),
            score=lambda c: held_out.score(lm, _tuned.adapter(c)),
            probe=RefusalCurve.of(lm, data, seed=settings.seed),
        )
        if training.processes()[0] != 0:
            return _tuned.adapter(trained.checkpoints[-1])  # the first process alone chooses and saves
        picks = {"trained": held_out.longest_trained, "resists": held_out.most_resistant}
        pick = picks.get(settings.keep, lambda done: held_out.choose(lm, done))
        chosen, table = pick(trained.checkpoints)
        record = {"why": chosen.note, "tried": table, "losses": trained.losses, "parts": trained.parts}
        write_json(out / "training.json", {**record, "curve": trained.curve, "loss": loss.record})
        return chosen
