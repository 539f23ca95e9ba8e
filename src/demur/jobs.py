"""The job behind `demur fit`: fit one method."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from demur import fitted, leaks
from demur.assemble import build_benchmarks, measurement, spec
from demur.cache import opened
from demur.errors import ConfigError
from demur.files import lock, read_json, read_rows
from demur.fitting import examples
from demur.footprint import metered
from demur.generators.local import Local
from demur.lm import LM
from demur.measure import Progress, collect_prompts, measure
from demur.methods import _tuned
from demur.methods._choice import FILE as CHOICE
from demur.methods._contrast import check_layers
from demur.methods._learnable import rows as rows_of
from demur.records import LoadedRun
from demur.registry import reads
from demur.settings import PartSpec, build
from demur.types import DEFAULT_JUDGE, Example, FitData, Judge, Prompt, Sampling

CHOICES = (CHOICE, f"{_tuned.FOLDER}/{_tuned.RECORD}")
"""Where methods write what they chose: those that search settings, and those that train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is fitted on, and what must not stand in it."""

    data: Path | None = None
    """A JSONL file of `Example` rows; without it the model answers `fit` and `dev`, and is judged."""
    fit: Sequence[str] = ()
    dev: Sequence[str] = ()
    test: Sequence[str] = ()
    """Benchmarks that will test the result."""
    allow_overlap: bool = False
    """Go on where what is fitted on stands in the dev split or in `test`."""


def fit_method(
    method: PartSpec,
    *,
    model: str,
    rows: Rows,
    judges: Sequence[str],
    out: Path,
    progress: Progress,
) -> tuple[Path, dict[str, Any]]:
    """Fit one method and save what it gives.

    Args:
        method: the method's name and settings.
        model: what to load.
        rows: what is fitted on, as far as the method looks at it (`registry.reads`).
        judges: judges of the answers; none means the cards' own.
        out: folder; answers go to `fit/` and `dev/` in it, the result to `intervention/`, with `fit.json` beside it:
            the method, its settings, time and memory, and, where it is for comparison only, why.
        progress: told of every stage.

    Returns:
        the folder of the intervention and its description.

    Raises:
        ConfigError: for unknown names or settings, or a layer out of range.
        DataError: when a group of prompts that the method needs is missing, or what is fitted on stands in what it is
            evaluated on.

    Under `accelerate launch` every process runs this with the same `data`, and the first alone writes to `out`.
    """
    made = build("methods", method)
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and rows.data is None and reads(method.name, method.settings):
        raise ConfigError("several processes can only fit on --data: measure first, then fit on the examples")
    lm = _load(model)
    if hasattr(made, "layer"):
        check_layers(lm, (made.layer,))
    with lock(out) if rank == 0 else contextlib.nullcontext():
        found = _examples(method, model, rows, judges, out, progress)
        if rank == 0:
            leaks.check(_stages(made, found, rows.test), out, allowed=rows.allow_overlap)
            for name in CHOICES:
                (out / name).unlink(missing_ok=True)
        own = FitData(examples=tuple(found), judge=_judge(judges, found), out=out)
        given, spent = metered(lambda: made.fit(lm, own))
        if rank == 0:
            given.save(out / "intervention")
            fitted.write(out / "intervention", method, spent)
    return out / "intervention", given.describe()


def _examples(
    method: PartSpec, model: str, rows: Rows, judges: Sequence[str], out: Path, tell: Progress
) -> list[Example]:
    """Read the examples of a file, or let the model answer the splits that the method looks at."""
    if rows.data is not None:
        return read_rows(rows.data, Example)
    found: list[Example] = []
    named: dict[Literal["fit", "dev"], Sequence[str]] = {"fit": rows.fit, "dev": rows.dev}
    for split, benchmarks in named.items():
        if split in reads(method.name, method.settings):
            found += examples(_answered(model, benchmarks, judges, out / split, tell), split)
    return found


def _stages(method: Any, found: Sequence[Example], test: Sequence[str]) -> dict[str, list[Prompt]]:
    """Return the prompts by stage: what is fitted on (a method's own file in its place), the dev split, the test."""
    trained = rows_of(Path(method.file)) if getattr(method, "file", "") else found
    stages = {
        "fit": [e.prompt for e in trained if e.split == "fit"],
        "dev": [e.prompt for e in found if e.split == "dev"],
    }
    return {**stages, "test": collect_prompts(build_benchmarks(test))} if test else stages


def choice(out: Path) -> str:
    """Return which setting or checkpoint the last fit in a folder chose and why, "" where its method chooses none."""
    return next((str(read_json(out / name)["why"]) for name in CHOICES if (out / name).is_file()), "")


def _judge(judges: Sequence[str], rows: Sequence[Example]) -> Judge:
    """Return the first judge named; else the oracle where every prompt is the world's, else the usual default."""
    world = bool(rows) and all(e.prompt.source == "world" for e in rows)
    name = judges[0] if judges else "oracle" if world else DEFAULT_JUDGE
    return cast(Judge, build("judges", spec(name)))


def _load(model: str) -> LM:
    """Load through the `local` generator, so that measuring and fitting share one copy of the model."""
    return Local(model=model).lm()


def _answered(model: str, benchmarks: Sequence[str], judges: Sequence[str], out: Path, tell: Progress) -> LoadedRun:
    what = measurement(model=model, benchmarks=benchmarks, judges=judges, sampling=Sampling())
    return measure(what, out, progress=lambda s, d, t: tell(f"{out.name}: {s}", d, t), cache=opened())
