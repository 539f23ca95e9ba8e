"""E4: is the boundary of every language the same? Directions, thresholds and their shifts, per language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.model_selection import GroupKFold

from demur import stats
from demur.boundary import Array, Axis, calibrate, group_weights, logistic_fits
from demur.distances import Fitted
from demur.explain.controls import N_BOOT, ends, random_axes, share
from demur.explain.observed import Observed
from demur.methods._contrast import GROUPS
from demur.types import Example

if TYPE_CHECKING:
    from demur.methods._contrast import Contrast

LEAST = 20
"""Prompts below which a language has no direction or threshold of its own."""
OVERLAP = 0.98
"""AUROC of t for harm above which the classes separate, so that the best threshold for harm is not identified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """One language's fit split at one layer, with the groups of its prompts."""

    fitted: Fitted
    harmful: Sequence[str]
    harmless: Sequence[str]


def by_language(contrast: Contrast, examples: Sequence[Example], layer: int) -> dict[str, Spoken]:
    """Split the fit split's states at one layer by language; languages with too few prompts are left out.

    Args:
        contrast: made from `examples`.
        examples: in the order in which the contrast was given them.
        layer: one of the contrast's.
    """
    index = contrast.layers.index(layer)
    parts: dict[str, dict[str, tuple[torch.Tensor, list[str]]]] = {}
    for name in ("refused_harmful", "answered_plain"):
        kind, label = GROUPS[name]
        own = [e.prompt for e in examples if (e.prompt.kind, e.label, e.split) == (kind, label, "fit")]
        states = contrast.group(name)[:, index]
        for language in {p.language for p in own}:
            flags = torch.tensor([p.language == language for p in own])
            groups = [p.cluster for p in own if p.language == language]
            parts.setdefault(language, {})[name] = (states[flags], groups)
    return {
        language: Spoken(
            fitted=Fitted(harmful=own["refused_harmful"][0], harmless=own["answered_plain"][0]),
            harmful=own["refused_harmful"][1],
            harmless=own["answered_plain"][1],
        )
        for language, own in sorted(parts.items())
        if len(own) == 2 and min(len(groups) for _, groups in own.values()) >= LEAST
    }


def e4_languages(
    states: torch.Tensor, seen: Observed, spoken: dict[str, Spoken], *, home: str = "en", seed: int = 0
) -> list[dict[str, Any]]:
    """Compare languages: own direction and t*, its cosine with `home`'s, and the home threshold applied to each.

    Args:
        states: of the prompts at one layer, shape (prompt, d_model).
        seen: the prompts.
        spoken: per language, the fit split.
        home: the language whose direction and threshold are applied to the others.
        seed: of resampling and random directions.

    Returns:
        one row per language: `refused` rates; `cosine` of its direction and home's with interval, and that of random
        directions; `own` and `home_v`, the line on either axis; `shift` of t* and tau on the home axis from the home
        language's, with intervals, and that along random directions; `told`, how often refused and answered prompts
        are told apart (home v with home t*, home v with own t*, own v with own t*, random directions with own t*).
        Own thresholds come from other groups than those they are applied to.
    """
    base = spoken.get(home)
    home_rows = seen.languages == home
    first = (states[torch.tensor(home_rows)], seen.where(home_rows))
    randoms = random_axes(base.fitted.axis, seed=seed) if base else []
    rows = []
    for language in sorted(set(seen.languages.tolist())):
        own = seen.languages == language
        here = (states[torch.tensor(own)], seen.where(own))
        row = _alone(language, here, spoken.get(language), base, seed)
        if base is not None:
            axis = base.fitted.axis
            row |= {"shift": _shift(axis, first, here, seed), "shift_random": []}
            if language != home:
                row["shift_random"] = [_shift(r, first, here, None)["t_star"]["value"] for r in randoms]
            row["cosine_random"] = [_cosine(r.v, spoken[language].fitted.axis.v) for r in randoms] if row["own"] else []
            row["told"] = _told(language, here, first, spoken, base, randoms)
        rows.append(row)
    return rows


Part = tuple[torch.Tensor, Observed]


def _alone(language: str, here: Part, mine: Spoken | None, base: Spoken | None, seed: int) -> dict[str, Any]:
    states, seen = here
    row: dict[str, Any] = {"language": language, "n": len(seen.prompts), "groups": len(set(seen.groups))}
    row["refused"] = {"harmful": _rate(seen.refused[seen.harmful]), "benign": _rate(seen.refused[seen.benign])}
    row["cosine"] = _aligned(base, mine, seed) if base and mine else None
    row["own"] = _line(mine.fitted.axis, states, seen, seed) if mine else None
    row["home_v"] = _line(base.fitted.axis, states, seen, seed) if base else None
    return row | {"shift": None, "shift_random": [], "cosine_random": [], "told": None}


def _line(axis: Axis, states: torch.Tensor, seen: Observed, seed: int) -> dict[str, Any]:
    t = axis.coordinate(states)
    fit = calibrate(t, seen.refused, seen.benign)
    drawn = _fits(t, seen, seed)
    known = bool(np.isfinite(fit.t_star))
    return {
        "t_star": {"value": fit.t_star if known else None, **ends(drawn[0])},
        "tau": {"value": fit.tau if known else None, **ends(drawn[1])},
        "auroc": fit.auroc,
        "m": _gap(t, seen, seed),
        "unusable": fit.unusable,
    }


def _fits(t: Array, seen: Observed, seed: int) -> tuple[Array, Array]:
    """Return resampled t* and tau."""
    w, t_star = logistic_fits(t, seen.refused, group_weights(seen.groups, N_BOOT, seed))
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = np.isfinite(t_star) & (w > 0)
        return np.where(rising, t_star, np.nan), np.where(rising, np.log(9) / w, np.nan)


def _gap(t: Array, seen: Observed, seed: int) -> dict[str, Any] | None:
    """M = t_H - t*, the best threshold for harm less the one acted on; None where harm is not identified along t."""
    harm = seen.harmful
    separate = stats.auroc(t, harm)
    if separate is None or separate > OVERLAP or seen.refused.all() or not seen.refused.any():
        return None
    weights = np.concatenate([np.ones((1, len(t))), group_weights(seen.groups, N_BOOT, seed)])
    (w_h, t_h), (w_r, t_r) = logistic_fits(t, harm, weights), logistic_fits(t, seen.refused, weights)
    gap = np.where((w_h > 0) & (w_r > 0), t_h - t_r, np.nan)
    return {"value": float(gap[0]), **ends(gap[1:])} if np.isfinite(gap[0]) else None


def _shift(axis: Axis, first: Part, here: Part, seed: int | None) -> dict[str, Any]:
    """Shift of t* and tau from one language to another on one axis; groups resampled once for both languages."""
    both = Observed(
        prompts=[*first[1].prompts, *here[1].prompts], labels=[*first[1].labels, *here[1].labels]
    )  # translations share a group
    t, n = axis.coordinate(torch.cat([first[0], here[0]])), len(first[1].prompts)
    refused = both.refused
    drawn = group_weights(both.groups, N_BOOT, seed) if seed is not None else np.zeros((0, len(t)))
    weights = np.concatenate([np.ones((1, len(t))), drawn])
    if seed is None and (stats.auroc(t[:n], refused[:n]) or 0.5) < 0.5:
        t = -t  # a random direction has no sign of its own
    (w_a, t_a), (w_b, t_b) = (logistic_fits(t[p], refused[p], weights[:, p]) for p in (slice(0, n), slice(n, None)))
    rising = (w_a > 0) & (w_b > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {"t_star": t_b - t_a, "tau": np.log(9) / w_b - np.log(9) / w_a}
    made = {}
    for name, values in found.items():
        kept = np.where(rising & np.isfinite(t_a) & np.isfinite(t_b), values, np.nan)
        made[name] = {"value": float(kept[0]) if np.isfinite(kept[0]) else None, **ends(kept[1:])}
    return made


def _aligned(a: Spoken, b: Spoken, seed: int) -> dict[str, Any]:
    """Cosine of two languages' directions; groups resampled once for both."""
    drawn = {}
    order = [*a.harmful, *a.harmless, *b.harmful, *b.harmless]
    weights = group_weights(order, N_BOOT, seed)
    start = 0
    for name, part in (("a", a), ("b", b)):
        means = []
        for states, groups in ((part.fitted.harmful, part.harmful), (part.fitted.harmless, part.harmless)):
            own = torch.from_numpy(weights[:, start : start + len(groups)])
            start += len(groups)
            means.append(own @ states.double() / own.sum(1, keepdim=True))
        drawn[name] = means[0] - means[1]
    cosines = torch.nn.functional.cosine_similarity(drawn["a"], drawn["b"], dim=-1).numpy()
    return {"value": _cosine(a.fitted.axis.v, b.fitted.axis.v), **ends(cosines)}


def _told(
    language: str, here: Part, first: Part, spoken: dict[str, Spoken], base: Spoken, randoms: Sequence[Axis]
) -> dict[str, Any]:
    states, seen = here
    axis = base.fitted.axis
    line = calibrate(axis.coordinate(first[0]), first[1].refused, first[1].benign)
    if not np.isfinite(line.t_star) or line.w <= 0:
        home = None
    else:
        home = (axis.coordinate(states) > line.t_star) == seen.refused
    own = spoken.get(language)
    right = {
        "home_v_home_t": home,
        "home_v_own_t": _crossed(axis, states, seen),
        "own_v_own_t": _crossed(own.fitted.axis, states, seen) if own else None,
    }
    made: dict[str, Any] = {name: None if x is None else share(x, seen.groups) for name, x in right.items()}
    random = [_crossed(r, states, seen) for r in randoms]
    made["random"] = [float(x.mean()) for x in random if x is not None]
    rate = float(seen.refused.mean())
    made["base"] = max(rate, 1 - rate)
    return made


def _crossed(axis: Axis, states: torch.Tensor, seen: Observed) -> Any:
    """Which prompts are told right by a threshold fitted on other groups; None where nothing can be fitted."""
    t, refused = axis.coordinate(states), seen.refused
    right = np.zeros(len(t), dtype=bool)
    folds = min(5, len(set(seen.groups)))
    if folds < 2 or len(t) < LEAST or refused.all() or not refused.any():
        return None
    for train, test in GroupKFold(folds).split(t, refused, seen.groups):
        weights = np.zeros((1, len(t)))
        weights[0, train] = 1
        (w,), (t_star,) = logistic_fits(t, refused, weights)
        if not np.isfinite(t_star):
            return None
        right[test] = ((t[test] > t_star) == (w > 0)) == refused[test]
    return right


def _rate(flags: Any) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))
