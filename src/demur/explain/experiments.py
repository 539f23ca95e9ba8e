"""Experiments on the boundary that can fail: map, flip strengths, sufficiency (E1 to E3; E4 is in `languages`).

Directions come from the fit split; everything here is measured on other prompts, with group-bootstrap intervals and
the same 20 random directions of equal norm beside it. They describe: they come out alike under different causes of
over-refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from demur import stats
from demur.boundary import Array, Axis, calibrate, group_weights, intervals, reliability, weighted_auroc
from demur.causal import GRID, Flips, flips
from demur.distances import Fitted, compare
from demur.explain.controls import N_BOOT, area, either_way, ends, random_axes
from demur.explain.findings import findings
from demur.explain.languages import Spoken, e4_languages
from demur.explain.observed import Observed, spread
from demur.readout import Openers

if TYPE_CHECKING:
    from demur.lm import LM

POINTS = 150
"""Points of a group on the map."""
FEWER = 100
"""Resamples of the fits with two weights."""
PAIRS = (
    ("harmful_refused", "benign_refused"),
    ("benign_refused", "benign_answered"),
    ("harmful_refused", "benign_answered"),
)
"""Groups whose overlap along the axis is told; the first should lie higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the experiments read, and what they may cost."""

    layer: int | None = None
    """None: the layer that best tells harmful from plain prompts."""
    seed: int = 0
    """Of random directions and resampling."""
    flipped: int = 600
    """Prompts whose decision is flipped by steering, shared out over the groups; the dearest part."""
    controlled: int = 120
    """Of these, the prompts that each random direction is tried on."""


def e1_map(
    t: Array, states: torch.Tensor, axis: Axis, seen: Observed, *, randoms: Sequence[Axis] = (), seed: int = 0
) -> dict[str, Any]:
    """Say where each group lies on (vhat, first principal component of the rest), and how much they overlap.

    Args:
        t: coordinates, shape (prompt,).
        states: shape (prompt, d_model).
        axis: the fitted axis.
        seen: the prompts.
        randoms: axes along random directions of equal norm.
        seed: of the resampling.

    Returns:
        `groups`: n, mean t with its interval, and the mean t along each random axis; `overlap`: AUROC of pairs of
        groups, and that of each random axis, the better way round; `points`: some (t, component) of each group.
    """
    second, names = _rest(states, axis), np.array(seen.groups)
    others = [random.coordinate(states) for random in randoms]
    marks = seen.sorts()
    found: dict[str, Any] = {"groups": {}, "overlap": [], "points": {}}
    for name, own in marks.items():
        found["groups"][name] = _place(t, second, own, names, others, seed)
        rows = spread(np.flatnonzero(own).tolist(), POINTS)
        found["points"][name] = [[round(float(t[i]), 3), round(float(second[i]), 3)] for i in rows]
    for high, low in PAIRS:
        row = area(t, marks[high], marks[low], seen.groups, seed)
        random = [either_way(other, marks[high], marks[low]) for other in others]
        found["overlap"].append({"high": high, "low_group": low, "auroc": row, "random": random})
    return found


def _rest(states: torch.Tensor, axis: Axis) -> Array:
    """The first principal component of what the axis leaves."""
    unit = axis.v / axis.v.norm().clamp(min=1e-12)
    centred = states.double() - states.double().mean(0)
    rest = centred - (centred @ unit)[:, None] * unit
    _, vectors = torch.linalg.eigh(rest.T @ rest)
    second: Array = (rest @ vectors[:, -1]).numpy()
    return second


def _place(t: Array, second: Array, own: Any, names: Any, others: Sequence[Array], seed: int) -> dict[str, Any]:
    if not own.any():
        return {"n": 0, "groups": 0, "t": None, "low": None, "high": None, "pc": None, "between": None, "random": []}
    low, high = stats.group_bootstrap(t[own], np.ones(own.sum()), names[own].tolist(), n_boot=N_BOOT, seed=seed)
    return {
        "n": int(own.sum()),
        "groups": len(set(names[own])),
        "t": float(t[own].mean()),
        "low": low,
        "high": high,
        "pc": float(second[own].mean()),
        "between": float(((t[own] > 0) & (t[own] < 1)).mean()),
        "random": [float(other[own].mean()) for other in others],
    }


def e2_flips(
    lm: LM, axis: Axis, seen: Observed, openers: Openers, settings: Settings, *, randoms: Sequence[Axis] = ()
) -> tuple[dict[str, Any], list[int], Flips | None]:
    """Find the smallest strength that flips each decision, by group, and that of random directions.

    Returns:
        per group: median alpha* with its interval, share flipped on the grid, and the flip curve (share flipped by
        each strength, with intervals; slope between its quartiles); the curves of each random direction; `order`, the
        chance that a refused harmful prompt takes a larger strength than a refused benign one; the places of the
        prompts that were flipped; their flips. Under an attached gate nothing is searched and `unmeasured` says so.
    """
    marks, layer, seed = seen.sorts(), settings.layer or 0, settings.seed
    record: dict[str, Any] = {"grid": list(GRID), "groups": {}, "random": [], "order": None, "unmeasured": ""}
    if lm.plan_of(None).gates:
        return record | {"unmeasured": "an intervention with a gate is attached; flips cannot be searched"}, [], None
    chosen = _even([np.flatnonzero(own).tolist() for own in marks.values()], settings.flipped)
    if not chosen:
        return record | {"unmeasured": "no prompt was refused or answered"}, [], None
    (found,) = flips(lm, [seen.prompts[i] for i in chosen], axis.v.float(), openers, layer=layer)
    names = np.array(seen.groups)[chosen]
    for name, own in marks.items():
        record["groups"][name] = _flipping(found.alpha[own[chosen]], names[own[chosen]].tolist(), seed)
    high, low = marks["harmful_refused"][chosen], marks["benign_refused"][chosen]
    record["order"] = {**area(found.alpha, high, low, names.tolist(), seed), "n": int(high.sum() + low.sum())}
    fewer = _even([[i for i in chosen if own[i]] for own in marks.values()], settings.controlled)
    vectors = [random.v.float() for random in randoms]
    controls = flips(lm, [seen.prompts[i] for i in fewer], vectors, openers, layer=layer) if vectors else []
    record["random"] = [{name: _reached(c.alpha[own[fewer]]) for name, own in marks.items()} for c in controls]
    record["random_n"] = {name: int(own[fewer].sum()) for name, own in marks.items()}
    return record, chosen, found


def _even(parts: Sequence[Sequence[int]], most: int) -> list[int]:
    each = max(1, most // max(1, sum(bool(p) for p in parts)))
    made: list[int] = []
    for part in parts:
        made += [part[int(i * len(part) / each)] for i in range(each)] if len(part) > each else list(part)
    return sorted(made)


def _reached(alpha: Array) -> list[float] | None:
    """The share flipped by each strength of the grid."""
    return [float((alpha <= a).mean()) for a in GRID] if len(alpha) else None


def _flipping(alpha: Array, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """Describe one group's alpha*; infinite ones count as above the grid. Intervals resample groups."""
    if not len(alpha):
        return {"n": 0, "median": None, "low": None, "high": None, "flipped": None, "curve": [], "slope": None}
    weights = group_weights(groups, N_BOOT, seed)
    drawn = weights @ (alpha[:, None] <= np.array(GRID)) / weights.sum(1, keepdims=True)
    values = _reached(alpha) or []
    curve = [{"alpha": a, "value": values[i], **ends(drawn[:, i])} for i, a in enumerate(GRID)]
    steps = np.array([*GRID, np.inf])
    median = np.sort(steps[(drawn < 0.5).sum(1)])[[int(0.025 * N_BOOT), int(0.975 * N_BOOT)]]
    shown = [None if not np.isfinite(x) else float(x) for x in (np.median(alpha), *median)]
    quartiles = np.quantile(alpha, (0.25, 0.75), method="inverted_cdf")
    slope = (
        0.5 / float(quartiles[1] - quartiles[0]) if np.isfinite(quartiles[1]) and quartiles[1] > quartiles[0] else None
    )
    return {
        "n": len(alpha),
        "groups": len(set(groups)),
        "median": shown[0],
        "low": shown[1],
        "high": shown[2],
        "flipped": values[-1],
        "curve": curve,
        "slope": slope,
    }


def e3_sufficiency(t: Array, seen: Observed, *, others: Sequence[Array] = (), seed: int = 0) -> dict[str, Any]:
    """Fit P(refuse | t, harm), and set t against the words of the prompt.

    Args:
        t: coordinates, shape (prompt,).
        seen: the prompts.
        others: coordinates along random directions of equal norm.
        seed: of the resampling.

    Returns:
        w and b (the weight of harm beside t, in logits) with intervals, and b beside each random coordinate; among
        benign prompts the AUROC of t, of a words-only model (out of fold, folds by group), of each random coordinate
        (the better way round), and the difference of the first two; t* and tau for the stated mixture and for benign
        prompts alone.
    """
    harm, refused, benign = seen.harmful, seen.refused, seen.benign
    weights = group_weights(seen.groups, N_BOOT, seed)
    made: dict[str, Any] = {"w": None, "b": None, "b_random": [], "n": len(t), "mixtures": {}}
    if refused.any() and not refused.all():
        fits = np.array([_two(t, harm, refused, w) for w in (np.ones(len(t)), *weights[:FEWER])])
        made |= {name: {"value": float(fits[0, i]), **ends(fits[1:, i])} for i, name in enumerate(("w", "b"))}
        made["b_random"] = [float(_two(other, harm, refused, np.ones(len(t)))[1]) for other in others]
    made["words"] = _against_words(t, benign, seen, weights)
    made["random_auroc"] = [either_way(other, benign & refused, benign & ~refused) for other in others]
    for name, own in (("all", np.ones(len(t), dtype=bool)), ("benign", benign)):
        if own.any():
            made["mixtures"][name] = _mixture(t[own], seen.where(own))
    return made


def _mixture(t: Array, seen: Observed) -> dict[str, Any]:
    fit = calibrate(t, seen.refused, seen.benign)
    bounds = intervals(t, seen.refused, seen.benign, seen.groups)
    finite = np.isfinite(fit.t_star)
    return {
        "n": len(t),
        "harmful": int(seen.harmful.sum()),
        "t_star": fit.t_star if finite else None,
        "t_star_interval": list(bounds.t_star) if bounds.t_star else None,
        "tau": fit.tau if finite else None,
        "tau_interval": list(bounds.tau) if bounds.tau else None,
        "unusable": fit.unusable,
    }


def _two(t: Array, harm: Any, refused: Any, weights: Array) -> Array:
    """Fit refusal on (t, harm); return both weights, per unit."""
    own, scale = weights > 0, float(t.std()) or 1.0
    if refused[own].all() or not refused[own].any():
        return np.array([np.nan, np.nan])
    x = np.stack([t / scale, harm.astype(float)], axis=1)
    fit = LogisticRegression(C=100.0, max_iter=300).fit(x[own], refused[own], sample_weight=weights[own])
    return np.array([fit.coef_[0, 0] / scale, fit.coef_[0, 1]])


def _against_words(t: Array, benign: Any, seen: Observed, weights: Array) -> dict[str, Any]:
    label = seen.refused[benign]
    empty: dict[str, Any] = {
        "t": None, "words": None, "t_interval": None, "words_interval": None, "difference": None, "low": None,
        "high": None, "n": int(benign.sum()), "groups": 0,
    }  # fmt: skip
    groups = np.array(seen.groups)[benign]
    if label.all() or not label.any() or len(set(groups)) < 5:
        return empty
    score = _words([p.text for p, own in zip(seen.prompts, benign, strict=True) if own], label, groups)
    if score is None:
        return empty
    ours = weighted_auroc(t[benign], label, weights[:, benign])
    theirs = weighted_auroc(score, label, weights[:, benign])
    own, other = stats.auroc(t[benign], label) or 0.0, stats.auroc(score, label) or 0.0
    return {
        "t": own,
        "t_interval": list(ends(ours).values()),
        "words": other,
        "words_interval": list(ends(theirs).values()),
        "difference": own - other,
        **ends(ours - theirs),
        "n": len(label),
        "groups": len(set(groups)),
    }


def _words(texts: Sequence[str], label: Any, groups: Any) -> Array | None:
    """Score each text by its characters alone, out of fold; None where a fold has one class only."""
    score = np.zeros(len(texts))
    for train, test in GroupKFold(5).split(texts, label, groups):
        if label[train].all() or not label[train].any():
            return None
        words = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=2, binary=True)
        model = make_pipeline(words, LogisticRegression(C=0.3, max_iter=500))
        model.fit([texts[i] for i in train], label[train])
        score[test] = model.decision_function([texts[i] for i in test])
    return score


def experiments(
    lm: LM,
    fitted: Fitted,
    languages: dict[str, Spoken],
    seen: Observed,
    openers: Openers,
    states: torch.Tensor,
    settings: Settings,
) -> dict[str, Any]:
    """Run all four at one layer.

    Args:
        lm: the model.
        fitted: the fit split's states at the layer.
        languages: the same, per language.
        seen: prompts of another split, with what the model did; those neither refused nor answered are left out.
        openers: the refusal openers.
        states: of `seen` at the layer, shape (prompt, d_model).
        settings: layer, seed, and how many prompts are flipped.

    Returns:
        `e1` to `e4`, `distances` (each against alpha*), `calibration` with intervals and reliability curve, and
        `findings`: what was claimed, what was found.
    """
    states, seen = states[torch.tensor(seen.read)], seen.where(seen.read)
    axis, seed = fitted.axis, settings.seed
    randoms = random_axes(axis, seed=seed)
    t, benign = axis.coordinate(states), seen.benign
    fit, bounds = calibrate(t, seen.refused, benign), intervals(t, seen.refused, benign, seen.groups, seed=seed)
    e2, chosen, found = e2_flips(lm, axis, seen, openers, settings, randoms=randoms)
    distances = [] if found is None else compare(
        fitted, states[chosen], found.start, seen.refused[chosen], benign[chosen], found.alpha
    )  # fmt: skip
    record: dict[str, Any] = {
        "e1": e1_map(t, states, axis, seen, randoms=randoms, seed=seed),
        "e2": e2,
        "e3": e3_sufficiency(t, seen, others=[r.coordinate(states) for r in randoms], seed=seed),
        "e4": e4_languages(states, seen, languages, seed=seed),
        "distances": distances,
        "calibration": {
            "t_star": list(bounds.t_star) if bounds.t_star else None,
            "tau": list(bounds.tau) if bounds.tau else None,
            "auroc": list(bounds.auroc) if bounds.auroc else None,
            "usable": bounds.usable,
            "reliability": reliability(t, seen.refused, fit, groups=seen.groups),
        },
    }
    at = {"t_star": fit.t_star if np.isfinite(fit.t_star) else None, "tau": fit.tau, "unusable": fit.unusable}
    record["findings"] = findings(record, at)
    return record
