"""Where the refusal boundary lies: AUC by layer, the coordinate's densities, flip curves, and their controls.

Directions come from the fit split; everything is measured on other prompts. Every interval resamples groups, and
every curve of the fitted direction stands beside the same curve of random directions of equal norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from demur import stats
from demur.boundary import Axis, Calibration, calibrate
from demur.directions import random_like
from demur.interventions.steer import Steer
from demur.lm import attach
from demur.methods._contrast import POINT, Contrast
from demur.readout import REFUSALS, Openers, p_refuse
from demur.screen import Screen
from demur.states import states as captured
from demur.types import Prompt

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
ALPHAS = tuple(round(-1.5 + 0.25 * i, 2) for i in range(13))
RANDOM_DIRECTIONS = 20
RESAMPLES = 200
SWEPT_PROMPTS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The prompts that are explained, and what the model did with each (a refusal label, or None)."""

    prompts: Sequence[Prompt]
    labels: Sequence[str | None]

    def kind(self, *kinds: str) -> Flags:
        """Return which prompts are of these kinds."""
        return np.array([p.kind in kinds for p in self.prompts])

    @property
    def refused(self) -> Flags:
        """Which prompts were refused, in full or in part."""
        return np.array([label in REFUSALS for label in self.labels])

    @property
    def groups(self) -> list[str]:
        """The group of each prompt."""
        return [p.cluster for p in self.prompts]


def explain(
    lm: LM,
    contrast: Contrast,
    seen: Observed,
    openers: Openers,
    *,
    layer: int | None = None,
    after: tuple[Intervention, Sequence[str | None]] | None = None,
    seed: int = 0,
    tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Describe the boundary of one model.

    Args:
        lm: the model.
        contrast: states of the fit split at every layer.
        seen: prompts of another split with what the model did.
        openers: the refusal openers.
        layer: the layer of the densities and the sweep; None takes the one that best tells harmful from plain.
        after: an intervention, shown as "after" on the same axis, and what the model did under it.
        seed: of the random directions and of the resampling.
        tell: progress.

    Returns:
        the explanation as JSON values, and one coordinate row per prompt.
    """
    states = captured(lm, list(seen.prompts), layers=contrast.layers, points=(POINT,), positions="last_prompt")
    tell("explain", 1, 4)
    auc = _auc_by_layer(contrast, states, seen, seed)
    chosen = layer if layer is not None else _best_layer(contrast.layers, auc["harmful_vs_plain"])
    index = contrast.layers.index(chosen)
    axis = Axis.between(contrast.group("refused_harmful")[:, index], contrast.group("answered_plain")[:, index])
    t = axis.coordinate(states[:, index])
    t_after, later = None, None
    if after is not None:
        with attach(lm, after[0]):
            moved = captured(lm, list(seen.prompts), layers=(chosen,), points=(POINT,), positions="last_prompt")
        t_after, later = axis.coordinate(moved[:, 0]), Observed(prompts=seen.prompts, labels=after[1])
    tell("explain", 2, 4)
    calibration = calibrate(t, seen.refused, ~seen.kind("harmful"))
    densities = {"before": _densities(t, seen)}
    if t_after is not None and later is not None:
        densities["after"] = _densities(t_after, later)
    sweep, control = _alpha_sweep(lm, contrast, seen, openers, chosen, seed)
    tell("explain", 4, 4)
    record = {
        "model": lm.ref.id,
        "layers": list(contrast.layers),
        "point": POINT,
        "layer": chosen,
        "auc": auc,
        "random_control": {"auc": _random_auc(contrast, states[:, index], seen, chosen, seed), "sweep": control},
        "densities": densities,
        "boundary": _boundary(calibration),
        "alpha_sweep": sweep,
        "openers": {"n": len(openers.ids), "agreement": openers.agreement, "answers": openers.n},
        "notes": _notes(calibration, openers),
    }
    return record, _coordinates(seen, t, t_after, later)


def _auc_by_layer(
    contrast: Contrast, states: torch.Tensor, seen: Observed, seed: int
) -> dict[str, list[dict[str, float | None]]]:
    refused, harmful, plain = seen.refused, seen.kind("harmful"), seen.kind("plain")
    borderline = seen.kind("borderline")
    pairs = {
        "harmful_vs_plain": (harmful, plain),
        "harmful_vs_refused_borderline": (harmful, borderline & refused),
        "refused_vs_answered_borderline": (borderline & refused, borderline & ~refused),
    }
    found: dict[str, list[dict[str, float | None]]] = {name: [] for name in pairs}
    for i in range(len(contrast.layers)):
        axis = Axis.between(contrast.group("refused_harmful")[:, i], contrast.group("answered_plain")[:, i])
        t = axis.coordinate(states[:, i])
        for name, (positive, negative) in pairs.items():
            found[name].append(_auc(t, positive, negative, seen.groups, seed))
    return found


def _auc(t: Array, positive: Flags, negative: Flags, groups: list[str], seed: int) -> dict[str, float | None]:
    """AUROC of `positive` against `negative` with a 95 % interval that resamples groups."""
    if not positive.any() or not negative.any():
        return {"value": None, "low": None, "high": None}
    used = positive | negative
    score, label = t[used], positive[used]
    codes = np.unique(np.array(groups)[used], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(codes == c) for c in range(codes.max() + 1)]
    drawn = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[c] for c in rng.integers(0, len(members), len(members))])
        area = stats.auroc(score[rows], label[rows])
        if area is not None:
            drawn.append(area)
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    return {"value": stats.auroc(score, label), "low": low, "high": high}


def _best_layer(layers: Sequence[int], auc: list[dict[str, float | None]]) -> int:
    """The layer with the highest AUC, the last fifth of the layers left out where there are five or more."""
    usable = layers[: max(1, len(layers) - len(layers) // 5)]
    return max(usable, key=lambda layer: auc[layers.index(layer)]["value"] or 0.0)


def _random_auc(contrast: Contrast, states: torch.Tensor, seen: Observed, layer: int, seed: int) -> list[float]:
    """AUC of harmful against plain along random directions: what a direction that means nothing reaches."""
    harmful, plain = seen.kind("harmful"), seen.kind("plain")
    if not harmful.any() or not plain.any():
        return []
    used = torch.tensor(harmful | plain)
    label = harmful[harmful | plain]
    found = []
    for direction in random_like(contrast.direction().at(layer), RANDOM_DIRECTIONS, seed=seed):
        score = (states[used].double() @ direction.vectors[0].double()).numpy()
        found.append(stats.auroc(score, label) or 0.0)
    return found


def _densities(t: Array, seen: Observed) -> dict[str, dict[str, list[float]]]:
    """Gaussian kernel densities (Scott's bandwidth) of the coordinate in four groups of prompts."""
    borderline, refused = seen.kind("borderline"), seen.refused
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
                low, high = stats.group_bootstrap(flags[own], np.ones(own.sum()), names, n_boot=500, seed=seed)
                point[kind] = {"value": float(flags[own].mean()), "low": low, "high": high, "n": int(own.sum())}
        sweep.append(point)
    control = []
    for random in random_like(direction, RANDOM_DIRECTIONS, seed=seed):
        flags = refused(Steer(direction=random, strength=-1.0))
        control.append({kind: float(flags[own].mean()) for kind, own in kinds.items() if own.any()})
    return sweep, control


def spread(rows: list[int], most: int) -> list[int]:
    """Return at most `most` of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, most)]


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


def _notes(fit: Calibration, openers: Openers) -> list[str]:
    notes = [
        "The coordinate describes; it does not by itself say why a prompt was refused.",
        f"Refusal in the sweep is read from the first answer token; the openers agree with the judge on "
        f"{100 * openers.agreement:.1f} % of {openers.n} answers.",
    ]
    if fit.unusable:
        notes.append(f"The axis is not usable as a boundary here: {fit.unusable}.")
    return notes


def _coordinates(seen: Observed, t: Array, t_after: Array | None, later: Observed | None) -> list[dict[str, Any]]:
    rows = []
    for i, prompt in enumerate(seen.prompts):
        rows.append(
            {
                "prompt_id": prompt.id,
                "kind": prompt.kind,
                "group": prompt.cluster,
                "t_before": round(float(t[i]), 5),
                "t_after": None if t_after is None else round(float(t_after[i]), 5),
                "refused_before": bool(seen.refused[i]),
                "refused_after": None if later is None else bool(later.refused[i]),
            }
        )
    return rows
