"""A content-addressed cache of answers and verdicts: what was made once is not made again in another run folder.

A response is found again by what decides it: the weights' hash and the template, the generator and its settings, the
intervention, the sampling, and the prompt (text, system, history, meta with its prefill; its id too where answers are
drawn at random, since the draw depends on it). A model that cannot say which weights it has, such as one behind a
server without the setting `revision`, is not cached, nor is a judge that asks one. A verdict is found by the judge, its
settings and its code (that of its members too), the prompt and the answer. `RESPONSES` and `VERDICTS` are the code
versions of the two stages. A generator or judge may say `version: ClassVar[int]` and raise it when its results change;
a judge of the package that says none is known by its source. One that says `cacheable: ClassVar[bool] = False` is
never cached.

Responses that ended in an error, and verdicts without a label, are never kept. `states` keeps activations here too.

On disk: one append-only JSONL file for each upstream (`responses/<16 hex>.jsonl`) or judge (`verdicts/…`). A row is
written by a single append under `flock`, with a line end on either side, so that several processes may write, and a
torn write loses its own row and no other.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from demur.errors import ConfigError, DataError
from demur.files import FULL, cache_folder, file_sha256, fingerprint
from demur.types import Item, ModelRef, Part, Prompt, Response, Sampling, Verdict, from_json, to_json

RESPONSES = 1
"""Raise when the decode loop or the rendering of prompts gives other answers than before."""
VERDICTS = 1
"""Raise when what is handed to judges, or made of their replies, changes."""

STAGES = ("responses", "verdicts", "states", "refs")
"""The folders of the cache."""
OFF = "DEMUR_NO_CACHE"
"""Environment variable that switches the cache off; what `--no-cache` sets."""
LABEL = "benchmark"
"""The key in `Prompt.meta` that says which benchmark of a run a prompt came from: no part of what is asked."""

_ROOT = Path(__file__).parent
_HEAD = len('{"key":"')
_KEY = 32
_PACKAGE = re.compile(r"^\s*(?:from|import) demur\.(\w+)", re.MULTILINE)


def opened() -> Cache | None:
    """Return the user's cache (`$DEMUR_CACHE`, else `~/.cache/demur`), or None where `DEMUR_NO_CACHE` is set."""
    return None if os.environ.get(OFF, "") not in ("", "0") else Cache(folder=cache_folder())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Everything kept under one folder."""

    folder: Path

    def answers(
        self,
        *,
        model: ModelRef,
        generator: tuple[Part, Any],
        sampling: Sampling,
        intervention: Part | None = None,
    ) -> Answers | None:
        """Return the kept answers of a model under an intervention, or None where the generator is not cached.

        It is not where its class says so, or where which weights answered is not known.
        """
        part, instance = generator
        if not model.revision or not _cacheable(instance):
            return None
        named = part.settings.get("revision") == model.revision  # as its user says; no hash of the weights
        identity = [
            RESPONSES,
            model if named else replace(model, id=""),
            _generator(part, instance, by_weights=not named, steered=intervention is not None),
            _content(intervention) if intervention else None,
            replace(sampling, samples=1),
        ]
        return Answers(self.shelf("responses", identity), sampling)

    def verdicts(self, part: Part, judge: Any) -> Verdicts | None:
        """Return the kept verdicts of a judge, or None where it, or a model that it asks, is not cached."""
        if not _cacheable(judge):
            return None
        identity = [VERDICTS, part.name, _content(part), _codes(judge), _refs(judge)]
        return Verdicts(self.shelf("verdicts", identity), part.name, judge.questions)

    def shelf(self, stage: str, identity: Any) -> Shelf:
        """Return the file of a stage that holds the rows made by `identity` (JSON values or nouns)."""
        return Shelf(self.folder / stage / f"{fingerprint(identity)}.jsonl")

    def files(self) -> list[Path]:
        """Return the files of the cache; other things in its folder (downloads) are not among them."""
        return sorted(path for stage in STAGES for path in (self.folder / stage).glob("[!.]*"))

    def size(self) -> int:
        """Return the size in bytes."""
        return sum(path.stat().st_size for path in self.files())

    def clear(self) -> int:
        """Remove every kept row and return how many bytes that freed. A run at work only loses what is kept."""
        freed = 0
        for path in self.files():
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
        return freed


@dataclass(eq=False)
class Shelf:
    """One append-only file of rows by key; safe with several processes."""

    path: Path
    _file: int = field(default=-1, init=False, repr=False)

    def take(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the rows of those `keys` that are there; a damaged line is as if it were not."""
        wanted = {key.encode() for key in keys}
        found: dict[str, Any] = {}
        if not wanted:
            return found
        try:
            with self.path.open("rb") as lines:
                for line in lines:
                    key = line[_HEAD : _HEAD + _KEY]
                    if key in wanted and (row := _row(line)) is not None:
                        found[key.decode()] = row
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _unusable(self.path, "read", error) from error
        return found

    def put(self, key: str, row: Any) -> None:
        """Append a row; it is on disk, whole, when this returns.

        Raises:
            DataError: where the disk is full; nothing but this row is lost.
            ConfigError: where the folder cannot be written to.
        """
        text = json.dumps({"key": key, "row": row}, separators=(",", ":"))
        try:
            if self._file < 0:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                left = f"\n{text}\n".encode()
                while left:
                    left = left[os.write(self._file, left) :]
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            raise _unusable(self.path, "write", error) from error

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


@dataclass(eq=False)
class Answers:
    """The kept answers of one upstream."""

    shelf: Shelf
    sampling: Sampling
    _keys: dict[tuple[str, int], str] = field(default_factory=dict, init=False, repr=False)

    def known(self, prompts: Sequence[Prompt]) -> Iterator[Response]:
        """Yield the answers that are kept, in the order of the prompts; `keep` takes the others."""
        drawn = self.sampling.temperature > 0
        for prompt in prompts:
            asked = _asked(prompt, drawn)
            for sample in range(self.sampling.samples):
                self._keys[prompt.id, sample] = _hash([asked, sample])
        rows = self.shelf.take(self._keys.values())
        for prompt in prompts:
            for sample in range(self.sampling.samples):
                row = rows.get(self._keys[prompt.id, sample])
                if row is not None:
                    yield from_json(Response, {"prompt_id": prompt.id, "sample": sample, **row}, where="the cache")

    def keep(self, response: Response) -> None:
        """Keep an answer to one of the prompts that `known` was asked for, unless it ended in an error."""
        key = self._keys.get((response.prompt_id, response.sample))
        if key is not None and response.finish != "error":
            self.shelf.put(key, _without(response, ("prompt_id", "sample")))


@dataclass(eq=False)
class Verdicts:
    """The kept verdicts of one judge."""

    shelf: Shelf
    judge: str
    questions: Sequence[str]
    _keys: dict[tuple[str, int], str] = field(default_factory=dict, init=False, repr=False)

    def known(self, items: Sequence[Item]) -> Iterator[Verdict]:
        """Yield the kept verdicts on those items for which every question has one; `keep` takes the others."""
        for prompt, response in items:
            self._keys[prompt.id, response.sample] = _hash([_whole(prompt), _said(response)])
        rows = self.shelf.take(self._slot(key, q) for key in self._keys.values() for q in self.questions)
        for prompt, response in items:
            key = self._keys[prompt.id, response.sample]
            found = [rows.get(self._slot(key, question)) for question in self.questions]
            if all(row is not None for row in found):
                place = {"prompt_id": prompt.id, "sample": response.sample, "judge": self.judge}
                yield from (from_json(Verdict, {**place, **(row or {})}, where="the cache") for row in found)

    def keep(self, verdict: Verdict) -> None:
        """Keep a verdict on one of the items that `known` was asked for, unless it is unscored."""
        key = self._keys.get((verdict.prompt_id, verdict.sample))
        if key is not None and verdict.label is not None:
            self.shelf.put(self._slot(key, verdict.question), _without(verdict, ("prompt_id", "sample", "judge")))

    def _slot(self, key: str, question: str) -> str:
        return key if len(self.questions) == 1 else key[:-8] + _short(question)


class _Asked(NamedTuple):
    """What a generator is asked, as far as it decides the answer."""

    text: str
    system: str | None
    history: tuple[tuple[str, str], ...]
    meta: list[tuple[str, str]]
    id: str


def _asked(prompt: Prompt, drawn: bool) -> _Asked:
    own = prompt.id if drawn else ""
    return _Asked(prompt.text, prompt.system, prompt.history, [pair for pair in prompt.meta if pair[0] != LABEL], own)


def _whole(prompt: Prompt) -> list[Any]:
    """Return everything that a judge may read of a prompt."""
    named = (prompt.id, prompt.expected, prompt.kind, prompt.source, prompt.category, prompt.language)
    return [*named, prompt.pair, prompt.group, *_asked(prompt, drawn=False)]


def _said(response: Response) -> list[Any]:
    return [response.text, response.reasoning, response.finish, response.n_tokens, response.logprob]


def _generator(part: Part, instance: Any, *, by_weights: bool, steered: bool) -> list[Any]:
    """Return what a generator adds to the model: its settings, but for those that the model's hash stands for."""
    gone = {*getattr(type(instance), "neutral", ())}
    gone |= {"model", "revision", "dtype"} if by_weights else set()
    gone |= {"intervention"} if steered else set()
    kept = {k: v for k, v in part.settings.items() if k not in gone and v not in ("", "auto", None)}
    nested = any(isinstance(value, dict | list | tuple) for value in kept.values()) or part.name.endswith(".py")
    inner = [_codes(one) for one in _inner(instance)]
    return [part.name, kept, _version(type(instance)), part.fingerprint if nested else "", _refs(instance), inner]


def _content(part: Part) -> str:
    return str(part.settings.get("fingerprint") or part.fingerprint or fingerprint(part.settings))


def _version(cls: type) -> int:
    version = getattr(cls, "version", 0)
    return version if isinstance(version, int) else 0


def _inner(instance: Any) -> list[Any]:
    """Return the parts that are settings of a part: its generator, its guard, its members."""
    values = [getattr(instance, name) for name in getattr(type(instance), "__dataclass_fields__", {})]
    flat = [one for value in values for one in (value if isinstance(value, tuple | list) else [value])]
    return [one for one in flat if hasattr(type(one), "__dataclass_fields__")]


def _cacheable(instance: Any) -> bool:
    """Say whether no class, at any depth, is against it, and every model inside says which weights it has."""
    if not getattr(type(instance), "cacheable", True):
        return False
    refs = [one.ref() for one in _inner(instance) if callable(getattr(one, "ref", None))]
    return all(ref.revision for ref in refs) and all(_cacheable(one) for one in _inner(instance))


def _refs(instance: Any) -> list[Any]:
    """Return which weights the models inside a part have, at any depth."""
    inner = _inner(instance)
    found = [[to_json(one.ref()) if callable(getattr(one, "ref", None)) else None, _refs(one)] for one in inner]
    return [each for each in found if each != [None, []]]


def _codes(instance: Any) -> list[Any]:
    """Return the code of a judge and of all judges inside; of other parts, the version that they state."""
    own = _code(instance) if hasattr(instance, "questions") else str(_version(type(instance)))
    return [own, [_codes(one) for one in _inner(instance)]]


def _code(judge: Any) -> str:
    """Return the version that a judge states, or the hash of its source, its helpers and the packages it imports."""
    cls = type(judge)
    if version := _version(cls):
        return str(version)
    path = Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or _ROOT)
    return _source(path) if _ROOT in path.parents else ""  # the fingerprint of a part from outside holds its source


@functools.lru_cache(maxsize=64)
def _source(path: Path) -> str:
    others = {p for p in path.parent.glob("*.py") if p != path and not p.name.startswith("_")}
    files = {p for p in path.parent.rglob("*") if p.is_file() and p not in others}
    for package in set(_PACKAGE.findall(path.read_text("utf-8"))) - {path.parent.name}:
        files |= set((_ROOT / package).rglob("*.py"))
    rows = [f"{p.relative_to(_ROOT)} {file_sha256(p)}" for p in sorted(files) if "__pycache__" not in p.parts]
    return _hash(rows)


def _without(noun: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in to_json(noun).items() if name not in names}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:_KEY]


@functools.lru_cache(maxsize=64)
def _short(text: str) -> str:
    return _hash(text)[:8]


def _row(line: bytes) -> Any:
    try:
        read = json.loads(line)
        return read["row"]
    except (ValueError, TypeError, KeyError):
        return None


def _unusable(path: Path, doing: str, error: OSError) -> DataError | ConfigError:
    if error.errno in FULL or error.errno == errno.EFBIG:
        advice = "free space, or go on without it by --no-cache; finished rows are kept"
        return DataError(f"disk full while writing the cache {path}: {advice}")
    advice = "name another folder in DEMUR_CACHE, or go on without it by --no-cache"
    return ConfigError(f"cannot {doing} the cache {path}: {error.strerror or error}; {advice}")
