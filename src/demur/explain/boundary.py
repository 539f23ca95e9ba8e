"""Where the refusal boundary lies: AUC by layer, the coordinate's densities, flip curves, and their controls.

Directions come from the fit split; everything is measured on other prompts. Every interval resamples groups, and
what the fitted direction does stands beside what random directions of equal norm do. The experiments E1 to E4 are part
of the same record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from demur import stats
from demur.boundary import Calibration, calibrate
from demur.directions import random_like
from demur.distances import Fitted
from demur.explain.comparison import Side, moved
from demur.explain.controls import RANDOM_DIRECTIONS, area, random_axes
from demur.explain.experiments import Settings, experiments
from demur.explain.languages import by_language
from demur.explain.observed import Observed, spread
from demur.interventions.steer import Steer
from demur.lm import attach
from demur.methods._contrast import POINT, Contrast
from demur.readout import Openers, p_refuse
from demur.screen import Screen
from demur.states import states as captured
from demur.types import Example

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

Array = npt.NDArray[np.float64]
ALPHAS = tuple(round(-1.5 + 0.25 * i, 2) for i in range(13))
SWEPT_PROMPTS = 400


def explain(
    contrast: Contrast,
    examples: Sequence[Example],
    seen: Observed,
    openers: Openers,
    settings: Settings | None = None,
    *,
    after: tuple[Intervention, Sequence[str | None]] | None = None,
    tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> tuple[dict[str, Any], list[dict[str, Any]], Side]:
    """Describe the boundary of one model, and run the four experiments.

    Args:
        contrast: states of the fit split at every layer, and the model.
        examples: what the contrast was made from, in the same order.
        seen: prompts of another split with what the model did.
        openers: the refusal openers.
        settings: layer, seed, and how many prompts are flipped.
        after: an intervention, shown as "after" on the same axis, and what the model did under it.
        tell: progress.

    Returns:
        the explanation as JSON values, one coordinate row per prompt, and what a comparison with others needs.
    """
    tell("explain", 0, 4)
    lm, how = contrast.lm, settings or Settings()
    states = captured(lm, list(seen.prompts), layers=contrast.layers, points=(POINT,), positions="last_prompt")
    auc = _auc_by_layer(contrast, states, seen, how.seed)
    tell("explain", 1, 4)
    chosen = how.layer if how.layer is not None else _best_layer(contrast.layers, auc["harmful_vs_plain"])
    index = contrast.layers.index(chosen)
    fitted = _fitted(contrast, index)
    own = states[:, index]
    t = fitted.axis.coordinate(own)
    side = Side.of(lm.ref.id, chosen, fitted.axis, own, seen)
    calibration = calibrate(t[seen.read], side.seen.refused, side.seen.benign)
    sweep, control = _alpha_sweep(lm, contrast, seen, openers, chosen, how.seed)
    tell("explain", 2, 4)
    record: dict[str, Any] = {
        "model": lm.ref.id,
        "layers": list(contrast.layers),
        "point": POINT,
        "layer": chosen,
        "auc": auc,
        "random_control": {"auc": _random_auc(fitted, own, seen, how.seed), "sweep": control},
        "densities": {"before": _densities(t, seen)},
        "boundary": _boundary(calibration),
        "alpha_sweep": sweep,
        "openers": {"n": len(openers.ids), "agreement": openers.agreement, "answers": openers.n},
        "n": len(seen.prompts),
        "n_unread": int((~seen.read).sum()),
        "notes": _notes(calibration, openers, seen),
    }
    languages = by_language(contrast, examples, chosen)
    record |= experiments(lm, fitted, languages, seen, openers, own, replace(how, layer=chosen))
    tell("explain", 3, 4)
    t_after, later = None, None
    if after is not None:
        with attach(lm, after[0]):
            changed = captured(lm, list(seen.prompts), layers=(chosen,), points=(POINT,), positions="last_prompt")[:, 0]
        t_after, later = fitted.axis.coordinate(changed), Observed(prompts=seen.prompts, labels=after[1])
        record["densities"]["after"] = _densities(t_after, later)
        record["moved"] = [moved(side, Side.of("after", chosen, fitted.axis, changed, later))]
    tell("explain", 4, 4)
    return record, _coordinates(seen, t, t_after, later), side


def _fitted(contrast: Contrast, index: int) -> Fitted:
    return Fitted(
        harmful=contrast.group("refused_harmful")[:, index], harmless=contrast.group("answered_plain")[:, index]
    )


def _auc_by_layer(
    contrast: Contrast, states: torch.Tensor, seen: Observed, seed: int
) -> dict[str, list[dict[str, float | None]]]:
    refused, harmful, plain = seen.refused, seen.kind("harmful"), seen.kind("plain")
    borderline = seen.kind("borderline") & seen.read
    pairs = {
        "harmful_vs_plain": (harmful, plain),
        "harmful_vs_refused_borderline": (harmful, borderline & refused),
        "refused_vs_answered_borderline": (borderline & refused, borderline & ~refused),
    }
    found: dict[str, list[dict[str, float | None]]] = {name: [] for name in pairs}
    for i in range(len(contrast.layers)):
        t = _fitted(contrast, i).axis.coordinate(states[:, i])
        for name, (positive, negative) in pairs.items():
            found[name].append(area(t, positive, negative, seen.groups, seed))
    return found


def _best_layer(layers: Sequence[int], auc: list[dict[str, float | None]]) -> int:
    """The layer with the highest AUC, the last fifth of the layers left out where there are five or more."""
    usable = layers[: max(1, len(layers) - len(layers) // 5)]
    return max(usable, key=lambda layer: auc[layers.index(layer)]["value"] or 0.0)


def _random_auc(fitted: Fitted, states: torch.Tensor, seen: Observed, seed: int) -> list[float]:
    """AUC of harmful against plain along random directions: what a direction that means nothing reaches."""
    harmful, plain = seen.kind("harmful"), seen.kind("plain")
    if not harmful.any() or not plain.any():
        return []
    used = harmful | plain
    scores = [axis.coordinate(states)[used] for axis in random_axes(fitted.axis, seed=seed)]
    return [stats.auroc(score, harmful[used]) or 0.0 for score in scores]


def _densities(t: Array, seen: Observed) -> dict[str, dict[str, list[float]]]:
    """Gaussian kernel densities (Scott's bandwidth) of the coordinate in four groups of prompts."""
    borderline, refused = seen.kind("borderline") & seen.read, seen.refused
    groups = {
        "plain": seen.kind("plain"),
        "borderline_answered": borderline & ~refused,
        "borderline_refused": borderline & refused,
        "harmful": seen.kind("harmful"),
    }
    low, high = float(np.quantile(t, 0.002)), float(np.quantile(t, 0.998))
    x = np.linspace(low - 0.15 * (high - low), high + 0.15 * (high - low), 160)
    made = {}
    for name, flags in groups.items():
        own = t[flags]
        if len(own) < 5:
            continue
        width = max(float(own.std()) * len(own) ** -0.2, 1e-3)
        y = np.exp(-0.5 * ((x[:, None] - own) / width) ** 2).mean(1) / (width * np.sqrt(2 * np.pi))
        made[name] = {"x": np.round(x, 4).tolist(), "y": np.round(y, 5).tolist()}
    return made


def _alpha_sweep(
    lm: LM, contrast: Contrast, seen: Observed, openers: Openers, layer: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Refusal by first token when the direction is added at strength alpha; then the same of random directions."""
    rows = spread(list(range(len(seen.prompts))), SWEPT_PROMPTS)
    prompts = [seen.prompts[i] for i in rows]
    screen = Screen(lm, prompts)
    direction = contrast.direction().at(layer)
    kinds = {k: np.array([p.kind == k for p in prompts]) for k in ("plain", "borderline", "harmful")}
    groups = [p.cluster for p in prompts]

    def refused(intervention: Intervention) -> Array:
        flags: Array = (p_refuse(screen.logits(intervention), openers) > 0.5).double().numpy()
        return flags

    sweep = []
    for alpha in ALPHAS:
        flags = refused(Steer(direction=direction, strength=alpha))
        point: dict[str, Any] = {"alpha": alpha}
        for kind, own in kinds.items():
            if own.any():
                names = [g for g, mine in zip(groups, own, strict=True) if mine]
                low, high = stats.group_bootstrap(flags[own], np.ones(own.sum()), names, n_boot=500)
                point[kind] = {"value": float(flags[own].mean()), "low": low, "high": high, "n": int(own.sum())}
        sweep.append(point)
    control = []
    for random in random_like(direction, RANDOM_DIRECTIONS, seed=seed):
        flags = refused(Steer(direction=random, strength=-1.0))
        control.append({kind: float(flags[own].mean()) for kind, own in kinds.items() if own.any()})
    return sweep, control


def _boundary(fit: Calibration) -> dict[str, float | int | str | None]:
    finite = np.isfinite(fit.t_star)
    return {
        "t_star": fit.t_star if finite else None,
        "tau": fit.tau if finite else None,
        "w": fit.w,
        "auroc": fit.auroc,
        "n": fit.n,
        "unusable": fit.unusable,
    }


def _notes(fit: Calibration, openers: Openers, seen: Observed) -> list[str]:
    notes = [
        "The coordinate describes; it does not by itself say why a prompt was refused.",
        f"Refusal in the sweep is read from the first answer token; the openers agree with the judge on "
        f"{100 * openers.agreement:.1f} % of {openers.n} answers.",
    ]
    if left := int((~seen.read).sum()):
        notes.append(f"{left} of {len(seen.prompts)} prompts were neither refused nor answered and are left out.")
    if fit.unusable:
        notes.append(f"The axis is not usable as a boundary here: {fit.unusable}.")
    return notes


def _coordinates(seen: Observed, t: Array, t_after: Array | None, later: Observed | None) -> list[dict[str, Any]]:
    refused, after = seen.refused, None if later is None else later.refused
    rows = []
    for i, prompt in enumerate(seen.prompts):
        rows.append(
            {
                "prompt_id": prompt.id,
                "kind": prompt.kind,
                "group": prompt.cluster,
                "t_before": round(float(t[i]), 5),
                "t_after": None if t_after is None else round(float(t_after[i]), 5),
                "refused_before": bool(refused[i]),
                "refused_after": None if after is None else bool(after[i]),
            }
        )
    return rows
