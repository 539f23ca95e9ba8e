"""Run folders: what a run holds on disk, and when it may go on, be redone in part, or is refused.

A run folder holds `run.json, prompts.jsonl, responses.jsonl, verdicts.jsonl, metrics.json, timings.jsonl`. Opened
again with an equal upstream (model, prompts, sampling, intervention, generator) it goes on where it was; a changed
judge loses its own verdicts and no other's; a changed upstream is refused, with the field that differs.

A response with finish="error" is no answer: it is asked for again whenever the run is opened again, and with it
its verdicts. All other rows are kept for good.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from demur.checks import Validation
from demur.differences import difference, identity, same
from demur.errors import ConfigError, DataError
from demur.files import (
    RowWriter,
    cache_folder,
    file_sha256,
    fingerprint,
    lock,
    mend,
    read_json,
    read_lines,
    read_rows,
    write_json,
    write_rows,
    write_text,
)
from demur.types import Metric, Prompt, Response, RunSpec, Verdict, from_json, to_json

__all__ = [
    "LoadedRun",
    "OpenRun",
    "RowWriter",
    "RunFolder",
    "cache_folder",
    "file_sha256",
    "fingerprint",
    "lock",
    "read_json",
    "read_lines",
    "read_rows",
    "write_json",
    "write_rows",
    "write_text",
]

Stage = Literal["responses", "verdicts"]

RUN, PROMPTS, RESPONSES, VERDICTS = "run.json", "prompts.jsonl", "responses.jsonl", "verdicts.jsonl"
METRICS, TIMINGS = "metrics.json", "timings.jsonl"
FILES = (RUN, PROMPTS, RESPONSES, VERDICTS, METRICS, TIMINGS)
CHECKS, CHECK, LABELS = "checks.json", "check.json", "labels.jsonl"
"""Which judges are validated; a check on this run's own answers, which goes with them; labels by people, each tied to
the text of its answer, which are never removed."""
FORMAT = "demur run 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """Everything a run folder holds, read only; a run that was cut short holds fewer rows."""

    path: Path
    spec: RunSpec
    prompts: tuple[Prompt, ...]
    responses: tuple[Response, ...]
    verdicts: tuple[Verdict, ...]
    metrics: tuple[Metric, ...]
    timings: tuple[Mapping[str, Any], ...]
    validations: tuple[Validation, ...] = ()
    """Which judges' numbers rest on labelled answers, by language and class of prompts."""
    prompts_sha: str = ""
    """The fingerprint of the prompts, as the folder records it."""

    @property
    def missing(self) -> int:
        """How many (prompt, sample) pairs have no response yet."""
        return len(self.prompts) * self.spec.sampling.samples - len(self.responses)

    def hashes(self) -> tuple[tuple[str, str], ...]:
        """Return (name, sha256) of each of the run's files, its timings left out."""
        held = (self.path / name for name in FILES if name != TIMINGS)
        return tuple((path.name, file_sha256(path)) for path in held if path.is_file())


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that holds a run, or is to hold one."""

    path: Path

    def exists(self) -> bool:
        """Say whether the folder holds a run, finished or not."""
        return (self.path / RUN).is_file()

    @contextlib.contextmanager
    def open(self, spec: RunSpec, prompts: Sequence[Prompt], *, overwrite: bool = False) -> Iterator[OpenRun]:
        """Hold the folder for this process alone and make it ready to go on with `spec`.

        Args:
            spec: what the run is; on resuming, `id` and `created` stay those of the first time.
            prompts: all prompts, in the order in which finished rows stand.
            overwrite: start anew. Removes only files that demur wrote.

        Raises:
            ConfigError: where another process holds the folder, or it holds another run (the message names the
                field that differs), or something that is no run.
            DataError: for no prompts, a repeated id, a malformed file, or a full disk.
        """
        _check_input(spec, prompts)
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file; --out must name a folder")
        state = _State(prompts=fingerprint(list(prompts)), responses="")
        with lock(self.path):
            old = self._read_state()
            if old is None:
                self._refuse_foreign()
            if overwrite:
                self._clear()
                old = None
            if old is not None:
                state.responses = str(old.get("responses", ""))
                spec = self._resume(old, spec, state)
            if old is None or not (self.path / PROMPTS).is_file():
                write_rows(self.path / PROMPTS, prompts)
            run = OpenRun(self.path, spec, prompts, state)
            run.mend()
            yield run

    @staticmethod
    def load(path: Path, *, like: LoadedRun | None = None) -> LoadedRun:
        """Read a run folder, finished or not.

        Args:
            path: the folder.
            like: a run that may hold the same prompts; where their fingerprints say so they are not read again.

        Raises:
            ConfigError: where `path` is no run folder.
            DataError: for a malformed file, with file and line.
        """
        path = Path(path)
        state = RunFolder(path)._read_state()
        if state is None:
            held = f"holds no {RUN}" if path.is_dir() else "does not exist"
            raise ConfigError(f"run folder {path} {held}; `demur measure --out {path}` makes one")
        same = like is not None and like.prompts_sha == state.get("prompts")
        metrics = read_json(path / METRICS) if (path / METRICS).is_file() else []
        checked = read_json(path / CHECKS) if (path / CHECKS).is_file() else []
        return LoadedRun(
            path=path,
            spec=_spec(state, path),
            prompts=like.prompts if like is not None and same else tuple(read_rows(path / PROMPTS, Prompt)),
            prompts_sha=str(state.get("prompts", "")),
            responses=tuple(_latest(read_rows(path / RESPONSES, Response, tolerate_torn=True))),
            verdicts=tuple(_latest(read_rows(path / VERDICTS, Verdict, tolerate_torn=True))),
            metrics=tuple(from_json(Metric, row, where=str(path / METRICS)) for row in metrics),
            timings=tuple(row for _, row in read_lines(path / TIMINGS, tolerate_torn=True)),
            validations=tuple(from_json(Validation, row, where=str(path / CHECKS)) for row in checked),
        )

    def _read_state(self) -> dict[str, Any] | None:
        """Return what run.json holds, or None where there is none."""
        path = self.path / RUN
        if not path.is_file():
            return None
        state = read_json(path)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise DataError(f"{path} was not written by this version of demur; choose another --out")
        return state

    def _refuse_foreign(self) -> None:
        own = (*FILES, CHECKS, CHECK, LABELS)
        foreign = sorted(p.name for p in self.path.iterdir() if p.name not in own and not _temporary(p))
        if foreign:
            shown = ", ".join(foreign[:3]) + (" and others" if len(foreign) > 3 else "")
            raise ConfigError(f"folder {self.path} holds no run but other files ({shown}); choose another --out")

    def _clear(self) -> None:
        """Remove the files of a run, run.json last; all others stay."""
        for path in sorted(self.path.iterdir(), key=lambda path: path.name == RUN):
            if path.name in (*FILES, CHECKS, CHECK) or _temporary(path):
                path.unlink()

    def _resume(self, old: dict[str, Any], spec: RunSpec, state: _State) -> RunSpec:
        """Refuse a changed upstream; drop the verdicts that no longer hold; return the spec to go on with."""
        kept = _spec(old, self.path)
        if changed := difference(kept, spec, same_prompts=old.get("prompts") == state.prompts):
            advice = "choose another --out, or start anew with --overwrite"
            raise ConfigError(f"folder {self.path} holds another run: {changed}; {advice}")
        held = {part.name for part in spec.judges if any(same(part, other) for other in kept.judges)}
        if state.responses and state.responses != _hash(self.path / RESPONSES):
            held = set()  # the answers are not those that were judged
        self._drop_verdicts(held)
        if [identity(p) for p in kept.judges] != [identity(p) for p in spec.judges]:
            (self.path / METRICS).unlink(missing_ok=True)
        return dataclasses.replace(spec, id=kept.id, created=kept.created)

    def _drop_verdicts(self, judges: set[str]) -> None:
        """Keep only the verdicts of `judges` on responses that will not be asked for again."""
        rows = [row for _, row in read_lines(self.path / VERDICTS, tolerate_torn=True)]
        answers = [row for _, row in read_lines(self.path / RESPONSES, tolerate_torn=True)]
        finish = {(r.get("prompt_id"), r.get("sample", 0)): r.get("finish") for r in answers}
        final = {key for key, how in finish.items() if how != "error"}
        kept = [v for v in rows if v.get("judge") in judges and (v.get("prompt_id"), v.get("sample", 0)) in final]
        if any(v.get("judge") not in judges for v in rows):  # one on a failed answer says nothing that a rate rests on
            (self.path / METRICS).unlink(missing_ok=True)
        if len(kept) < len(rows):
            write_rows(self.path / VERDICTS, kept)


@dataclass(slots=True)
class _State:
    """What run.json says beside the spec: the prompts' fingerprint, and the finished responses' hash or ""."""

    prompts: str
    responses: str


class OpenRun:
    """A run folder held by this process: rows are appended to it, stages finished."""

    def __init__(self, path: Path, spec: RunSpec, prompts: Sequence[Prompt], state: _State) -> None:
        self.path = path
        self.spec = spec
        self.prompts = tuple(prompts)
        self._state = state

    def mend(self) -> None:
        """Write run.json, cut off torn last lines, and remove what an interrupted write left behind."""
        for path in self.path.iterdir():
            if _temporary(path):
                path.unlink()
        for name in (RESPONSES, VERDICTS, TIMINGS):
            mend(self.path / name)
        self._write_state()

    def responses(self) -> list[Response]:
        """Return the answers given so far, one per (prompt, sample), without those that ended in an error."""
        rows = _latest(read_rows(self.path / RESPONSES, Response, tolerate_torn=True))
        return [row for row in rows if row.finish != "error"]

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts that still hold, one per (judge, question, prompt, sample)."""
        return _latest(read_rows(self.path / VERDICTS, Verdict, tolerate_torn=True))

    @contextlib.contextmanager
    def appending(self, stage: Stage) -> Iterator[Callable[[Any], None]]:
        """Give a writer whose rows are on disk when `write(row)` returns; the first voids what rests on the stage."""
        with RowWriter(self._file(stage)) as append:
            begun = False

            def write(row: Any) -> None:
                nonlocal begun
                if not begun:
                    self.void(stage)
                    begun = True
                append(row)

            yield write

    def void(self, stage: Stage) -> None:
        """Forget what rests on the rows of a stage that is about to change: the metrics, and that it was finished."""
        (self.path / METRICS).unlink(missing_ok=True)
        if stage == "responses" and self._state.responses:
            self._state.responses = ""
            self._write_state()

    def finish(self, stage: Stage, rows: Iterable[Response] | Iterable[Verdict] | None = None) -> None:
        """Rewrite a stage's rows in the order of the prompts, atomically.

        Args:
            stage: the stage that is complete.
            rows: its rows; without, those on disk. Verdicts stand by judge, then prompt, then sample.

        Raises:
            DataError: for a repeated row, a row of no prompt, or a prompt without its responses.
        """
        found: list[Any] = self._rows(stage) if rows is None else list(rows)
        place = {prompt.id: at for at, prompt in enumerate(self.prompts)}
        judges = {part.name: at for at, part in enumerate(self.spec.judges)}
        self._check(stage, found, place)
        found.sort(key=lambda row: (judges.get(getattr(row, "judge", ""), 0), place[row.prompt_id], row.sample))
        write_rows(self._file(stage), found)
        if stage == "responses":
            self._state.responses = _hash(self._file(stage))
            self._write_state()

    def write_metrics(self, metrics: Iterable[Metric], validations: Iterable[Validation] = ()) -> None:
        """Write metrics.json, and checks.json with what its judges' numbers rest on."""
        write_json(self.path / METRICS, list(metrics))
        if rows := list(validations):
            write_json(self.path / CHECKS, rows)

    def loaded(
        self,
        responses: Iterable[Response],
        verdicts: Iterable[Verdict],
        metrics: Iterable[Metric],
        validations: Iterable[Validation] = (),
    ) -> LoadedRun:
        """Return what `RunFolder.load` would read once every stage is finished, without reading it."""
        return LoadedRun(
            path=self.path,
            spec=_spec({"spec": to_json(self.spec)}, self.path),
            prompts=self.prompts,
            prompts_sha=self._state.prompts,
            responses=tuple(responses),
            verdicts=tuple(verdicts),
            metrics=tuple(metrics),
            validations=tuple(validations),
            timings=tuple(row for _, row in read_lines(self.path / TIMINGS, tolerate_torn=True)),
        )

    def timing(self, *, stage: str, seconds: float, rows: int = 0, tokens: int = 0, cost: float = 0.0) -> None:
        """Append how long a stage took to timings.jsonl, and what it cost where prices are known."""
        row = {"stage": stage, "seconds": round(seconds, 3), "rows": rows, "tokens": tokens}
        with RowWriter(self.path / TIMINGS) as write:
            write(row | ({"cost": round(cost, 6)} if cost else {}))

    def _file(self, stage: Stage) -> Path:
        return self.path / {"responses": RESPONSES, "verdicts": VERDICTS}[stage]

    def _rows(self, stage: Stage) -> list[Any]:
        cls: type[Any] = Response if stage == "responses" else Verdict
        return _latest(read_rows(self._file(stage), cls, tolerate_torn=True))

    def _check(self, stage: Stage, rows: Sequence[Any], place: Mapping[str, int]) -> None:
        seen = set()
        for row in rows:
            key = _key(row)
            if row.prompt_id not in place:
                raise DataError(f"{stage} hold a row of {row.prompt_id!r}, which is no prompt of {self.path}")
            if key in seen:
                raise DataError(f"{stage} of {self.path} hold two rows of {key}")
            seen.add(key)
        wanted = len(self.prompts) * self.spec.sampling.samples
        if stage == "responses" and len(rows) != wanted:
            by = self.spec.generator.name
            raise DataError(f"generator {by} gave {len(rows)} answers where {wanted} were asked for ({self.path})")

    def _write_state(self) -> None:
        state = {
            "format": FORMAT,
            "spec": self.spec,
            "prompts": self._state.prompts,
            "responses": self._state.responses,
        }
        write_json(self.path / RUN, state)


def _check_input(spec: RunSpec, prompts: Sequence[Prompt]) -> None:
    named = ", ".join(part.name for part in spec.benchmarks) or "none"
    if not prompts:
        raise DataError(f"no prompts to measure on; benchmarks: {named}")
    for what, names in (("prompt id", [p.id for p in prompts]), ("judge", [part.name for part in spec.judges])):
        name, times = Counter(names).most_common(1)[0] if names else ("", 1)
        if times > 1:
            raise DataError(f"{what} {name!r} occurs {times} times; it must be unique in a run (benchmarks: {named})")


def _temporary(path: Path) -> bool:
    return path.suffix == ".tmp" and any(path.name.startswith(f".{name}.") for name in FILES)


def _spec(state: dict[str, Any], path: Path) -> RunSpec:
    return from_json(RunSpec, state.get("spec"), where=str(path / RUN))


def _hash(path: Path) -> str:
    return file_sha256(path)[:16] if path.is_file() else ""


def _key(row: Response | Verdict) -> tuple[Any, ...]:
    extra = (row.judge, row.question) if isinstance(row, Verdict) else ()
    return (*extra, row.prompt_id, row.sample)


def _latest(rows: Iterable[Any]) -> list[Any]:
    """Keep the last row of each key, where its first stood."""
    return list({_key(row): row for row in rows}.values())
