"""The embedded organism: a tiny language model with real over-refusal in a synthetic world (this file: no torch)."""

from __future__ import annotations

from pathlib import Path

from demur.errors import NotFound

NAMES = ("organism", "organism:base")
"""The shipped models: after safety tuning, and before it."""


def path(name: str = "organism") -> Path:
    """Return the folder of a shipped model, in transformers format.

    Args:
        name: `organism`, or `organism:base` (also `base`) for the checkpoint before the safety phase.

    Raises:
        NotFound: for any other name.
    """
    folder = {"organism": "organism", "organism:base": "base", "base": "base"}.get(name)
    if folder is None:
        raise NotFound("organism", name, NAMES)
    return Path(__file__).parent / "weights" / folder
