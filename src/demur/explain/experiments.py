"""Four experiments on the boundary that can fail: map, flip strengths, sufficiency, languages (E1 to E4).

Directions come from the fit split; everything here is measured on other prompts, with group-bootstrap intervals and
random directions of equal norm beside it. They describe: they come out alike under different causes of over-refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from demur.directions import random_like
from demur.distances import Fitted, compare
from demur.methods._contrast import GROUPS
from demur.readout import Openers
from demur.types import Example

if TYPE_CHECKING:
    from demur.explain.boundary import Observed
    from demur.lm import LM
    from demur.methods._contrast import Contrast

RANDOM_DIRECTIONS = 20
FLIPPED, CONTROLLED = 600, 120
N_BOOT = 300
LEAST = 20
"""Prompts below which a language has no direction or threshold of its own."""


def groups_of(seen: Observed) -> dict[str, Any]:
    """Return the four groups of prompts that the experiments compare, as flags."""
    borderline, refused = seen.kind("borderline", "plain"), seen.refused
    return {
        "harmful_refused": seen.kind("harmful") & refused,
        "benign_refused": borderline & refused,
        "benign_answered": borderline & ~refused,
    }


def e1_map(t: Array, states: torch.Tensor, axis: Axis, seen: Observed, *, seed: int = 0) -> dict[str, Any]:
    """Say where each group lies on (vhat, first principal component of the rest), and how much they overlap."""
    unit = axis.v / axis.v.norm().clamp(min=1e-12)
    centred = states.double() - states.double().mean(0)
    rest = centred - (centred @ unit)[:, None] * unit
    _, _, right = torch.linalg.svd(rest, full_matrices=False)
    second = (rest @ right[0]).numpy()
    names = np.array(seen.groups)
    found: dict[str, Any] = {}
    for name, own in groups_of(seen).items():
        if not own.any():
            found[name] = {"n": 0, "t": None, "low": None, "high": None, "pc": None, "between": None}
            continue
        low, high = stats.group_bootstrap(t[own], np.ones(own.sum()), names[own].tolist(), n_boot=N_BOOT, seed=seed)
        between = float(((t[own] > 0) & (t[own] < 1)).mean())
        mean = {"t": float(t[own].mean()), "low": low, "high": high, "pc": float(second[own].mean())}
        found[name] = {"n": int(own.sum()), **mean, "between": between}
    return found


def e2_flips(
    lm: LM, contrast: Contrast, seen: Observed, openers: Openers, layer: int, *, seed: int = 0
) -> tuple[dict[str, Any], list[int], Flips]:
    """Find the smallest strength that flips each decision, by group, and that of random directions.

    Returns:
        median alpha* with intervals and share flipped on the grid, per group, and for each random direction; the
        places of the prompts that were flipped; their flips.
    """
    marks = groups_of(seen)
    chosen = _even([np.flatnonzero(own).tolist() for own in marks.values()], FLIPPED)
    direction = contrast.direction().at(layer)
    (found,) = flips(lm, [seen.prompts[i] for i in chosen], direction.vectors[0], openers, layer=layer)
    record: dict[str, Any] = {"grid": list(GRID), "groups": {}}
    names = np.array(seen.groups)
    for name, own in marks.items():
        here = np.array([bool(own[i]) for i in chosen])
        record["groups"][name] = _medians(found.alpha[here], names[chosen][here].tolist(), seed)
    fewer = _even([[i for i in chosen if own[i]] for own in marks.values()], CONTROLLED)
    randoms = [r.vectors[0] for r in random_like(direction, RANDOM_DIRECTIONS, seed=seed)]
    controls = flips(lm, [seen.prompts[i] for i in fewer], randoms, openers, layer=layer)
    record["random"] = [
        {name: _flipped(c.alpha[[k for k, i in enumerate(fewer) if own[i]]]) for name, own in marks.items()}
        for c in controls
    ]
    return record, chosen, found


def _even(parts: Sequence[Sequence[int]], most: int) -> list[int]:
    each = max(1, most // max(1, sum(bool(p) for p in parts)))
    made: list[int] = []
    for part in parts:
        made += [part[int(i * len(part) / each)] for i in range(each)] if len(part) > each else list(part)
    return sorted(made)


def _flipped(alpha: Array) -> float | None:
    return float(np.isfinite(alpha).mean()) if len(alpha) else None


def _medians(alpha: Array, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """Median alpha*; infinite ones count as above the grid. The interval resamples groups."""
    if not len(alpha):
        return {"n": 0, "median": None, "low": None, "high": None, "flipped": None}
    codes = np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(codes == c) for c in range(codes.max() + 1)]
    rng = np.random.default_rng(seed)
    drawn = [
        np.median(alpha[np.concatenate([members[c] for c in rng.integers(0, len(members), len(members))])])
        for _ in range(N_BOOT)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest").tolist()
    middle, ends = float(np.median(alpha)), (low, high)
    shown = [None if not np.isfinite(x) else float(x) for x in (middle, *ends)]
    return {"n": len(alpha), "median": shown[0], "low": shown[1], "high": shown[2], "flipped": _flipped(alpha)}


def e3_sufficiency(t: Array, seen: Observed, *, seed: int = 0) -> dict[str, Any]:
    """Fit P(refuse | t, harm), and set t against the words of the prompt.

    Returns:
        w and b (the weight of harm beside t) with intervals; among benign prompts the AUROC of t, of a words-only
        model (out of fold, folds by group) and their difference; t* and tau for the stated mixture and for benign
        prompts alone.
    """
    harm, refused = np.array([p.expected == "refuse" for p in seen.prompts]), seen.refused
    weights = group_weights(seen.groups, N_BOOT, seed)
    scale = float(t.std()) or 1.0
    x = np.stack([t / scale, harm.astype(float)], axis=1)
    made: dict[str, Any] = {"w": None, "b": None, "mixtures": {}}
    if refused.any() and not refused.all():
        fits = np.array([_two(x, refused, w) for w in [np.ones(len(t)), *weights[:100]]])
        for i, (name, unit) in enumerate((("w", scale), ("b", 1.0))):
            value = fits[:, i] / unit
            low, high = np.quantile(value[1:], (0.025, 0.975)).tolist()
            made[name] = {"value": float(value[0]), "low": low, "high": high}
    made["words"] = _against_words(t, ~harm, seen, weights)
    for name, own in (("all", np.ones(len(t), dtype=bool)), ("benign", ~harm)):
        fit = calibrate(t[own], refused[own], ~harm[own])
        bounds = intervals(t[own], refused[own], ~harm[own], [g for g, o in zip(seen.groups, own, strict=True) if o])
        finite = np.isfinite(fit.t_star)
        made["mixtures"][name] = {
            "n": int(own.sum()),
            "harmful": int(harm[own].sum()),
            "t_star": fit.t_star if finite else None,
            "t_star_interval": list(bounds.t_star) if bounds.t_star else None,
            "tau": fit.tau if finite else None,
            "tau_interval": list(bounds.tau) if bounds.tau else None,
            "unusable": fit.unusable,
        }
    return made


def _two(x: Array, refused: Any, weights: Array) -> Array:
    own = weights > 0
    if refused[own].all() or not refused[own].any():
        return np.array([np.nan, np.nan])
    fit = LogisticRegression(C=100.0, max_iter=300).fit(x[own], refused[own], sample_weight=weights[own])
    coef: Array = fit.coef_[0]
    return coef


def _against_words(t: Array, benign: Any, seen: Observed, weights: Array) -> dict[str, Any]:
    label = seen.refused[benign]
    empty = {"t": None, "words": None, "difference": None, "low": None, "high": None, "n": int(benign.sum())}
    groups = np.array(seen.groups)[benign]
    if label.all() or not label.any() or len(set(groups)) < 5:
        return empty
    texts = [p.text for p, own in zip(seen.prompts, benign, strict=True) if own]
    score = np.zeros(len(texts))
    for train, test in GroupKFold(5).split(texts, label, groups):
        if label[train].all() or not label[train].any():
            return empty
        words = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=2, binary=True)
        model = make_pipeline(words, LogisticRegression(C=0.3, max_iter=500))
        model.fit([texts[i] for i in train], label[train])
        score[test] = model.decision_function([texts[i] for i in test])
    drawn = weighted_auroc(t[benign], label, weights[:, benign]) - weighted_auroc(score, label, weights[:, benign])
    own, other = stats.auroc(t[benign], label) or 0.0, stats.auroc(score, label) or 0.0
    low, high = np.nanquantile(drawn, (0.025, 0.975)).tolist()
    return {"t": own, "words": other, "difference": own - other, "low": low, "high": high, "n": len(texts)}


def e3_random(contrast: Contrast, states: torch.Tensor, seen: Observed, layer: int, *, seed: int = 0) -> list[float]:
    """Return the AUROC for refusal among benign prompts along random directions (either way round)."""
    benign = np.array([p.expected != "refuse" for p in seen.prompts])
    label = seen.refused[benign]
    if label.all() or not label.any():
        return []
    rows = states[torch.tensor(benign)].double()
    found = []
    for direction in random_like(contrast.direction().at(layer), RANDOM_DIRECTIONS, seed=seed):
        area = stats.auroc((rows @ direction.vectors[0].double()).numpy(), label) or 0.5
        found.append(max(area, 1 - area))
    return found


def e4_languages(
    states: torch.Tensor, seen: Observed, fitted: dict[str, Fitted], *, home: str = "en", seed: int = 0
) -> list[dict[str, Any]]:
    """Compare languages: own direction and t*, its cosine with `home`'s, and the home threshold applied to each.

    Args:
        states: of the prompts at one layer, shape (prompt, d_model).
        seen: the prompts.
        fitted: per language, the fit split's harmful and harmless states.
        home: the language whose direction and threshold are applied to the others.
        seed: of the resampling.
    """
    base = fitted.get(home)
    spoken = np.array([p.language for p in seen.prompts])
    harm = np.array([p.expected == "refuse" for p in seen.prompts])
    rows = []
    ours = _line(base.axis, states, seen, spoken == home, harm, seed) if base else None
    for language in sorted(set(spoken)):
        own = spoken == language
        row: dict[str, Any] = {"language": language, "n": int(own.sum())}
        row["refused"] = {
            "harmful": _rate(seen.refused[own & harm]),
            "benign": _rate(seen.refused[own & ~harm]),
        }
        mine = fitted.get(language)
        row["cosine"] = _cosine(base.axis, mine.axis) if base and mine else None
        row["own"] = _line(mine.axis, states, seen, own, harm, seed) if mine else None
        row["home_v"] = _line(base.axis, states, seen, own, harm, seed) if base else None
        row["home_v_home_t_star"] = None
        if base and ours and ours["t_star"] is not None:
            called = base.axis.coordinate(states[torch.tensor(own)]) > ours["t_star"]
            right = called == seen.refused[own]
            row["home_v_home_t_star"] = {"accuracy": float(right.mean()), "called_refused": float(called.mean())}
        rows.append(row)
    return rows


def _line(axis: Axis, states: torch.Tensor, seen: Observed, own: Any, harm: Any, seed: int) -> dict[str, Any] | None:
    if not own.any():
        return None
    t = axis.coordinate(states[torch.tensor(own)])
    groups = [g for g, o in zip(seen.groups, own, strict=True) if o]
    fit = calibrate(t, seen.refused[own], ~harm[own])
    bounds = intervals(t, seen.refused[own], ~harm[own], groups, seed=seed, n_boot=N_BOOT)
    finite = np.isfinite(fit.t_star)
    return {
        "t_star": fit.t_star if finite else None,
        "t_star_interval": list(bounds.t_star) if bounds.t_star else None,
        "tau": fit.tau if finite else None,
        "auroc": fit.auroc,
        "accuracy": float(((t > fit.t_star) == seen.refused[own]).mean()) if finite else None,
        "unusable": fit.unusable,
    }


def _rate(flags: Any) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _cosine(a: Axis, b: Axis) -> float:
    return float(torch.nn.functional.cosine_similarity(a.v, b.v, dim=0))


def by_language(contrast: Contrast, examples: Sequence[Example], layer: int) -> dict[str, Fitted]:
    """Split the fit split's states at one layer by language; languages with too few prompts are left out.

    Args:
        contrast: made from `examples`.
        examples: in the order in which the contrast was given them.
        layer: one of the contrast's.
    """
    index = contrast.layers.index(layer)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name in ("refused_harmful", "answered_plain"):
        kind, label = GROUPS[name]
        spoken = [e.prompt.language for e in examples if (e.prompt.kind, e.label, e.split) == (kind, label, "fit")]
        states = contrast.group(name)[:, index]
        for language in set(spoken):
            parts.setdefault(language, {})[name] = states[torch.tensor([s == language for s in spoken])]
    return {
        language: Fitted(harmful=own["refused_harmful"], harmless=own["answered_plain"])
        for language, own in parts.items()
        if len(own) == 2 and min(map(len, own.values())) >= LEAST
    }


def experiments(
    lm: LM,
    contrast: Contrast,
    languages: dict[str, Fitted],
    seen: Observed,
    openers: Openers,
    states: torch.Tensor,
    layer: int,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Run all four at one layer.

    Args:
        lm: the model.
        contrast: states of the fit split.
        languages: the fit split's states at this layer, per language.
        seen: prompts of another split, with what the model did.
        openers: the refusal openers.
        states: of `seen` at the layer, shape (prompt, d_model).
        layer: the layer.
        seed: of resampling and random directions.

    Returns:
        `e1` to `e4`, `distances` (each against alpha*), and `calibration` with intervals and reliability curve.
    """
    index = contrast.layers.index(layer)
    fitted = Fitted(
        harmful=contrast.group("refused_harmful")[:, index], harmless=contrast.group("answered_plain")[:, index]
    )
    axis = fitted.axis
    t, benign = axis.coordinate(states), ~seen.kind("harmful")
    fit, bounds = calibrate(t, seen.refused, benign), intervals(t, seen.refused, benign, seen.groups, seed=seed)
    e2, chosen, found = e2_flips(lm, contrast, seen, openers, layer, seed=seed)
    e3 = e3_sufficiency(t, seen, seed=seed)
    e3["random_auroc"] = e3_random(contrast, states, seen, layer, seed=seed)
    return {
        "e1": e1_map(t, states, axis, seen, seed=seed),
        "e2": e2,
        "e3": e3,
        "e4": e4_languages(states, seen, languages, seed=seed),
        "distances": compare(fitted, states[chosen], found.start, seen.refused[chosen], benign[chosen], found.alpha),
        "calibration": {
            "t_star": list(bounds.t_star) if bounds.t_star else None,
            "tau": list(bounds.tau) if bounds.tau else None,
            "auroc": list(bounds.auroc) if bounds.auroc else None,
            "usable": bounds.usable,
            "reliability": reliability(t, seen.refused, fit),
        },
    }
