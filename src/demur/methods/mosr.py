"""Erase harmful answers by how unlike over-refused prompts they are; retain refusals in context (MOSR-style)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from demur import losses
from demur.errors import ConfigError, DataError
from demur.interventions.adapter import Adapter
from demur.methods._overlap import Weights, summary, weights
from demur.methods._passages import Text, Texts, without_prompt
from demur.methods._representation import Rerouted, erasing, falling, fit, reach, retaining, rising, whole
from demur.representation import Draw, Part, Passage, Read, Representation, alternate, cycle, passage
from demur.states import states
from demur.types import FitData, Prompt

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"
PREFIXES = ("harmful", "benign", "none")
WEIGHTS = ("olw1", "olw0", "none", "uniform", "shuffled", "inverted")
CONFIGURATIONS = {"matched": ((10, 20), 0), "late": (tuple(range(20, 31)), 10)}
"""Hidden states that are erased and first block that is trained, for 32 blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mosr(Rerouted):
    """Train a LoRA adapter as Circuit Breakers do, with weights on what is erased and context before kept refusals.

    MOSR-style after Zhang et al. (arXiv 2511.19009), of which no code and no formula is known to us: what is theirs,
    inferred and ours is told apart in docs/mosr.md. Overlap-aware weights: a harmful text whose last prompt state is
    like those of benign prompts that the model refuses is erased less. Context-aware augmentation: a refusal is
    retained after the beginning of a harmful answer, and never without its prompt.

    With `weights=none,prefix=none` it is `circuit_breakers`. The settings hold every control.
    """

    configuration: Literal["matched", "late"] = "matched"
    """Where it acts, scaled to the model's depth: `matched` to Circuit Breakers (hidden states 10 and 20 of 32, blocks
    0 to 20), or `late` (hidden states 20 to 30, blocks 10 to 30)."""
    layers: tuple[int, ...] = ()
    """Blocks after which states are erased, in place of the configuration's."""
    weights: Weights = "olw1"
    """Of what is erased: `olw1`, `olw0`, or `none`; controls `uniform`, `shuffled`, `inverted`."""
    nearest: int = 10
    """Over-refused prompts that a harmful text is compared with: the most similar ones."""
    pseudo: Literal["refused", "borderline"] = "refused"
    """The prompts compared with: benign ones that the model `refused`, or all `borderline` ones (for a model that
    refuses nothing yet)."""
    prefix: Literal["harmful", "benign", "none"] = "harmful"
    """What stands before a retained refusal: the beginning of the harmful answer, or, as a control, as many tokens of
    a benign one."""
    prefix_share: float = 0.5
    """Share of the retained refusals that get a prefix."""
    prefix_tokens: int = 100
    """Longest prefix; its length is drawn evenly from 1 to this."""
    refusals_keep_prompt: bool = True
    """Never drop the prompt before a retained refusal, whatever `dropped` is."""
    say: float = 0.0
    """Weight of a cross-entropy on the retained refusals' tokens beside the two terms."""
    freed: bool = False
    """Retain answers to benign prompts that the model refuses, too, where such answers are known."""
    dropped: float = 0.0
    """Share of texts that lose their prompt."""
    seed: int = 0
    """Of the order of texts, the prefixes, the shuffled weights and the adapter's start."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on the `fit` split and choose a checkpoint on `dev`.

        Raises:
            ConfigError: for a layer out of range, or a setting that is not understood.
            DataError: when there are no answered plain prompts, no harmful answers, or no over-refused prompts.
            ModelError: when a term is not finite.
        """
        self._check()
        hidden, first = CONFIGURATIONS[self.configuration]
        where = reach(lm, self.layers, hidden, first)
        texts = Texts.of(data, benign=self.benign, attacked=self.attacked)
        given = self.weigh(lm, texts, data, where.layers)
        parts = self._parts(lm, texts, given)
        terms = {"erase": erasing(where.layers), "retain": retaining(where.read, self.distance), "say": _say}
        loss = Representation(
            terms=terms,
            layers=where.read,
            logits=frozenset({"say"}),
            record={"loss": "rerouting, weighted, and drift", "where": dataclasses.asdict(where), **self._what(given)},
        )
        return fit(lm, data, self, parts, loss, where.blocks)

    def _check(self) -> None:
        for name, allowed in (("prefix", PREFIXES), ("weights", WEIGHTS), ("configuration", tuple(CONFIGURATIONS))):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"mosr: {name}={getattr(self, name)!r} is not understood; allowed: {', '.join(allowed)}"
                )

    def _what(self, given: Sequence[float]) -> dict[str, Any]:
        return {"weights": {"rule": self.weights, **summary(given)}, "prefix": self.prefix, "distance": self.distance}

    def weigh(self, lm: LM, texts: Texts, data: FitData, layers: Sequence[int]) -> list[float]:
        """Return the weight of each of `texts.harmful`, from the last prompt states of the untouched model."""
        if self.weights == "none":
            return [1.0] * len(texts.harmful)
        pseudo = [t.prompt for t in texts.refused]
        if self.pseudo == "borderline":
            pseudo = [e.prompt for e in data.of("borderline", "fit")]
        if not pseudo:
            raise DataError(
                "mosr: the model refuses no benign prompt of the fit split, so there is nothing to compare with; "
                "set pseudo=borderline to compare with all borderline prompts, or weights=none"
            )
        plain = [t.prompt for t in texts.safe if t.prompt.kind == "plain"]
        groups: list[Sequence[Prompt]] = [[t.prompt for t in texts.harmful], pseudo, plain]
        harmful, near, benign = (
            states(lm, some, layers=layers, points=("resid_post",), positions="last_prompt") for some in groups
        )
        return weights(self.weights, harmful, near, benign, nearest=self.nearest, seed=self.seed)

    def _parts(self, lm: LM, texts: Texts, given: Sequence[float]) -> list[Part]:
        reads = whole(self.erased)
        harmful = without_prompt(lm, texts.harmful, self.dropped, seed=self.seed, weights=given, whole=reads)
        kept = [texts.safe, texts.answers if self.freed else ()]
        draws = [without_prompt(lm, some, self.dropped, seed=self.seed) for some in kept if some]
        if texts.refusals:
            draws.insert(1, self.refusing(lm, texts))
        parts = [
            Part(role="erase", draw=harmful, each=self.erase, coefficient=falling(self.alpha)),
            Part(
                role="retain",
                draw=alternate(*draws),
                each=self.retain,
                coefficient=rising(self.alpha * self.retain_weight),
            ),
        ]
        if self.say and texts.refusals:
            say = self.refusing(lm, texts)
            parts.append(Part(role="say", draw=say, each=self.retain // 2, coefficient=lambda done: self.say))
        return parts

    def refusing(self, lm: LM, texts: Texts) -> Draw:
        """Return what draws refusals with a prefix before them, of which only the refusal is read."""
        numbered = [Passage(ids=(), answer=0, item=i) for i in range(len(texts.refusals))]
        turn = cycle(numbered, seed=self.seed)

        def draw(number: int, dice: random.Random) -> Passage:
            text = texts.refusals[turn(number, dice).item]
            if not self.refusals_keep_prompt and dice.random() < self.dropped:
                text = dataclasses.replace(text, prompt=dataclasses.replace(text.prompt, text="", history=()))
            before = self._prefix(lm, text, texts.safe, dice)
            one = passage(lm, text.prompt, text.answer, whole=False)
            start = one.answer + len(before)
            return Passage(
                ids=(*one.ids[: one.answer], *before, *one.ids[one.answer :]), answer=one.answer, first=start
            )

        return draw

    def _prefix(self, lm: LM, text: Text, safe: Sequence[Text], dice: random.Random) -> tuple[int, ...]:
        """Return the tokens that stand between a prompt and its refusal."""
        if self.prefix == "none" or not text.other or dice.random() >= self.prefix_share:
            return ()

        def tokens(answer: str) -> tuple[int, ...]:
            return tuple(lm.tokenizer(answer, add_special_tokens=False)["input_ids"])

        harmful = tokens(text.other)
        count = dice.randint(1, max(1, min(self.prefix_tokens, len(harmful))))
        return (harmful if self.prefix == "harmful" else tokens(dice.choice(safe).answer))[:count]


def _say(read: Read) -> Any:
    """Return the mean negative log-probability of the tokens that are read."""
    if read.logits is None:
        raise ConfigError("mosr: the term `say` was given no logits")
    labels = read.ids.masked_fill(read.mask == 0, losses.IGNORED)
    return losses.nll(read.logits[0], labels)
