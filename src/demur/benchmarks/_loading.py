"""Find and read the files of prompt sets: local mirror, then the caches, then the set's home.

Environment:
    DEMUR_DATA: a folder that is looked at first. It may hold a set's public files, in a folder with the benchmark's
        name (`or_bench/or-bench-hard-1k.csv`), and mirror files (`xstest_v2.jsonl`, …), one JSON object per line
        with `id, prompt, label, category, language, source`, which may be samples of their sets.
    HF_HUB_OFFLINE: "1" keeps demur from asking the hub or GitHub.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from demur.benchmarks import _fetch
from demur.errors import ConfigError, DataError, Unavailable
from demur.types import Card, CardFile, Expected

KINDS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "txt", ".parquet": "parquet"}
"""What a file is, by its ending."""

MEANINGS: Mapping[str, Expected] = {
    **dict.fromkeys(("comply", "benign", "safe", "harmless"), "comply"),
    **dict.fromkeys(("refuse", "harmful", "unsafe", "toxic"), "refuse"),
}
"""Words, in lower case, that files have for a prompt's class, and what they expect of a good model."""


class Row(NamedTuple):
    """One record of a file, and where it stands."""

    where: str
    """`file:line`, for messages."""
    values: dict[str, Any]


def mirror(name: str) -> Path | None:
    """Return the file `name` in the folder DEMUR_DATA, or None where there is no such folder or file.

    Raises:
        ConfigError: when DEMUR_DATA is set to something that is not a folder.
    """
    folder = os.environ.get("DEMUR_DATA", "")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise ConfigError(f"DEMUR_DATA is {folder!r}, which is not a folder; set it to the folder with the prompt sets")
    path = Path(folder) / name
    return path if path.is_file() else None


class Found(NamedTuple):
    """A file, and what the card says of it."""

    path: Path
    entry: CardFile


def find(card: Card, mirror_file: str, public_file: str, folder: str = "") -> Found:
    """Return a set's file, checked against its card: DEMUR_DATA, caches, home, in this order.

    Args:
        card: names the set's home, the pinned revision and the checksums.
        mirror_file: the file's name in the folder DEMUR_DATA; "" where the mirror has none.
        public_file: the file's name in the set's home; "" where only the mirror has it.
        folder: the folder in DEMUR_DATA where a copy of the public file may stand: the benchmark's name.

    Raises:
        Unavailable: when the file is in none of these places; the message says how to get it.
        DataError: when its checksum is not the card's, nor the one of its first download.
        ConfigError: when DEMUR_DATA is set to something that is not a folder.
    """
    copy = f"{folder}/{Path(public_file).name}" if folder and public_file else ""
    for name, entry in ((copy, card.file(public_file)), (mirror_file, card.file(mirror_file))):
        path = mirror(name) if name else None
        if path:
            check(path, entry.sha256)
            return Found(path, entry)
    for other in (".jsonl", ".csv") if copy.endswith(".parquet") else ():
        if path := mirror(str(Path(copy).with_suffix(other))):
            return Found(path, CardFile(name=public_file))
    names = " or ".join(filter(None, (mirror_file, copy)))
    data = os.environ.get("DEMUR_DATA", "")
    looked = f"no {names} in DEMUR_DATA={data}" if data else "DEMUR_DATA is not set"
    instead = f"Set DEMUR_DATA to a folder with {names}"
    if public_file and (card.hub or card.repository):
        instead += ", or connect to the network once: the file is then cached"
    entry = card.file(public_file or mirror_file)
    path = _fetch.fetch(card, entry, looked, f"{instead}.")
    check(path, entry.sha256)
    return Found(path, entry)


def check(path: Path, sha256: str) -> None:
    """Compare a file with its checksum ("" is not compared).

    Raises:
        DataError: when they differ.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and found != sha256:
        raise DataError(_fetch.mismatch(str(path), found, sha256))


def read(path: Path, kind: str) -> Iterator[Row]:
    """Read the records of a file.

    Args:
        path: the file, UTF-8 (a byte order mark is skipped).
        kind: `jsonl`, `json` (a list of objects), `csv`, `tsv`, `txt` (a prompt on each line) or `parquet`.

    Raises:
        DataError: for bytes that are not UTF-8 and for a malformed line, with the file and the line.
        Unavailable: for parquet where pyarrow is not installed.
    """
    if kind == "parquet":
        return _parquet(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if kind == "json":
        return _json(path, text)
    if kind == "txt":
        lines = enumerate(text.splitlines(), start=1)
        return (Row(f"{path}:{number}", {"prompt": line}) for number, line in lines if line.strip())
    return _jsonl(path, text) if kind == "jsonl" else _table(path, text, "\t" if kind == "tsv" else ",")


def _json(path: Path, text: str) -> Iterator[Row]:
    try:
        records = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        why = f"{error.msg} at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise DataError(f"{path}: not JSON ({why})") from None
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a list of objects, got {type(records).__name__}")
    for number, values in enumerate(records):
        if not isinstance(values, dict):
            raise DataError(f"{path}[{number}]: expected a JSON object, got {type(values).__name__}")
        yield Row(f"{path}[{number}]", values)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise Unavailable(
            f"{path} is a parquet file, and pyarrow, which reads it, is not installed: pip install pyarrow. "
            f"A copy as {path.stem}.jsonl or {path.stem}.csv with the same columns in DEMUR_DATA will do as well."
        ) from None
    records = parquet.read_table(path).to_pylist()
    return (Row(f"{path}[{number}]", values) for number, values in enumerate(records))


def _jsonl(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            why = getattr(error, "msg", "nested too deeply")
            raise DataError(f"{path}:{number}: not a line of JSON ({why}); each line is one object") from None
        if not isinstance(values, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, got {type(values).__name__}")
        yield Row(f"{path}:{number}", values)


def _table(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} cells where the header has {len(header)} ({', '.join(header)})")
            else:
                yield Row(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a row of {delimiter!r}-separated cells ({error})") from None
