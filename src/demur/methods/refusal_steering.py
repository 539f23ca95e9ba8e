"""Steer away from refusal at several layers, along ridge-shaped mean differences weighted by how sure refusals are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from demur import confidence, drift
from demur.confidence import Asking, confidences
from demur.errors import ConfigError, DataError
from demur.interventions.reposition import Reposition
from demur.interventions.steer import Steer
from demur.mean_differences import ESTIMATORS, Estimator
from demur.methods import _scored, _trials
from demur.methods._choice import judge_of
from demur.methods._scored import Layers, Scored
from demur.methods._trials import Trial
from demur.types import Example, FitData, Prompt

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalSteering:
    """Refusal Steering (arXiv 2512.16602) for over-refusal: additive or reposition, at k layers, with a safety floor.

    1. Each benign prompt gets a confidence c in [-1, 1]: several sampled answers, judged, weighed by likelihood.
       Refused are those with c > neutral, answered those with c < -neutral, the rest is neutral.
    2. A unit vector v per layer from answered to refused, by `estimator`, at the last prompt token.
    3. On the dev split, per layer: the projections p on v (from the neutral mean for `wmd` and `wrmd`), the scale
       s = |Q.05(p) / Q.05(c)| over c < 0 (Q.95 over c > 0 for positive strengths), and the score r(p, c) - RMSE.
    4. The best k layers get h + alpha s v, or h - <h - o, v> v + alpha s v; k, alpha and the form are chosen.

    From the paper: the scores (5 samples, temperature 1, tau 1, band 0.15), the four estimators, ridge 0.01, scales,
    layer score, the deepest 5 % left out, the grid of k and alpha, and the rule: of what removes at least
    `removal_share` of the most, the one that moves the likelihood of given answers least. Ours: refused and answered
    are benign prompts, not harmful ones; weights are |c|, at least 0.01; 0.9, 200 prompts and 128 answers, which the
    paper leaves open; block outputs and all tokens; answers are judged for the `judged` settings that no other
    beats on drift and first answer tokens, and only those count that answer more and keep the safety floor at half
    its margin, which the paper does not have. With fewer than 10 neutral prompts o is the middle of the two means.
    """

    estimator: Estimator = "wrmd"
    """`md`, `wmd`, `rmd` or `wrmd`: mean difference, weighted, shaped by a ridge covariance, both."""
    ridge: float = 1e-2
    """Added to the diagonal of the covariance of answered prompts."""
    relative: bool = False
    """Whether the ridge is a share of the mean variance, so that the scale of a layer does not matter."""
    orthogonal: float = 0.0
    """Share of what the vectors have along true refusal (harmful less answered plain) that is taken out."""
    k: tuple[int, ...] = (2, 4, 8, 16)
    """Numbers of layers to choose from; those above what there is mean all."""
    alphas: tuple[float, ...] = (-0.15, -0.25, -0.5, -0.75, -1.0, -2.0)
    """Strengths to choose from; negative means less refusal."""
    forms: tuple[str, ...] = ("additive", "reposition")
    """Forms to choose from."""
    positions: Literal["all", "generated"] = "all"
    """Every token, or those of the answer alone."""
    samples: int = 5
    """Answers per prompt that make its confidence; 0 takes the labels of the examples."""
    neutral: float = 0.15
    """Half the width of the neutral band of c."""
    prompts: int = 1000
    """Most benign prompts to fit on, and half as many to find the configuration on."""
    removal_prompts: int = 200
    """Most refused dev prompts on which the fall of c is measured."""
    drift_prompts: int = 128
    """Most given answers whose likelihood is compared."""
    removal_share: float = 0.9
    """Share of the largest fall of c that is enough."""
    judged: int = 6
    """Settings that answer the whole dev split."""
    max_new_tokens: int = 512
    """Longest answer."""
    seed: int = 0
    """Of sampling and of the choice of prompts."""

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ConfigError(
                f"refusal_steering: estimator {self.estimator!r} is not understood; allowed: {', '.join(ESTIMATORS)}"
            )
        if not set(self.forms) <= {"additive", "reposition"} or not (self.k and self.alphas and self.forms):
            raise ConfigError("refusal_steering: k, alphas and forms need a value; forms are additive and reposition")
        if min(self.k) < 1 or self.samples < 0:
            raise ConfigError(
                f"refusal_steering: k is {self.k} and samples {self.samples}; at least 1 and 0 are needed"
            )

    def fit(self, lm: LM, data: FitData) -> Intervention:
        """Fit vectors on the `fit` split; find and choose the configuration on `dev`.

        Raises:
            DataError: when refused or answered benign prompts are missing in a split.
        """
        data.of("plain", "fit", label="compliance", least=2)
        asking = self._asking(data)
        fitted = self._scored(lm, data, "fit", self.prompts, asking)
        held = self._scored(lm, data, "dev", self.prompts // 2, asking)
        vectors, origin = _scored.directions(fitted, self.estimator, ridge=self.ridge, relative=self.relative)
        if self.orthogonal:
            vectors = _scored.without_true_refusal(lm, data, vectors, self.orthogonal)
        layers = _scored.layers(held, vectors, origin, centred=self.estimator in ("wmd", "wrmd"))
        trials = self._trials(lm, layers, fitted)
        order, base = self._front(lm, data, trials)
        _trials.judge(lm, data, order, self.max_new_tokens)
        chosen, why = self._choose(lm, held, order, asking)
        counts = {"fit": fitted.counts(self.neutral), "dev": held.counts(self.neutral)}
        return _trials.settle(data, trials, chosen, why, base=base, layers=layers.record(), prompts=counts)

    def _asking(self, data: FitData) -> Asking:
        return Asking(
            judge=judge_of(data),
            samples=max(self.samples, 1),
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )

    def _scored(self, lm: LM, data: FitData, split: str, most: int, asking: Asking) -> Scored:
        rows = [e for e in data.examples if e.split == split and e.prompt.kind in ("plain", "borderline") and e.label]
        rows = _trials.some(rows, most, self.seed)
        if self.samples:
            scores = confidences(lm, [e.prompt for e in rows], asking)
        else:
            scores = {e.prompt.id: _by_label(e) for e in rows}
        known = [(e.prompt, c) for e in rows if (c := scores[e.prompt.id]) is not None]
        return Scored.of(lm, known, split, self.neutral)

    def _trials(self, lm: LM, layers: Layers, fitted: Scored) -> list[Trial]:
        ranked = layers.ranked()
        counts = sorted({min(k, len(ranked)) for k in self.k})
        trials = []
        for count, alpha, form in itertools.product(counts, self.alphas, self.forms):
            v, o = layers.steering(tuple(sorted(ranked[:count])), alpha, lm.ref, fitted.sha, self.estimator)
            what: Intervention
            if form == "additive":
                what = Steer(direction=v, strength=alpha, positions=self.positions)
            else:
                what = Reposition(direction=v, origin=o, strength=alpha, positions=self.positions)
            facts = {"k": count, "alpha": alpha, "form": form}
            trials.append(Trial(name=f"k={count} alpha={alpha:g} {form}", what=what, facts=facts))
        return trials

    def _front(self, lm: LM, data: FitData, trials: list[Trial]) -> tuple[list[Trial], dict[str, float]]:
        """Return the trials that no other beats on drift and screened answers: the best of those that hold most."""
        rows = [e for e in data.examples if e.split == "dev" and e.label == "compliance" and e.answer]
        benign = [e for e in rows if e.prompt.kind in ("plain", "borderline") and not e.prompt.get("prefill")]
        rows = _trials.some(benign, self.drift_prompts, self.seed)
        if not rows:
            raise DataError("refusal_steering: no benign prompt of the dev split has an answer; drift needs some")
        prompts, answers = [e.prompt for e in rows], [e.answer for e in rows]
        before = drift.mean_logprobs(lm, prompts, answers)
        for trial in trials:
            trial.facts["drift"] = drift.drift(before, drift.mean_logprobs(lm, prompts, answers, trial.what))
        base = _trials.screen(lm, data, trials, _trials.openers(lm, data), self.seed)
        front = [t for t in trials if not any(_beats(other, t) for other in trials)]
        return _trials.shortlist(front, base, self.judged), base

    def _choose(self, lm: LM, held: Scored, order: Sequence[Trial], asking: Asking) -> tuple[Trial, str]:
        """Return the trial of least drift among those under the floor that remove nearly the most, and why."""
        kept = [trial for trial in order if trial.keeps]
        if not kept:
            return _trials.pick(order)
        refused = held.refused(self.removal_prompts)
        for trial in kept:
            trial.facts["removal"] = _removal(lm, refused, asking, trial.what)
        enough = self.removal_share * max(float(t.facts["removal"]) for t in kept)
        good = [t for t in kept if t.facts["removal"] >= enough]
        chosen = min(good, key=lambda t: float(t.facts["drift"]))
        return chosen, (
            f"{chosen.name}: least drift of the {len(good)} of {len(kept)} settings that keep the floor at half its "
            f"margin (dev) and remove at least {self.removal_share:g} of the most"
        )


def _by_label(example: Example) -> float | None:
    said = confidence.SAYS.get(example.label or "")
    return None if said is None else float(said)


def _beats(one: Trial, other: Trial) -> bool:
    """Return whether a trial is better in drift, answered or held by first tokens, and worse in none of them."""
    pairs = [
        (-one.facts["drift"], -other.facts["drift"]),
        *((one.facts[n], other.facts[n]) for n in ("screen_answered", "screen_held", "screen_attacked")),
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _removal(lm: LM, refused: Sequence[tuple[Prompt, float]], asking: Asking, what: Intervention) -> float:
    """Return E[c] - E[c under the trial] over refused prompts; one that cannot be judged any more counts as before."""
    after = confidences(lm, [p for p, _ in refused], asking, what)
    falls = [c - (c if (new := after[p.id]) is None else new) for p, c in refused]
    return sum(falls) / len(falls)
