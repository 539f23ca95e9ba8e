"""Fetch the public files of prompt sets, and remember what was fetched.

A file comes from its set's home at the revision that the card pins: the hub (through huggingface_hub, imported late)
or a raw file on GitHub. Where a card knows no revision the main branch is taken. Where it knows no checksum, the one
of the first download is kept in `pins.json` under demur's cache folder, with the commit where the home tells it, and
holds from then on.

Environment:
    DEMUR_CACHE: demur's cache folder; files from GitHub are kept there, files from the hub in the hub's own cache.
    HF_HUB_OFFLINE: "1" keeps demur from asking either.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from demur import files
from demur.errors import DataError, Unavailable
from demur.types import Card, CardFile

PATIENCE = 5.0
"""Seconds to wait for an answer before giving up."""

_MAIN = "main"


class Gone(Exception):
    """A file that could not be had; its text is the reason, in a few words."""


def fetch(card: Card, file: CardFile, looked: str, instead: str) -> Path:
    """Return the path of a public file, from a cache or from its home, checked against its checksum.

    Args:
        card: names the home.
        file: which of its files.
        looked: where it was looked for before, as in "no x.csv in DEMUR_DATA=/data".
        instead: what the user may do without a network, as in "Set DEMUR_DATA to a folder with x.csv".

    Raises:
        Unavailable: when it can be had from neither; the message says how to get it.
        DataError: when its checksum is not the card's, nor the one of the first download.
    """
    pin = pins().get(key(card, file), {})
    revision = file.revision or card.revision or str(pin.get("revision", "")) or _MAIN
    try:
        if card.hub:
            path = _from_hub(card, file.name, revision)
        elif card.repository:
            path = _from_github(card, file, revision, str(pin.get("sha256", "")))
        else:
            raise Gone("demur knows no public address for it")
    except Gone as error:
        source = f"{file.name} of {card.hub or card.repository}" if card.hub or card.repository else file.name
        access = f" {card.access}" if card.access else ""
        raise Unavailable(
            f"{card.title} is not here: {looked}, and {source} could not be had ({error}).{access} {instead}"
        ) from None
    check_pinned(card, file, path)
    return path


def check_pinned(card: Card, file: CardFile, path: Path) -> None:
    """Check a fetched file without a known checksum against its first download, or record this one as the first.

    Raises:
        DataError: when it has changed since.
    """
    if file.sha256:
        return
    name, found = key(card, file), files.file_sha256(path)
    pin = pins().get(name) or _record(name, path, found)
    if found != pin["sha256"]:
        raise DataError(_changed(card, file, str(pin["sha256"]), found))


def _record(name: str, path: Path, found: str) -> dict[str, Any]:
    """Record a file's first download, unless another process has just done so; return what is on record."""
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    entry = {"sha256": found, "revision": commit[1] if commit else "", "fetched": today}
    with files.lock(_pin_file().parent, wait=True):
        known = {name: entry} | pins()
        files.write_json(_pin_file(), known)
    return dict(known[name])


def key(card: Card, file: CardFile) -> str:
    """Return the name under which a file's first download is recorded."""
    home = f"hub:{card.hub}" if card.hub else f"github:{card.repository}"
    return f"{home}@{file.revision or card.revision or _MAIN}/{file.name}"


def pins() -> dict[str, Any]:
    """Return what was recorded at first downloads: `sha256`, `revision` and day, by file."""
    return dict(files.read_json(_pin_file())) if _pin_file().is_file() else {}


def _pin_file() -> Path:
    return files.cache_folder() / "benchmarks" / "pins.json"


def _changed(card: Card, file: CardFile, known: str, found: str) -> str:
    return (
        f"{card.title}: {file.name} is not what was fetched first (sha256 {found[:16]}…, recorded {known[:16]}…). "
        f"Its home has changed; to take the new file, remove {key(card, file)!r} from {_pin_file()}"
    )


def _from_hub(card: Card, name: str, revision: str) -> Path:
    """Look in the hub's cache, then ask the hub once."""
    import huggingface_hub
    from huggingface_hub import constants

    where = {"repo_id": card.hub, "filename": name, "revision": revision, "repo_type": "dataset"}
    try:
        return Path(huggingface_hub.hf_hub_download(**where, local_files_only=True))  # type: ignore[call-overload]
    except Exception as error:
        if constants.HF_HUB_OFFLINE:
            raise Gone("it is not in the cache and HF_HUB_OFFLINE is set") from error
    try:
        # One question without retries comes first: a download without a network retries for half a minute.
        url = huggingface_hub.hf_hub_url(card.hub, name, repo_type="dataset", revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE)
        return Path(huggingface_hub.hf_hub_download(**where, etag_timeout=PATIENCE))  # type: ignore[call-overload]
    except Exception as error:
        raise Gone(_line(error)) from error


def _from_github(card: Card, file: CardFile, revision: str, pinned: str) -> Path:
    """Look in demur's cache, then ask GitHub once; a file with a wrong checksum is not kept."""
    import http.client
    import urllib.request

    target = files.cache_folder() / "benchmarks" / card.repository / revision / file.name
    if target.is_file():
        return target
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise Gone("it is not in the cache and HF_HUB_OFFLINE is set")
    path = urllib.parse.quote(f"{card.repository}/{revision}/{file.name}")
    try:
        with urllib.request.urlopen(f"https://raw.githubusercontent.com/{path}", timeout=PATIENCE) as reply:
            data: bytes = reply.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Gone(_line(error)) from error
    found = hashlib.sha256(data).hexdigest()
    if file.sha256 and found != file.sha256:
        raise DataError(mismatch(f"{card.repository}/{file.name}", found, file.sha256))
    if not file.sha256 and pinned and found != pinned:
        raise DataError(_changed(card, file, pinned, found))
    files.replace(target, data)
    return target


def mismatch(name: str, found: str, wanted: str) -> str:
    """Return the message for a file with a wrong checksum."""
    return (
        f"{name}: the file is not the one its card names (sha256 {found[:16]}…, expected {wanted[:16]}…); "
        "fetch it anew or remove it"
    )


def _line(error: Exception) -> str:
    """Return one short line that names the error."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:140]}{'…' if len(text) > 140 else ''}"
