"""Files that outlive a process: JSON and JSONL written whole or not at all, hashes, locks.

Rows are appended and flushed one by one, so that a kill loses at most the row being written; that torn last line
is dropped and redone. Everything else is written to a temporary name, synced, and renamed. What the files of a run
are called and when they may be reused is the business of `records`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from demur.errors import ConfigError, DataError
from demur.types import from_json, to_json

T = TypeVar("T")

TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
"""Formats of rows, by the ending of a file's name."""
FULL = {errno.ENOSPC, errno.EDQUOT}
BIG = 16 * 2**20
"""Bytes from which the hash of a file is kept on disk between processes."""


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that are equal for equal values: sha256 of canonical JSON.

    Nouns count as their JSON, a whole float as the integer (0.0 as 0), mappings whatever their order.
    """
    canonical = json.dumps(_canonical(to_json(value)), sort_keys=True, separators=(",", ":"), default=_default)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, remembered by (path, size, modification time), large files also on disk."""
    path = path.resolve()
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def cache_folder() -> Path:
    """Return the folder for what can be made again: `$DEMUR_CACHE`, else `~/.cache/demur`."""
    if named := os.environ.get("DEMUR_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "demur"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: where it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically: a reader sees the old file or the whole new one.

    Raises:
        DataError: where the disk is full, or a value cannot be written as JSON.
    """
    text = _dumps(to_json(value), path, indent=1)
    replace(path, text + b"\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        DataError: where the disk is full.
    """
    replace(path, text.encode())


def read_rows(path: Path, cls: type[T], *, tolerate_torn: bool = False) -> list[T]:
    """Read one `cls` per line.

    Args:
        path: a JSONL file; a missing one is an error unless `tolerate_torn`, then it holds no rows.
        cls: the noun on each line.
        tolerate_torn: drop a last line that is cut off, as a killed process leaves it.

    Raises:
        DataError: for a malformed row, with file and line.
    """
    return [from_json(cls, raw, where=f"{path}:{line}") for line, raw in read_lines(path, tolerate_torn=tolerate_torn)]


def read_lines(path: Path, *, tolerate_torn: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, JSON value) of each line that is not blank; see `read_rows`."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        if tolerate_torn:
            return
        raise DataError(f"no file {path}") from None
    last = len(lines) if lines[-1] else len(lines) - 1
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        torn = number == last and (number == len(lines) or not _parses(line))
        if torn and tolerate_torn:
            return
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number} is not a JSON row: {error}") from None


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write one row per line, atomically.

    Raises:
        DataError: where the disk is full, or a value cannot be written as JSON.
    """
    replace(path, b"".join(_dumps(to_json(row), path) + b"\n" for row in rows))


class RowWriter:
    """Appends rows to a JSONL file, each on disk before `write` returns; a torn last line is cut off first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> RowWriter:
        with naming(self.path):
            mend(self.path)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, row: Any) -> None:
        """Append one row.

        Raises:
            DataError: where the disk is full, or a value cannot be written as JSON.
        """
        line = _dumps(to_json(row), self.path) + b"\n"
        with naming(self.path):
            while line:
                line = line[os.write(self._file, line) :]

    __call__ = write


def mend(path: Path) -> None:
    """Cut off a last line that has no end or is not JSON, as a killed process leaves it."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    before = data.rfind(b"\n", 0, max(whole - 1, 0)) + 1
    if data[before:whole].strip() and not _parses(data[before:whole]):
        whole = before
    if whole < len(data):
        os.truncate(path, whole)


def replace(path: Path, data: bytes) -> None:
    """Write a file atomically: temporary name in the same folder, fsync, rename.

    Raises:
        DataError: where the disk is full.
        ConfigError: where the place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            advice = "free space and run the same command again; finished rows are kept"
            raise DataError(f"disk full while writing {path}: {advice}") from error
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error


@contextlib.contextmanager
def lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone, until the block ends or the process dies (`flock`).

    Args:
        folder: made where it is not there.
        wait: until it is free.

    Raises:
        ConfigError: where another process holds it, unless `wait`.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            advice = "wait until it is done, or choose another --out"
            raise ConfigError(f"folder {folder} is in use by another demur process: {advice}") from None
        yield
    finally:
        os.close(handle)


def _canonical(value: Any) -> Any:
    if type(value) in (str, int, bool, type(None)):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: v if type(v) is str else _canonical(v) for key, v in value.items()}
    return [v if type(v) is str else _canonical(v) for v in value] if isinstance(value, list) else value


def _default(value: Any) -> Any:
    """Write what is no JSON type but stands for one: a path, a numpy number, a set."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be written as JSON")


def _dumps(value: Any, path: Path, indent: int | None = None) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_default, indent=indent)
    except (TypeError, ValueError) as error:
        shown = json.dumps(value, default=str)[:120]
        raise DataError(f"cannot write a row of {path}: {error}; the row begins {shown}") from None
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates, as some servers send them
        return json.dumps(value, allow_nan=False, default=_default, indent=indent).encode()


def _parses(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, mtime: int) -> str:
    key, kept = f"{path}|{size}|{mtime}", cache_folder() / "sha256.jsonl"
    if size >= BIG:
        with contextlib.suppress(DataError, OSError):
            known = {row["key"]: str(row["sha256"]) for _, row in read_lines(kept, tolerate_torn=True)}
            if key in known:
                return known[key]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if size >= BIG:
        with contextlib.suppress(ConfigError, DataError, OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with RowWriter(kept) as write:
                write({"key": key, "sha256": found})
    return found
