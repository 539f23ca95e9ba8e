"""What generators around another generator share."""

from __future__ import annotations

from typing import Any

from demur import registry
from demur.types import Generator, ModelRef


def ref_of(generator: Generator) -> ModelRef:
    """Return which model answers, as the generator inside says."""
    ref = getattr(generator, "ref", None)
    return ref() if ref else ModelRef(id=registry.name_of(type(generator)))


def usage_of(generator: Generator) -> Any:
    """Return what the generator inside counted so far, None where it does not count."""
    usage = getattr(generator, "usage", None)
    return usage() if usage else None
