"""A folder that appears whole or not at all: written beside its place, synced, renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from demur.errors import ConfigError
from demur.files import lock, naming

RECORD = "demur.json"
"""Says what an exported folder is; only folders that hold it are ever replaced."""


@contextlib.contextmanager
def staged(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder to write to, which takes the place of `out` when the block ends well.

    After an error `out` is as it was. A killed process leaves a hidden folder `.NAME.partial` beside `out`, which the
    next one empties.

    Raises:
        ConfigError: where `out` is there already (unless it is an export and `overwrite`), or another process writes
            it, or the place cannot be written to.
    """
    out = out.absolute()
    partial, old = (out.with_name(f".{out.name}.{what}") for what in ("partial", "old"))
    with naming(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with lock(partial):
        try:
            if old.exists() and not out.exists():  # killed between the two renames below
                old.rename(out)
            _check_free(out, overwrite)
            _empty(partial)
            yield partial
            with naming(out):
                _sync(partial)
                shutil.rmtree(old, ignore_errors=True)
                if out.exists():
                    out.rename(old)
                partial.rename(out)
                _sync_one(out.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if out.is_dir() and (out / RECORD).is_file():
        if overwrite:
            return
        raise ConfigError(f"folder {out} holds an export already; choose another --out, or replace it with --overwrite")
    raise ConfigError(f"{out} is there and is no export of demur; choose another --out")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
