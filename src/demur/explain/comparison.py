"""Several models, or one before and after: did the line move or sharpen, and does one model's axis serve another?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from demur.boundary import Array, Axis, calibrate, group_weights, logistic_fits, weighted_auroc
from demur.explain.controls import N_BOOT, either_way, ends, random_axes, share
from demur.explain.observed import Observed

LEAST = 20
"""Prompts below which nothing is said of a language."""
NEAREST = 100
"""Benign prompts nearest a line, of which the refused ones are counted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One model on one set of prompts: its own axis, the states at one layer, what it did; unread prompts left out."""

    label: str
    layer: int
    axis: Axis
    states: torch.Tensor
    seen: Observed

    @classmethod
    def of(cls, label: str, layer: int, axis: Axis, states: torch.Tensor, seen: Observed) -> Side:
        """Return a side without the prompts that were neither refused nor answered.

        Args:
            label: of the model.
            layer: where the states were read.
            axis: the model's own, at that layer.
            states: shape (prompt, d_model).
            seen: the prompts, in the same order.
        """
        return cls(
            label=label, layer=layer, axis=axis, states=states[torch.tensor(seen.read)], seen=seen.where(seen.read)
        )

    def on(self, axis: Axis) -> Array:
        """Return the coordinates of its prompts on an axis."""
        return axis.coordinate(self.states)


def moved(before: Side, after: Side) -> dict[str, Any]:
    """Say how t*, tau, AUROC and refusal differ between two sides, each on its own axis, on the same prompts.

    Prompts are paired by id; each resample of groups serves both sides, so differences are paired.

    Returns:
        `before` and `after` (labels), `layers`, and per scope (all prompts, each language) n, groups, each measure
        before and after with interval, the differences with intervals, and what they say in words.
    """
    places = {p.id: i for i, p in enumerate(after.seen.prompts)}
    rows = [(i, places[p.id]) for i, p in enumerate(before.seen.prompts) if p.id in places]
    a, b = _rows(before, [i for i, _ in rows]), _rows(after, [j for _, j in rows])
    scopes = ["all", *sorted({p.language for p in a.seen.prompts})]
    made = []
    for scope in scopes:
        own = np.array([scope in ("all", p.language) for p in a.seen.prompts], dtype=bool)
        if own.sum() >= LEAST and not (len(scopes) == 2 and scope != "all"):
            made.append({"scope": scope, **_scope(a, b, own)})
    return {"before": before.label, "after": after.label, "layers": [before.layer, after.layer], "scopes": made}


def _rows(side: Side, rows: Sequence[int]) -> Side:
    return Side(
        label=side.label,
        layer=side.layer,
        axis=side.axis,
        states=side.states[torch.tensor(rows, dtype=torch.long)],
        seen=Observed(prompts=[side.seen.prompts[i] for i in rows], labels=[side.seen.labels[i] for i in rows]),
    )


def _scope(a: Side, b: Side, own: Any) -> dict[str, Any]:
    groups = [g for g, o in zip(a.seen.groups, own, strict=True) if o]
    weights = np.concatenate([np.ones((1, len(groups))), group_weights(groups, N_BOOT)])
    was, now = (_measures(side.on(side.axis)[own], side.seen.where(own), weights) for side in (a, b))
    shown = {
        name: {
            "before": _point(was[name]),
            "after": _point(now[name]),
            "difference": _point(now[name] - was[name]),
        }
        for name in was
    }
    said = [_said(shown["t_star"], "moved up", "moved down", "no move shown")]
    said.append(_said(shown["tau"], "blurred", "sharpened", "no change of width shown"))
    return {"n": len(groups), "groups": len(set(groups)), "measures": shown, "said": said}


def _measures(t: Array, seen: Observed, weights: Array) -> dict[str, Array]:
    """Return each measure under each row of weights, the first being the plain one."""
    w, t_star = logistic_fits(t, seen.refused, weights)
    rising = np.isfinite(t_star) & (w > 0)
    found = {"t_star": np.where(rising, t_star, np.nan)}
    with np.errstate(divide="ignore", invalid="ignore"):
        found["tau"] = np.where(rising, np.log(9) / w, np.nan)
        found["auroc"] = weighted_auroc(t[seen.benign], seen.refused[seen.benign], weights[:, seen.benign])
        for name, own in (("refused_benign", seen.benign), ("refused_harmful", seen.harmful)):
            found[name] = weights[:, own] @ seen.refused[own] / weights[:, own].sum(1)
    return found


def _point(values: Array) -> dict[str, float | None]:
    return {"value": float(values[0]) if np.isfinite(values[0]) else None, **ends(values[1:])}


def _said(measure: dict[str, Any], up: str, down: str, neither: str) -> str:
    difference = measure["difference"]
    if difference["value"] is None:
        side = "before" if measure["before"]["value"] is None else "after"
        return f"no line {side}"
    if difference["low"] is None:
        return neither
    return up if difference["low"] > 0 else down if difference["high"] < 0 else neither


def transfer(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Say how well the axis and threshold of each model (`axis`) tell the benign refusals of each other (`model`).

    Both are read on the prompts of `model`, with `model`'s states at the layer of `axis`; so the sides must share that
    layer. Pairs of different widths or layers get a row that says why there is nothing.

    Returns:
        per pair, the same model included: AUROC on benign prompts with interval, and its loss against the model's own
        axis (paired); the share of benign prompts told right by the threshold of `axis`; the share refused among the
        benign prompts nearest the line; AUROC of random directions, the better way round; cosine of the two axes.
    """
    return [_pair(a, b) for b in sides for a in sides]


def _pair(a: Side, b: Side) -> dict[str, Any]:
    row: dict[str, Any] = {"axis": a.label, "model": b.label, "unmeasured": ""}
    if a.layer != b.layer or a.axis.v.shape != b.axis.v.shape:
        return row | {"unmeasured": "the models differ in layer or width; give --layer, or models of one shape"}
    keep = b.seen.benign
    own = Side(label=b.label, layer=b.layer, axis=b.axis, states=b.states[torch.tensor(keep)], seen=b.seen.where(keep))
    refused = own.seen.refused
    row |= {"n": len(refused), "groups": len(set(own.seen.groups)), "refused": float(refused.mean())}
    if refused.all() or not refused.any():
        return row | {"unmeasured": f"{b.label} treats all benign prompts alike"}
    weights = np.concatenate([np.ones((1, len(refused))), group_weights(own.seen.groups, N_BOOT)])
    t = own.on(a.axis)
    theirs, mine = (weighted_auroc(x, refused, weights) for x in (t, own.on(b.axis)))
    line = calibrate(a.on(a.axis), a.seen.refused, a.seen.benign)
    right = ((t > line.t_star) == refused) if np.isfinite(line.t_star) and line.w > 0 else None
    near = np.argsort(np.abs(t - line.t_star), kind="stable")[:NEAREST]
    random = [either_way(own.on(r), refused, ~refused) for r in random_axes(b.axis)]
    return row | {
        "auroc": _point(theirs),
        "loss": _point(mine - theirs),
        "told": None if right is None else share(right, own.seen.groups),
        "nearest": None if right is None else share(refused[near], [own.seen.groups[i] for i in near]),
        "random": [a for a in random if a is not None],
        "cosine": float(torch.nn.functional.cosine_similarity(a.axis.v, b.axis.v, dim=0)),
    }


def side_by_side(sides: Sequence[Side], attached: Sequence[bool]) -> dict[str, Any]:
    """Compare every side with the first, and every axis with every model.

    Args:
        sides: at least two.
        attached: which of them are the first with an intervention: these say what the intervention moved.
    """
    return {
        "sides": [s.label for s in sides],
        "attached": [s.label for s, own in zip(sides, attached, strict=True) if own],
        "moved": [moved(sides[0], other) for other in sides[1:]],
        "transfer": transfer(sides),
    }
