"""Train an adapter that turns the states of harmful answers away from what they were (Circuit-Breakers-style)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions.adapter import Adapter
from demur.methods._passages import Texts, without_prompt
from demur.methods._representation import Rerouted, erasing, falling, fit, reach, retaining, rising, whole
from demur.representation import Part, Representation, alternate
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakers(Rerouted):
    """Train a LoRA adapter so that harmful answers lose their states and benign answers and refusals keep theirs.

    Representation rerouting after Zou et al. (arXiv 2406.04313). Erase: the mean positive cosine between the states of
    harmful answers now and before, at two layers; retain: the distance of the states of the model's own answers to
    benign prompts and of its own refusals. The weights of the two shift from erase to retain along the training.

    A defence: it is to hold more, at the price of some answers. Nothing is trained to refuse, and what is erased may
    come out broken, which is reported apart. Harmful answers are never made: a file names them (`rejected` of a
    harmful row), or they are the model's own, or the synthetic world's nonsense.
    """

    freed: bool = False
    """Retain answers to benign prompts that the model refuses, too, where such answers are known."""
    dropped: float = 0.0
    """Share of texts that lose their prompt (the release: 0.5 for Llama-3, 0 for Mistral)."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on the `fit` split and choose a checkpoint on `dev`.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when there are no plain prompts that are answered, or no harmful answers.
            ModelError: when a term is not finite.
        """
        where = reach(lm, self.layers, (10, 20))
        texts = Texts.of(data, benign=self.benign, attacked=self.attacked)
        kept = [texts.safe, texts.refusals, tuple(texts.answers) if self.freed else ()]
        draws = [without_prompt(lm, some, self.dropped, seed=self.seed) for some in kept if some]
        harmful = without_prompt(lm, texts.harmful, self.dropped, seed=self.seed, whole=whole(self.erased))
        parts = [
            Part(role="erase", draw=harmful, each=self.erase, coefficient=falling(self.alpha)),
            Part(
                role="retain",
                draw=alternate(*draws),
                each=self.retain,
                coefficient=rising(self.alpha * self.retain_weight),
            ),
        ]
        loss = Representation(
            terms={"erase": erasing(where.layers), "retain": retaining(where.read, self.distance)},
            layers=where.read,
            record={
                "loss": "rerouting and drift",
                "layers": where.layers,
                "read": where.read,
                "distance": self.distance,
            },
        )
        return fit(lm, data, self, parts, loss, where.blocks)
