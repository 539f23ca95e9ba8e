"""Which weights a model has, remembered, so that a run whose answers are all known need not load it. No torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from demur import organism
from demur.cache import opened
from demur.errors import DataError
from demur.types import ModelRef, from_json, to_json

_PACKAGES = ("demur", "torch", "transformers", "tokenizers")
_MACHINE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def known(model: str, revision: str, dtype: str, device: str) -> ModelRef | None:
    """Return the reference of a model that `note` was given before, while its files are the same.

    They are told by path, size and modification time; a reference also depends on the machine (which device and
    dtype are chosen) and on the versions of the packages that load the model.
    """
    cache, stamp = opened(), _stamp(model, revision, dtype, device)
    if cache is None or stamp is None:
        return None
    try:
        row = next(iter(cache.shelf("refs", stamp).take([_KEY]).values()), None)
        return None if row is None else from_json(ModelRef, row, where="the cache")
    except DataError:
        return None


def note(model: str, revision: str, dtype: str, device: str, ref: ModelRef) -> None:
    """Remember the reference of a model that was loaded."""
    cache, stamp = opened(), _stamp(model, revision, dtype, device)
    if cache is not None and stamp is not None:
        cache.shelf("refs", stamp).put(_KEY, to_json(ref))


_KEY = "0" * 32
"""A stamp has a file of its own, with one row."""


def _stamp(model: str, revision: str, dtype: str, device: str) -> Any:
    """Return what decides the reference, as JSON values; None where the model's files are not on this machine."""
    folder = _folder(model, revision)
    try:
        stats = [(f.name, f.stat()) for f in sorted(folder.iterdir()) if f.is_file()] if folder else []
        versions = [importlib.metadata.version(name) for name in _PACKAGES]
    except (OSError, importlib.metadata.PackageNotFoundError):
        return None
    if folder is None or not stats:
        return None
    files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    machine = [platform.node(), *(os.environ.get(name) for name in _MACHINE)]
    return [model, str(folder.resolve()), files, revision, dtype, device, versions, machine]


def _folder(model: str, revision: str) -> Path | None:
    if model in organism.NAMES:
        return organism.path(model)
    folder = Path(model).expanduser()
    if folder.exists() or model.startswith((".", "/", "~")):
        return folder if folder.is_dir() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision or None)
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None
