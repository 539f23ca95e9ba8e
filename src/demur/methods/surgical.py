"""Ablate the direction of false refusal, made orthogonal to that of true refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur import mean_differences
from demur.interventions.ablate import Ablate
from demur.methods import _post_instruction, _trials
from demur.methods._post_instruction import Sets, refusal_score
from demur.methods._trials import Trial
from demur.price import kl
from demur.readout import Openers
from demur.screen import Screen
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surgical:
    """Ablate the false-refusal direction less its true-refusal part (Wang et al., arXiv 2410.03415).

    Before every block and at every token between the user's message and the answer, in float64:
    r = mean(harmful) - mean(harmless), w = mean(refused borderline) - mean(harmless), and
    w' = w - orthogonal <w, r> r / |r|^2. One w' is chosen and projected out of everything that is written to the
    stream, at all layers and tokens; it bakes into the weights.

    From the paper and its code: the vectors, orthogonal = 1, 128 prompts of each kind to fit and 32 to choose, all of
    them refused (harmless: answered) by the model, the last 20 % of layers left out, KL on harmless prompts at most
    0.2, and the lowest refusal score on borderline prompts first. Ours: a judge says what is refused and the openers
    of the score are found on the model; the `judged` best candidates then answer the dev split, and the one that
    answers most under the safety floor at half its margin is taken (the paper has no floor). Where no candidate
    keeps the KL, those of least KL are judged and the record says so.
    """

    orthogonal: float = 1.0
    """Share of the true-refusal part that is taken out of w; less answers more and holds less."""
    strength: float = 1.0
    """1 removes the direction, 0 changes nothing."""
    layers: tuple[int, ...] = ()
    """Layers to take candidates from; by default all but the deepest fifth."""
    train: int = 128
    """Most prompts of each kind to fit on."""
    validation: int = 32
    """Most prompts of each kind whose first answer token is read for every candidate."""
    most_kl: float = 0.2
    """Largest KL on harmless prompts, in nats at the first answer token."""
    judged: int = 4
    """Candidates that answer the whole dev split."""
    max_new_tokens: int = 512
    """Longest answer there."""
    seed: int = 0
    """Of the choice of prompts."""

    def fit(self, lm: LM, data: FitData) -> Intervention:
        """Fit on the `fit` split and choose on `dev`.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when a group of prompts is missing.
        """
        layers = _post_instruction.layers_of(lm, self.layers)
        sets = Sets.of(data, ("plain", "harmful", "borderline"), (self.train, self.validation), self.seed)
        plain, harmful, borderline = (_post_instruction.means(lm, rows, layers) for rows in sets.train.values())
        w = mean_differences.orthogonal(borderline - plain, harmful - plain, self.orthogonal)
        trials = [
            Trial(name=f"layer {d.layers[0]} {d.position}", what=Ablate(direction=d, strength=self.strength))
            for d in _post_instruction.candidates(lm, w, layers, "surgical", sets.sha)
        ]
        order, note = self._order(lm, sets, trials, _trials.openers(lm, data))
        _trials.judge(lm, data, order[: self.judged], self.max_new_tokens)
        chosen, why = _trials.pick(order)
        return _trials.settle(data, trials, chosen, note + why)

    def _order(self, lm: LM, sets: Sets, trials: list[Trial], opening: Openers) -> tuple[list[Trial], str]:
        """Read first answer tokens under every candidate; return those that may be judged, best first, and a note."""
        plain, borderline = (Screen(lm, sets.validation[name]) for name in ("plain", "borderline"))
        untouched = plain.logits(None)
        for trial in trials:
            trial.facts |= {
                "refusal": float(refusal_score(borderline.logits(trial.what), opening).mean()),
                "kl": float(kl(untouched, plain.logits(trial.what)).mean()),
            }
        fit = [t for t in trials if t.facts["kl"] <= self.most_kl]
        if fit:
            return sorted(fit, key=lambda t: float(t.facts["refusal"])), ""
        note = f"NONE of {len(trials)} candidates keeps the KL of {self.most_kl:g}; of those of least KL: "
        return sorted(trials, key=lambda t: float(t.facts["kl"])), note
