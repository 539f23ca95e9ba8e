"""Find and read the files of prompt sets: local mirror, then the hub's cache, then the hub.

Environment:
    DEMUR_DATA: a folder with mirror files (`xstest_v2.jsonl`, …), one JSON object per line with
        `id, prompt, label, category, language, source`. It is looked at first.
    HF_HUB_OFFLINE: "1" keeps demur from asking the hub.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from demur.errors import ConfigError, DataError, Unavailable
from demur.types import Card

PATIENCE = 5.0
"""Seconds to wait for the hub to answer before giving up."""


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


def find(card: Card, mirror_file: str, hub_file: str) -> Path:
    """Return the path of a set's file, checked against its card: mirror, hub cache, hub, in this order.

    Args:
        card: names the hub's set, the pinned revision and the checksums.
        mirror_file: the file's name in the folder DEMUR_DATA.
        hub_file: the file's name in the hub's set.

    Raises:
        Unavailable: when the file is in none of the three places; the message says how to get it.
        DataError: when its checksum is not the card's.
    """
    path = mirror(mirror_file) or _from_hub(card, mirror_file, hub_file)
    name = mirror_file if path.name == mirror_file else hub_file
    check(path, dict(card.files).get(name, ""))
    return path


def check(path: Path, sha256: str) -> None:
    """Compare a file with its checksum ("" is not compared).

    Raises:
        DataError: when they differ.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and found != sha256:
        raise DataError(
            f"{path}: the file is not the one its card names (sha256 {found[:16]}…, expected {sha256[:16]}…); "
            "fetch it anew or remove it"
        )


def _from_hub(card: Card, mirror_file: str, hub_file: str) -> Path:
    """Look in the hub's cache, then ask the hub once."""
    import huggingface_hub
    from huggingface_hub import constants

    where = {"repo_id": card.hub, "filename": hub_file, "revision": card.revision, "repo_type": "dataset"}
    try:
        return Path(huggingface_hub.hf_hub_download(**where, local_files_only=True))  # type: ignore[call-overload]
    except Exception as error:
        reason = "it is not in the cache and HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _line(error)
    if not constants.HF_HUB_OFFLINE:
        try:
            # One question without retries comes first: a download without a network retries for half a minute.
            url = huggingface_hub.hf_hub_url(card.hub, hub_file, repo_type="dataset", revision=card.revision)
            huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE)
            return Path(huggingface_hub.hf_hub_download(**where, etag_timeout=PATIENCE))  # type: ignore[call-overload]
        except Exception as error:
            reason = _line(error)
    folder = os.environ.get("DEMUR_DATA", "")
    looked = f"no {mirror_file} in DEMUR_DATA={folder}" if folder else "DEMUR_DATA is not set"
    raise Unavailable(
        f"{card.title} is not here: {looked}, and {hub_file} of {card.hub} could not be had from the hub ({reason}). "
        f"Set DEMUR_DATA to a folder with {mirror_file}, or connect to the network once: the file is then cached."
    )


def _line(error: Exception) -> str:
    """Return one short line that names the error."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:140]}{'…' if len(text) > 140 else ''}"


def read(path: Path, kind: str) -> Iterator[Row]:
    """Read the records of a file.

    Args:
        path: the file, UTF-8 (a byte order mark is skipped).
        kind: `jsonl`, `csv` or `tsv`.

    Raises:
        DataError: for bytes that are not UTF-8 and for a malformed line, with the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return _jsonl(path, text) if kind == "jsonl" else _table(path, text, "\t" if kind == "tsv" else ",")


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
