"""The rows of mining and the files they stream through: nothing here holds a whole file in memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from demur.errors import DataError
from demur.files import naming
from demur.types import Prompt, to_json

T = TypeVar("T")
_FIELDS = tuple(field.name for field in fields(Prompt))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """One candidate that went no further, and why."""

    id: str
    stage: str
    """`generate`, `distinct`, `moderate` or `score`."""
    reason: str
    """A short fixed phrase; counts in the card are by stage and reason."""
    detail: str = ""
    text: str = ""
    """Empty where a harmful prompt is withheld."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Where one prompt lies, read by prefill alone."""

    prompt_id: str
    d: float | None
    """Signed distance to the boundary in units of its width; above 0 is the refusing side."""
    t: float | None = None
    """Coordinate along the axis."""
    r: float | None = None
    """Log-odds of opening with a refusal."""
    refused: bool | None = None
    unscored: str = ""
    """Why there is no distance."""


class Scorer(Protocol):
    """Places prompts along a model's boundary."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What decides the scores, as JSON values: model, layer, calibration."""
        ...

    def __call__(self, prompts: Sequence[Prompt]) -> Sequence[Score]:
        """Return one score per prompt, in order."""
        ...


def stream(path: Path, holding: bytes = b"") -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file one by one; only those of lines that hold some bytes.

    Raises:
        DataError: where the file is missing, or a line is no JSON object.
    """
    if not path.is_file():
        raise DataError(f"no file {path}")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if holding not in line or not line.strip():
                continue
            try:
                value = json.loads(line.decode())
            except ValueError as error:
                raise DataError(f"{path}:{number} is not a JSON row: {error}") from None
            if not isinstance(value, dict):
                raise DataError(f"{path}:{number} is not an object; each line is one row")
            yield value


def prompts(path: Path, holding: bytes = b"") -> Iterator[Prompt]:
    """Yield the prompts of a file that mining wrote, one by one; only of lines that hold some bytes.

    Raises:
        DataError: where a row is none that mining writes.
    """
    for row in stream(path, holding):
        yield prompt(row, path)


def prompt(row: dict[str, Any], path: Path) -> Prompt:
    """Return a row that mining wrote as a prompt: quicker than `from_json`, and trusting the types of its values."""
    try:
        pairs = {key: tuple(map(tuple, row[key])) for key in ("history", "meta") if row.get(key)}
        return Prompt(**{**row, "history": (), "meta": (), **pairs})
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} holds a row that is no prompt: {error}; --overwrite makes it anew") from None


def batched(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut rows into lists of at most `size`, read lazily."""
    source = iter(rows)
    while batch := list(islice(source, size)):
        yield batch


def plain(row: Prompt) -> dict[str, Any]:
    """Return a prompt as JSON values."""
    return {name: getattr(row, name) for name in _FIELDS}


def line(row: Any) -> bytes:
    """Write a row as one line."""
    value = plain(row) if type(row) is Prompt else row if type(row) is dict else to_json(row)
    try:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, allow_nan=False) + "\n").encode()


class Writer:
    """Writes rows to a temporary file, which takes its name only when the block ends well: whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Writer:
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb", buffering=1 << 20)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with naming(self.path):
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                self._file.close()
                if kind is None:
                    self._temporary.replace(self.path)
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def write(self, row: Any) -> None:
        """Add one row."""
        with naming(self.path):
            self._file.write(line(row))
        self.count += 1

    def copy(self, path: Path) -> None:
        """Add the lines of another file, as they are."""
        with naming(self.path), path.open("rb") as file:
            for raw in file:
                self._file.write(raw)
                self.count += 1


class Appender:
    """A file that grows by whole batches; after a kill its torn end is cut off and the rest counts as done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Appender:
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self.done = self._mend()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, rows: Iterable[Any]) -> None:
        """Add rows; they are with the operating system before this returns."""
        data = b"".join(map(line, rows))
        with naming(self.path):
            while data:
                data = data[os.write(self._file, data) :]

    def _mend(self) -> int:
        """Cut off what has no end; return the number of whole lines."""
        done = end = at = 0
        while block := os.pread(self._file, 1 << 20, at):
            done += block.count(b"\n")
            last = block.rfind(b"\n")
            end = at + last + 1 if last >= 0 else end
            at += len(block)
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)
        return done


def digest(values: Iterable[str]) -> str:
    """Return 16 hex digits of a set of texts, whatever their order."""
    made = 0
    for value in values:
        made ^= int.from_bytes(hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()[:8])
    return f"{made:016x}"
