"""Checkpoints that are whole or not there: written under a temporary name, synced, renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.errors import DataError
from demur.files import read_json, write_json

NAME = "checkpoint-"
STAGING = ".partial"
SEAL = "complete.json"
"""Lists a checkpoint's files with their sizes; written last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint of a training."""

    step: int
    folder: Path
    score: Mapping[str, Any] | None = None
    """What was measured with it, where that was asked for."""


def found(folder: Path) -> tuple[Checkpoint, ...]:
    """Return the whole checkpoints in a folder, by step."""
    made = []
    for place in folder.glob(f"{NAME}*"):
        step = place.name.removeprefix(NAME)
        if step.isdigit() and whole(place):
            score = place / "score.json"
            made.append(Checkpoint(step=int(step), folder=place, score=read_json(score) if score.exists() else None))
    return tuple(sorted(made, key=lambda c: c.step))


def whole(place: Path) -> bool:
    """Return whether every file that was sealed is there at its size."""
    try:
        sealed = read_json(place / SEAL)
    except DataError:
        return False
    return all((place / name).is_file() and (place / name).stat().st_size == size for name, size in sealed.items())


def publish(staged: Path, folder: Path) -> None:
    """Sync a checkpoint that was written to `staged`, seal it, and rename it to its place in `folder`."""
    files = [p for p in sorted(staged.rglob("*")) if p.is_file()]
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    write_json(staged / SEAL, {str(f.relative_to(staged)): f.stat().st_size for f in files})
    target = folder / staged.name
    if target.exists():  # what was there was not whole, or this process would not have written it again
        shutil.rmtree(target)
    staged.rename(target)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
