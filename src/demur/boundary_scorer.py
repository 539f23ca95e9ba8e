"""Place prompts along a model's refusal boundary by prefill alone: coordinate, distance and readout in one pass.

Every prompt is read once, without an answer: the state after one block at the last prompt token gives t and d
(`demur.boundary`), the logits there give r and whether an answer would open with a refusal (`demur.readout`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from demur.boundary import Axis, Calibration, calibrate
from demur.directions import mean_difference
from demur.errors import ConfigError, DataError
from demur.layers import choose_layer
from demur.methods._contrast import POINT, check_layers
from demur.mining.rows import Score
from demur.plan import Plan
from demur.readout import REFUSALS, Openers, p_refuse
from demur.residuals import batches
from demur.states import states as captured
from demur.types import Example

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.types import ModelRef, Prompt

Flags = npt.NDArray[np.bool_]
BATCH_TOKENS = 8192
_RULED = 64
"""Harmful and plain prompts each that the layer is chosen on."""
_LEAST = 8
"""Refused harmful and answered harmless prompts that a language needs for an axis of its own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundaryScorer:
    """Scores by the axis and calibration of each prompt's language, those of all languages together where it has none.

    A prompt whose axis is unusable stays unscored with the reason, unless `unusable` allows it.
    """

    lm: LM
    layer: int
    axes: Mapping[str, tuple[Axis, Calibration]]
    """By language; "" stands for all together."""
    openers: Openers | None
    """None: whether a prompt is refused is read off its side of the boundary, and r is the calibration's log-odds."""
    why: str = ""
    """How the layer was chosen, in words."""
    unusable: bool = False
    """Score along an axis that does not separate refused from answered benign prompts, instead of giving none."""

    @classmethod
    def fit(
        cls,
        lm: LM,
        examples: Sequence[Example],
        openers: Openers | None,
        *,
        layer: int | None = None,
        unusable: bool = False,
    ) -> BoundaryScorer:
        """Fit an axis per language on the `fit` split, and calibrate it on the `dev` split.

        The axis runs from the mean of answered plain prompts to that of refused harmful ones. Without `layer` the rules
        of `demur.layers` choose it on `dev`. Where they find none, or one whose axis is unusable, it is the layer at
        which t best tells refused from answered benign prompts of `dev`, the last fifth left out; `why` says so.

        Raises:
            ConfigError: for a layer out of range.
            DataError: where a class of prompts is missing.
        """
        layers = range(max(1, lm.n_layers - lm.n_layers // 5)) if layer is None else [layer]
        check_layers(lm, list(layers))
        rows = [e for e in examples if e.label is not None]
        states = captured(lm, [e.prompt for e in rows], layers=list(layers), points=(POINT,), positions="last_prompt")
        axes = {number: _axes(states[:, at], rows) for at, number in enumerate(layers)}
        if layer is not None:
            return cls(lm=lm, layer=layer, axes=axes[layer], openers=openers, why="given", unusable=unusable)
        ruled, why = _ruled(lm, states, rows, openers, tuple(layers))
        fault = axes[ruled][""][1].unusable if ruled is not None else ""
        best = max(layers, key=lambda number: _quality(axes[number][""][1]))
        if ruled is None or (fault and not axes[best][""][1].unusable):
            why = f"the axis at layer {ruled}, which they choose, is unusable: {fault}" if fault else why
            ruled, why = best, f"the highest AUROC on benign prompts; the rules were not followed: {why}"
        return cls(lm=lm, layer=ruled, axes=axes[ruled], openers=openers, why=why, unusable=unusable)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the model's name in place of the model, which is loaded where it arrives.

        Raises:
            ConfigError: while something is attached to the model.
        """
        if self.lm.plan_of(None).fingerprint != Plan().fingerprint:
            raise ConfigError(f"{self.lm.ref.id} cannot be scored elsewhere while an intervention is attached to it")
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "lm"}
        return _arrived, (self.lm.ref, self.lm.device.type, rest)

    @property
    def record(self) -> Mapping[str, Any]:
        """Model, layer, openers, and of each language t*, tau, AUROC and a hash of the axis."""
        return {
            "kind": "boundary",
            "model": {
                "id": self.lm.ref.id,
                "revision": self.lm.ref.revision,
                "plan": self.lm.plan_of(None).fingerprint,
            },
            "layer": self.layer,
            "layer_choice": self.why,
            "openers": list(self.openers.ids) if self.openers else None,
            "allow_unusable": self.unusable,
            "axes": {language: _described(*axis) for language, axis in sorted(self.axes.items())},
        }

    def __call__(self, prompts: Sequence[Prompt]) -> list[Score]:
        """Return one score per prompt, in order."""
        states, chance = self._read(prompts)
        made = []
        for i, prompt in enumerate(prompts):
            axis, fit = self.axes.get(prompt.language) or self.axes[""]
            if not math.isfinite(fit.tau) or (fit.unusable and not self.unusable):
                made.append(Score(prompt_id=prompt.id, d=None, unscored=f"axis unusable: {fit.unusable}"))
                continue
            t = axis.coordinate(states[i : i + 1])
            d = float(fit.distance(t)[0])
            p = min(max(float(chance[i]), 1e-6), 1 - 1e-6)
            r = math.log(p / (1 - p)) if self.openers else d * math.log(9)
            made.append(Score(prompt_id=prompt.id, d=d, t=float(t[0]), r=r, refused=r > 0))
        return made

    def _read(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states at the last prompt token, and the mass of refusal openers there, from one pass."""
        encoded = self.lm.encode_all(list(prompts))
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        states: list[torch.Tensor] = [torch.empty(0)] * len(encoded)
        chance = torch.zeros(len(encoded))
        plan: Plan = self.lm.plan_of(None)
        for run in batches([len(encoded[i].ids) for i in order], BATCH_TOKENS):
            chosen = [order[i] for i in run]
            ids, rows, lengths = self.lm.batch([encoded[i] for i in chosen], [plan] * len(chosen))
            pick = torch.arange(len(chosen), device=ids.device)
            kept: list[torch.Tensor] = []

            def keep(h: torch.Tensor, at: tuple[Any, ...] = (pick, lengths - 1), to: list[torch.Tensor] = kept) -> Any:
                to.append(h[at].float().cpu())
                return h

            with torch.no_grad():
                hidden = self.lm.forward(ids, rows, readers={(self.layer, POINT): keep})
                mass = p_refuse(self.lm.head(hidden[pick, lengths - 1]), self.openers).cpu() if self.openers else None
            for k, i in enumerate(chosen):
                states[i] = kept[-1][k]
                chance[i] = mass[k] if mass is not None else 0.5
        return torch.stack(states), chance


def _quality(fit: Calibration) -> float:
    return 0.0 if fit.unusable or fit.auroc is None else fit.auroc


def _ruled(
    lm: LM, states: torch.Tensor, rows: Sequence[Example], openers: Openers | None, layers: tuple[int, ...]
) -> tuple[int | None, str]:
    """Return the layer that the rules of `demur.layers` choose, or None, and why."""
    if openers is None:
        return None, "they need refusal openers, and none were found"
    every = np.ones(len(rows), bool)
    harmful = _mask(rows, every, "fit", "harmful", ("refusal",))
    plain = _mask(rows, every, "fit", "plain", ("compliance",))
    if min(harmful.sum(), plain.sum()) < 2:
        return None, "too few prompts for a direction"
    parts = (states[torch.from_numpy(harmful)], states[torch.from_numpy(plain)])
    held = {
        kind: [e.prompt for e in rows if (e.split, e.prompt.kind) == ("dev", kind)] for kind in ("harmful", "plain")
    }
    if not all(held.values()):
        return None, "they need harmful and plain prompts in the dev split"
    every_nth = {kind: own[:: max(1, len(own) // _RULED)][:_RULED] for kind, own in held.items()}
    direction = mean_difference(*parts, layers=layers, model=lm.ref)
    choice = choose_layer(lm, direction, every_nth["harmful"], every_nth["plain"], openers)
    return choice.layer, choice.reason


def _axes(states: torch.Tensor, rows: Sequence[Example]) -> dict[str, tuple[Axis, Calibration]]:
    """Return the axis and calibration of all languages together, and of each that has enough prompts."""
    languages = ["", *sorted({e.prompt.language for e in rows})]
    made = {}
    for language in languages:
        own = np.array([language in ("", e.prompt.language) for e in rows])
        harmful = _mask(rows, own, "fit", "harmful", ("refusal",))
        plain = _mask(rows, own, "fit", "plain", ("compliance",))
        dev = own & np.array([e.split == "dev" for e in rows])
        few = min(harmful.sum(), plain.sum()) < (2 if not language else _LEAST)
        if few and not language:
            raise DataError(
                f"a boundary needs refused harmful and answered plain prompts to fit on: there are {harmful.sum()} and "
                f"{plain.sum()}. Give more with --fit"
            )
        if few or dev.sum() < _LEAST:
            if not language:
                raise DataError(
                    f"{dev.sum()} prompts to calibrate on, at least {_LEAST} are needed; give more with --dev"
                )
            continue
        axis = Axis.between(states[torch.from_numpy(harmful)], states[torch.from_numpy(plain)])
        held = [e for e, mine in zip(rows, dev, strict=True) if mine]
        refused = np.array([e.label in REFUSALS for e in held])
        benign = np.array([e.prompt.expected == "comply" for e in held])
        made[language] = (axis, calibrate(axis.coordinate(states[torch.from_numpy(dev)]), refused, benign))
    return made


def _mask(rows: Sequence[Example], own: Flags, split: str, kind: str, labels: tuple[str, ...]) -> Flags:
    flags: Flags = own & np.array([(e.split, e.prompt.kind) == (split, kind) and e.label in labels for e in rows])
    return flags


def _described(axis: Axis, fit: Calibration) -> dict[str, Any]:
    held = hashlib.sha256(axis.mu_minus.numpy().tobytes() + axis.v.numpy().tobytes()).hexdigest()[:16]
    finite = math.isfinite(fit.tau)
    return {
        "t_star": fit.t_star if finite else None,
        "tau": fit.tau if finite else None,
        "w": fit.w,
        "auroc": fit.auroc,
        "n": fit.n,
        "unusable": fit.unusable,
        "axis": held,
    }


def _arrived(ref: ModelRef, device: str, rest: dict[str, Any]) -> BoundaryScorer:
    """Return a scorer that was pickled, its model loaded once per process."""
    from demur.generators.local import Local

    commit = "" if ref.revision.startswith("sha256:") else ref.revision
    lm = Local(model=ref.id, revision=commit, dtype=ref.dtype, device=device).lm()
    if lm.ref != ref:
        raise ConfigError(f"{ref.id} has other weights here ({lm.ref.revision}) than where it is scored for")
    return BoundaryScorer(lm=lm, **rest)
