"""A recipe's grid: each cell a folder of its own, two at a time, one thread each; then one table of all."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demur import report
from demur.files import write_json
from demur.measure import Progress
from demur.pipeline import Outcome
from demur.pipeline import run as run_one
from demur.recipes import Recipe, cells
from demur.report.grid import write_grid

AT_ONCE = 2


def run_recipe(
    recipe: Recipe, out: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> list[Outcome]:
    """Run a recipe, or every cell of its grid, and write the report.

    Args:
        recipe: the recipe, with or without a grid.
        out: its folder; a cell's folder is named after its settings and lies below it.
        overwrite: start anew where a folder holds another recipe.
        progress: told of every stage, or of every finished cell of a grid.

    Returns:
        one result, or one per cell in the grid's order.
    """
    tell = progress or (lambda stage, done, total: None)
    found = cells(recipe)
    if len(found) == 1 and not found[0].overrides:
        return [_one(recipe, out, overwrite, tell)]
    results: dict[str, Outcome] = {}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(AT_ONCE, mp_context=context, initializer=_one_thread) as pool:
        waiting = {pool.submit(_one, c.recipe, out / c.folder, overwrite, None): c.folder for c in found}
        for done in concurrent.futures.as_completed(waiting):
            results[waiting[done]] = done.result()
            tell("cells", len(results), len(found))
    ordered = [results[c.folder] for c in found]
    write_json(out / "grid.json", _grid_record([dict(c.overrides) for c in found], ordered))
    write_grid(out)
    return ordered


def _one(recipe: Recipe, out: Path, overwrite: bool, tell: Progress | None) -> Outcome:
    outcome = run_one(recipe, out, overwrite=overwrite, progress=tell)
    report.write(out)
    return outcome


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _grid_record(overrides: Sequence[dict[str, Any]], results: Sequence[Outcome]) -> dict[str, Any]:
    return {"cells": [{"settings": o, **r.record()} for o, r in zip(overrides, results, strict=True)]}
