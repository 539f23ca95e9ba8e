"""Train an adapter that turns the states of harmful answers away from what they were (Circuit-Breakers-style)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions.adapter import Adapter
from demur.losses import Distance
from demur.methods._passages import Benign, Texts, without_prompt
from demur.methods._representation import Erased, Keep, erasing, falling, fit, reach, retaining, rising, whole
from demur.representation import Part, Representation, alternate
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakers:
    """Train a LoRA adapter so that harmful answers lose their states and benign answers and refusals keep theirs.

    Representation rerouting after Zou et al. (arXiv 2406.04313). Erase: the mean positive cosine between the states of
    harmful answers now and before, at two layers; retain: the distance of the states of the model's own answers to
    benign prompts and of its own refusals. The weights of the two shift from erase to retain along the training.

    A defence: it is to hold more, at the price of some answers. Nothing is trained to refuse, and what is erased may
    come out broken, which is reported apart. Harmful answers are never made: a file names them (`rejected` of a
    harmful row), or they are the model's own, or the synthetic world's nonsense.
    """

    layers: tuple[int, ...] = ()
    """Blocks after which states are erased; by default those of the paper's hidden states 10 and 20 of 32."""
    alpha: float = 10.0
    """Weight of the two terms together (10 for Llama-3, 5 for Mistral)."""
    retain_weight: float = 1.0
    """Weight of the retain term beside the erase term. It is a distance in the states' own units, that a cosine:
    longer states want less. The embedded model's are about 350 long, and 1 keeps it from learning at all."""
    distance: Distance = "norm"
    """What the retain term is: the paper's `norm` of a state's change, that `relative` to the state's length, or the
    square of the latter (`squared`), which pulls the more, the further a state is, and at its start not at all."""
    erased: Erased = "text"
    """Which states are erased: those of the whole `text`, as in the release, or of the harmful `answer` alone, and not
    those of the prompt, whose first words benign prompts share."""
    steps: int = 150
    """Updates."""
    erase: int = 16
    """Harmful answers per update."""
    retain: int = 16
    """Texts to retain per update: benign answers and refusals in turn, where there are refusals."""
    benign: Benign = "answered"
    """Which benign prompts are retained: `plain` ones, or all that the model `answered`."""
    freed: bool = False
    """Retain answers to benign prompts that the model refuses, too, where such answers are known."""
    dropped: float = 0.0
    """Share of texts that lose their prompt (the release: 0.5 for Llama-3, 0 for Mistral)."""
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
