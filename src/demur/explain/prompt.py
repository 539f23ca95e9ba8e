"""Why was this refused? One prompt: its coordinate by layer, its neighbours, its tokens, what flips it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from demur.boundary import Axis, calibrate
from demur.causal import GRID, flips
from demur.directions import Direction, random_like
from demur.errors import DataError
from demur.explain.observed import spread
from demur.methods._contrast import POINT
from demur.readout import REFUSALS, Openers, p_refuse
from demur.residuals import capture
from demur.screen import Screen
from demur.types import Example, Prompt

if TYPE_CHECKING:
    from demur.lm import LM

NEIGHBOURS = 5
RANDOM_DIRECTIONS = 20
TYPICAL = 40
"""Answered plain prompts that tokens are held against."""


def explain_prompt(
    lm: LM,
    prompt: Prompt,
    examples: Sequence[Example],
    openers: Openers,
    *,
    layer: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Say where one prompt stands.

    Args:
        lm: the model.
        prompt: any prompt.
        examples: labelled prompts: the axis, the threshold and the neighbours come from them.
        openers: the refusal openers.
        layer: of neighbours, tokens and the flip.
        seed: of the random directions.

    Returns:
        JSON values: `p_refuse`; `by_layer` (t, t*, tau, d and why an axis is unusable); the nearest `harmful`
        examples (ids only) and `harmless` ones (with text), by cosine of states less the harmless mean; `tokens`
        with the coordinate of each token's state, and how far it lies from those of answered prompts; `alpha` (the
        smallest strength that flips the decision, None where none of the grid does) and the same of random directions;
        `words`, all this in sentences.

    Raises:
        DataError: when no refused harmful or no answered plain prompts are among the examples.
    """
    labelled = [e for e in examples if e.label]
    if not labelled:
        raise DataError("no example carries a label; give prompts that the model answered and a judge read")
    layers = tuple(range(lm.n_layers))
    states = capture(lm, [prompt, *(e.prompt for e in labelled)], layers=layers, points=POINT)
    own, theirs = states[0], states[1:]
    marks = {
        "harmful": np.array([(e.prompt.kind, e.label) == ("harmful", "refusal") for e in labelled]),
        "harmless": np.array([(e.prompt.kind, e.label) == ("plain", "compliance") for e in labelled]),
    }
    for name, flags in marks.items():
        if flags.sum() < 2:
            raise DataError(f"{flags.sum()} {name} examples (refused harmful, answered plain); at least 2 are needed")
    sides = {name: torch.tensor(flags) for name, flags in marks.items()}
    axes = [Axis.between(theirs[sides["harmful"], n], theirs[sides["harmless"], n]) for n in layers]
    refused = np.array([e.label in REFUSALS for e in labelled])
    benign = np.array([e.prompt.expected == "comply" for e in labelled])
    found = {
        "text": prompt.text,
        "model": lm.ref.id,
        "layer": layer,
        "p_refuse": float(p_refuse(Screen(lm, [prompt]).logits(), openers)[0]),
        "by_layer": [_at(n, axes[n], own[n], theirs[:, n], refused, benign) for n in layers],
        "tokens": _tokens(lm, prompt, axes[layer], layer, _typical(prompt, labelled)),
        **_neighbours(prompt.text, own[layer], theirs[:, layer], axes[layer], labelled),
    }
    v = axes[layer].v.float()
    like = Direction(vectors=v[None], layers=(layer,), model=lm.ref, estimator="mean_difference")
    vectors = [v, *(r.vectors[0] for r in random_like(like, RANDOM_DIRECTIONS, seed=seed))]
    ours, *randoms = (float(f.alpha[0]) for f in flips(lm, [prompt], vectors, openers, layer=layer))
    found["alpha"] = ours if np.isfinite(ours) else None
    found["alpha_random"] = sorted(a for a in randoms if np.isfinite(a))
    found["alpha_random_n"], found["grid"] = len(randoms), list(GRID)
    return found | {"words": _in_words(found)}


def _in_words(found: dict[str, Any]) -> list[str]:
    """Say what the numbers say, in sentences."""
    refused = found["p_refuse"] > 0.5
    at = next(row for row in found["by_layer"] if row["layer"] == found["layer"])
    said = [f"{'Refused' if refused else 'Answered'} by the first token: P(refuse) is {found['p_refuse']:.3f}."]
    place = f"At layer {at['layer']} its coordinate is {at['t']:.2f}"
    if at["unusable"]:
        said.append(f"{place}; no line is usable there: {at['unusable']}.")
    else:
        side = "above" if at["d"] > 0 else "below"
        zone = "inside" if abs(at["d"]) <= 1 else "outside"
        said.append(
            f"{place}, {side} the line at {at['t_star']:.2f} and {zone} the zone of ± {at['tau']:.2f} around it, where "
            f"P(refuse) lies between 10 and 90 % (d = {at['d']:+.2f})."
        )
        if (at["d"] > 0) != refused:
            said.append("Line and model disagree about this prompt: the coordinate does not explain the decision.")
    nearest = {side: found[side][0]["cosine"] for side in ("harmful", "harmless") if found[side]}
    if len(nearest) == 2:
        side = max(nearest, key=lambda name: nearest[name])
        said.append(
            f"Its nearest prompt is {side} (cosine {nearest[side]:.2f}; the other side's {min(nearest.values()):.2f})."
        )
    way = "away from" if refused else "towards"
    flip = (
        f"No strength up to {GRID[-1]:g} flips it"
        if found["alpha"] is None
        else f"Steering by {found['alpha']:g} flips it"
    )
    random, of = found["alpha_random"], found["alpha_random_n"]
    control = f"{len(random)} of {of} random directions of equal length flip it"
    if random:
        control += f", at {random[0]:g} or more"
    return [*said, f"{flip} ({way} refusal, in gaps between the two means); {control}."]


def _at(layer: int, axis: Axis, own: torch.Tensor, theirs: torch.Tensor, refused: Any, benign: Any) -> dict[str, Any]:
    t = float(axis.coordinate(own[None])[0])
    fit = calibrate(axis.coordinate(theirs), refused, benign)
    known = bool(np.isfinite(fit.t_star))
    return {
        "layer": layer,
        "t": t,
        "t_star": fit.t_star if known else None,
        "tau": fit.tau if known else None,
        "d": float(fit.distance(np.array([t]))[0]) if known else None,
        "unusable": fit.unusable,
    }


def _neighbours(
    text: str, own: torch.Tensor, theirs: torch.Tensor, axis: Axis, examples: Sequence[Example]
) -> dict[str, Any]:
    shifted = theirs.double() - axis.mu_minus
    near = torch.nn.functional.cosine_similarity(shifted, (own.double() - axis.mu_minus)[None], dim=-1)
    made: dict[str, Any] = {"harmful": [], "harmless": []}
    for i in torch.argsort(near, descending=True).tolist():
        example = examples[i]
        side = {"refuse": "harmful", "comply": "harmless"}.get(example.prompt.expected or "")
        if side and example.prompt.text != text and len(made[side]) < NEIGHBOURS:
            row = {"prompt_id": example.prompt.id, "cosine": float(near[i]), "label": example.label}
            made[side].append(row if side == "harmful" else {**row, "text": example.prompt.text})
    return made


def _tokens(lm: LM, prompt: Prompt, axis: Axis, layer: int, typical: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Return the coordinate of every token's state; template tokens included, since the decision is read there.

    The axis is that of the last token, so a token's own value means little: `z` sets it against the instruction tokens
    of prompts that are answered, in their standard deviations (None for template tokens).
    """
    encoded = lm.encode_all([prompt, *typical])
    t = axis.coordinate(capture(lm, [prompt, *typical], layers=(layer,), points=POINT, positions="prompt")[:, 0])
    own, start = encoded[0], encoded[0].prompt
    usual: list[npt.NDArray[np.float64]] = []
    for other in encoded[1:]:
        usual.append(t[start : start + other.instruction])
        start += other.prompt
    known = np.concatenate(usual)
    texts = [str(lm.tokenizer.decode([i])) for i in own.ids[: own.prompt]]
    rows: list[dict[str, Any]] = []
    for place, (text, value) in enumerate(zip(texts, t[: own.prompt], strict=True)):
        inside = place < own.instruction
        z = (value - known.mean()) / (known.std() or 1.0)
        rows.append({"token": text, "t": float(value), "z": float(z) if inside else None, "instruction": inside})
    return rows


def _typical(prompt: Prompt, examples: Sequence[Example]) -> list[Prompt]:
    """Return some answered plain prompts, of the prompt's language where there are enough."""
    plain = [e.prompt for e in examples if (e.prompt.kind, e.label) == ("plain", "compliance")]
    same = [p for p in plain if p.language == prompt.language]
    chosen = same if len(same) >= TYPICAL // 4 else plain
    return [chosen[i] for i in spread(list(range(len(chosen))), TYPICAL)]
