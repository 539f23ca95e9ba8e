"""Ablate or subtract the one direction that carries all refusal: an upper bound on answers, a lower one on safety."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from demur.directions import Direction
from demur.errors import ConfigError
from demur.interventions.ablate import Ablate
from demur.interventions.steer import Steer
from demur.methods import _post_instruction, _trials
from demur.methods._post_instruction import POINT, Sets, refusal_score
from demur.methods._trials import Trial
from demur.price import kl
from demur.screen import Screen
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

EXTRA = "local"
COMPARISON_ONLY = "it takes away all refusal, and is chosen without a safety floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalDirection:
    """Remove the direction of all refusal (Arditi et al., arXiv 2406.11717): for comparison only.

    For every layer and every token between the user's message and the answer, r = mean(harmful) - mean(harmless)
    before the block, in float64. Of these the one is kept whose ablation leaves the lowest refusal score on harmful
    validation prompts, among those whose ablation moves harmless ones little (KL at most `most_kl`) and whose
    addition makes the model refuse harmless ones (score at least `least_induced`). The refusal score is
    log p(openers) - log p(all else) at the first answer token. `ablation` then projects r out of everything that is
    written to the stream; `addition` takes r away before the one block, at all tokens.

    From the paper and its code: all of this, 128 + 128 prompts to fit and 32 + 32 to choose, harmful ones that are
    refused and harmless ones that are answered, the last 20 % of layers left out, KL 0.1, score 0. Ours: a judge
    says what is refused, the openers are found on the model (the code names them by hand), and where no candidate
    passes both filters the one of least KL is taken and the record says so.
    """

    mode: Literal["ablation", "addition"] = "ablation"
    """Project the direction out everywhere, or subtract it at its own layer."""
    layers: tuple[int, ...] = ()
    """Layers to take candidates from; by default all but the deepest fifth."""
    train: int = 128
    """Most prompts of each kind to fit on."""
    validation: int = 32
    """Most prompts of each kind to choose on."""
    most_kl: float = 0.1
    """Largest KL on harmless prompts, in nats at the first answer token."""
    least_induced: float = 0.0
    """Lowest refusal score on harmless prompts when the direction is added."""
    strength: float = 1.0
    """1 removes the direction, or subtracts it once; 0 changes nothing."""
    seed: int = 0
    """Of the choice of prompts."""

    def __post_init__(self) -> None:
        if self.mode not in ("ablation", "addition"):
            raise ConfigError(f"refusal_direction: mode={self.mode!r} is not understood; allowed: ablation, addition")

    def fit(self, lm: LM, data: FitData) -> Intervention:
        """Fit on the `fit` split and choose on `dev`; raises DataError when a group of prompts is missing."""
        layers = _post_instruction.layers_of(lm, self.layers)
        sets = Sets.of(data, ("plain", "harmful"), (self.train, self.validation), self.seed)
        harmful, plain = (_post_instruction.means(lm, sets.train[name], layers) for name in ("harmful", "plain"))
        found = _post_instruction.candidates(lm, harmful - plain, layers, "mean_difference", sets.sha)
        directions = {f"layer {d.layers[0]} {d.position}": d for d in found}
        trials = [Trial(name=name, what=self._made(d)) for name, d in directions.items()]
        chosen, why = self._choose(lm, data, sets, trials, directions)
        return _trials.settle(data, trials, chosen, why)

    def _choose(
        self, lm: LM, data: FitData, sets: Sets, trials: list[Trial], directions: dict[str, Direction]
    ) -> tuple[Trial, str]:
        opening = _trials.openers(lm, data)
        harmful, plain = (Screen(lm, sets.validation[name]) for name in ("harmful", "plain"))
        untouched = plain.logits(None)
        for trial in trials:
            direction = directions[trial.name]
            ablate = Ablate(direction=direction)
            induced = refusal_score(plain.logits(Steer(direction=direction, strength=1.0, point=POINT)), opening)
            trial.facts |= {
                "refusal": float(refusal_score(harmful.logits(ablate), opening).mean()),
                "kl": float(kl(untouched, plain.logits(ablate)).mean()),
                "induced": float(induced.mean()),
            }
        fit = [t for t in trials if t.facts["kl"] <= self.most_kl and t.facts["induced"] >= self.least_induced]
        if fit:
            chosen = min(fit, key=lambda t: float(t.facts["refusal"]))
            return chosen, f"{chosen.name}: lowest refusal of the {len(fit)} that pass the filters"
        chosen = min(trials, key=lambda t: float(t.facts["kl"]))
        return chosen, f"{chosen.name}: NONE of {len(trials)} candidates passes both filters; that of least KL"

    def _made(self, direction: Direction) -> Ablate | Steer:
        if self.mode == "ablation":
            return Ablate(direction=direction, strength=self.strength)
        return Steer(direction=direction, strength=-self.strength, point=POINT)
