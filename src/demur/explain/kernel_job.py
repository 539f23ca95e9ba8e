"""The job behind `demur explain kernels`: kernel, overlap, boundary by layer, lens, and refusals along a training."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from demur.assemble import measurement
from demur.cache import opened
from demur.errors import ConfigError, DataError
from demur.explain import classes as by_class
from demur.explain import kernels
from demur.explain.along import along
from demur.explain.observed import spread
from demur.files import lock, write_json
from demur.fitting import refusal_labels
from demur.generators.local import Local
from demur.interventions import load as load_intervention
from demur.interventions.adapter import Adapter
from demur.lm import LM, attach
from demur.measure import Progress, measure
from demur.methods._contrast import POINT
from demur.readout import REFUSALS
from demur.records import LoadedRun
from demur.states import states as captured
from demur.types import ATTACK, Prompt, Sampling

CLASS_OF = {"harmful": "toxic", "borderline": "seeming", "plain": "general"}
MOST = 300
"""Prompts of a class whose states are read, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is explained, and how."""

    model: str
    benchmarks: Sequence[str] = ("world",)
    fit: Sequence[str] = ("world:split=train",)
    """Other prompts: the probe and the openers come from them."""
    intervention: Path | None = None
    """A saved adapter that is attached to the model."""
    training: Path | None = None
    """A folder with checkpoints, along which P(refuse) is read."""
    openers: str = ""
    """A model with the same tokenizer whose answers give the openers, where this one refuses nothing."""
    each: int = 25
    """Prompts of each class in the kernel."""
    kernel: kernels.Settings = field(default_factory=kernels.Settings)


def explain_kernels(asked: Asked, *, out: Path, progress: Progress = lambda stage, done, total: None) -> dict[str, Any]:
    """Measure a model's classes of prompts; write `kernels.json`.

    Args:
        asked: what.
        out: folder; answers go to `before/` and `fit/` in it.
        progress: told of every stage.

    Returns:
        what kernels.json holds.

    Raises:
        ConfigError: for an intervention that is no adapter.
        DataError: when a class of prompts is missing, or no openers can be found.
    """
    lm = Local(model=asked.model).lm()
    adapter = load_intervention(asked.intervention) if asked.intervention else None
    if adapter is not None and not isinstance(adapter, Adapter):
        raise ConfigError(f"{asked.intervention}: explain kernels reads weights; only an adapter can be attached")
    with lock(out):
        seen, fitted = (_answered(asked, parts, out / name, progress, name)
                        for parts, name in ((asked.benchmarks, "before"), (asked.fit, "fit")))  # fmt: skip
        found = _openers(asked, lm, fitted, out, progress)
        with attach(lm, adapter) if adapter else contextlib.nullcontext():
            record = _record(lm, asked, seen, fitted, found, progress)
        if asked.training is not None:
            rows = _rows(seen, MOST)
            record["along"] = along(lm, asked.training, *_told(rows), found["refuse"])
        write_json(out / "kernels.json", record)
    return record


def _answered(asked: Asked, parts: Sequence[str], out: Path, tell: Progress, name: str, model: str = "") -> LoadedRun:
    what = measurement(
        model=model or asked.model,
        benchmarks=parts,
        judges=[],
        sampling=Sampling(),
        intervention=asked.intervention if name == "before" else None,
    )
    return measure(what, out, progress=lambda s, d, t: tell(f"{name}: {s}", d, t), cache=opened())


def _openers(asked: Asked, lm: LM, fitted: LoadedRun, out: Path, tell: Progress) -> dict[str, Any]:
    run = _answered(asked, asked.fit, out / "openers", tell, "openers", asked.openers) if asked.openers else fitted
    try:
        return by_class.openers_of(lm, run.responses, run.verdicts)
    except DataError as error:
        raise DataError(f"{error} Or name a model with the same tokenizer that refuses some, with --openers.") from None


def _rows(run: LoadedRun, most: int) -> list[tuple[Prompt, str]]:
    """Return at most so many prompts of each class, evenly spread, none under attack."""
    made = []
    for kind, name in CLASS_OF.items():
        own = [p for p in run.prompts if p.kind == kind and not p.category.startswith(ATTACK)]
        if not own:
            raise DataError(f"explain kernels needs {kind} prompts, and there are none")
        made += [(own[i], name) for i in spread(list(range(len(own))), most)]
    return made


def _told(rows: Sequence[tuple[Prompt, str]]) -> tuple[list[Prompt], list[str]]:
    return [p for p, _ in rows], [name for _, name in rows]


def _record(
    lm: LM, asked: Asked, seen: LoadedRun, fitted: LoadedRun, found: dict[str, Any], tell: Progress
) -> dict[str, Any]:
    few, many, labels = _rows(seen, asked.each), _rows(seen, MOST), refusal_labels(seen)
    prompts, names = _told(many)
    groups = [
        name if name != "seeming" else "seeming_refused" if labels[p.id] in REFUSALS else "seeming_answered"
        for p, name in many
    ]
    tell("states", 0, 1)
    states = _states(lm, prompts)
    learnt = {name: _states(lm, [p for p, own in _rows(fitted, MOST) if own == name]) for name in ("toxic", "general")}
    by_group = {g: states[torch.tensor([i for i, own in enumerate(groups) if own == g])] for g in dict.fromkeys(groups)}
    tell("states", 1, 1)
    kernel = kernels.kernel(lm, _told(few)[0], asked.kernel, tell=tell)
    return {
        "model": lm.ref.id,
        "with": str(asked.intervention or ""),
        "layers": list(range(lm.n_layers)),
        "point": POINT,
        "kernel": {
            "rows": kernels.between(kernel, *_told(few)),
            "way": kernel.way,
            "tokens": asked.kernel.tokens,
            "last": asked.kernel.last,
            "each": asked.each,
            "weights": kernel.weights,
            "backward": kernel.backward,
            "forward": kernel.forward,
            "seconds": kernel.seconds,
        },
        "cosines": by_class.cosines(states, names),
        "positions": by_class.positions(learnt["general"], learnt["toxic"], by_group),
        "lens": by_class.lens(lm, prompts, groups, found),
        "openers": {name: {"n": len(own.ids), "agreement": own.agreement} for name, own in found.items()},
    }


def _states(lm: LM, prompts: Sequence[Prompt]) -> torch.Tensor:
    layers = tuple(range(lm.n_layers))
    return captured(lm, list(prompts), layers=layers, points=(POINT,), positions="last_prompt")
