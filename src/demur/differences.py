"""What differs between the run that a folder holds and the one that is asked for, in words."""

from __future__ import annotations

from typing import Any

from demur.files import fingerprint
from demur.types import Part, RunSpec, to_json

UPSTREAM = ("model", "sampling", "intervention", "generator")
"""Fields of a run that its answers rest on, beside the prompts."""


def identity(part: Part) -> Any:
    """Return what a part is compared by: its fingerprint, or its settings where it has none."""
    return [part.name, part.fingerprint or fingerprint(part.settings)]


def same(one: Part, other: Part) -> bool:
    """Say whether two parts give the same results."""
    return bool(identity(one) == identity(other))


def difference(old: RunSpec, new: RunSpec, *, same_prompts: bool) -> str:
    """Return the first upstream field that differs, with both values; "" when none does."""
    for name in UPSTREAM:
        there, here = getattr(old, name), getattr(new, name)
        if isinstance(there, Part) and isinstance(here, Part) and same(there, here):
            continue
        if found := _first(to_json(there), to_json(here), name):
            return found
    if same_prompts:
        return ""
    return _first(to_json(old.benchmarks), to_json(new.benchmarks), "benchmarks") or (
        "prompts differ though the benchmarks' settings are equal (their data have changed)"
    )


def _first(there: Any, here: Any, path: str) -> str:
    """Return the first place where two JSON values differ, as `path is … there and … here`."""
    if fingerprint(there) == fingerprint(here):
        return ""
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = [(f"{path}.{key}", there.get(key), here.get(key)) for key in dict.fromkeys([*there, *here])]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(f"{path}.{at}", a, b) for at, (a, b) in enumerate(zip(there, here, strict=True))]
    else:
        return f"{path} is {_shown(there)} there and {_shown(here)} here"
    return next(found for name, a, b in pairs if (found := _first(a, b, name)))


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return repr(value["name"])
    if isinstance(value, list) and value and all(isinstance(v, dict) and "name" in v for v in value):
        return "[" + ", ".join(str(v["name"]) for v in value) + "]"
    return "none" if value is None else repr(value)
