"""The stages of mining, each a pass over rows on disk: generate, distinct, moderate, score, select."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from demur.dedup import THRESHOLD
from demur.embeddings import Embedder
from demur.engines import Mapper, beside
from demur.errors import ConfigError, DataError
from demur.files import fingerprint, lock, write_json
from demur.mining import choosing
from demur.mining.folder import CANDIDATES, CARD, DISTINCT, MODERATED, SCORED, SELECTED, Folder, lines
from demur.mining.moderation import Evaluation, Voting
from demur.mining.near import Near
from demur.mining.rows import Appender, Dropped, Score, Scorer, Writer, batched, plain, prompts, stream
from demur.mining.selection import Selection
from demur.mining.sources import Source, is_twin
from demur.types import Example, Judge, Part, Prompt, to_json

Progress = Callable[[str, int, int], None]
_SCORE = ("prompt_id", "d", "t", "r", "refused", "unscored")
_BATCH = 16_384
_ASKED = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mining:
    """Everything that decides what is mined."""

    sources: tuple[Source, ...]
    judges: tuple[tuple[Part, Judge], ...]
    """Judges of `prompt_harm`; a majority of them must call a candidate benign."""
    scorer: Scorer | None = None
    """None until the model's own is fitted."""
    selection: Selection = field(default_factory=Selection)
    evaluation: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)
    """Sets that mined prompts must not share anything with, by name."""
    near: float = THRESHOLD
    """Similarity of character n-grams from which a candidate repeats another."""
    embedder: Embedder | None = None
    """A sentence model that evaluation sets are compared by as well; None: by wording alone."""
    earlier: tuple[Path, ...] = ()
    """Files of prompts that were mined before: candidates near one of them are repeats."""
    beside: tuple[Example, ...] = ()
    """Rows that stand in the selected file beside what was mined, so that it can be trained on as it is."""
    export_answered: bool = False
    """Keep harmful prompts that the model answers or nearly answers (d <= 0) among the scored and selected rows. They
    are a list of prompts that get past the model: off unless someone has decided to keep such a list."""
    over: Mapper | None = None
    """The engine that moderates and scores (`engines.opened`), in blocks as here; None: this process."""


def mine(
    what: Mining, out: Path, *, progress: Progress = lambda stage, done, total: None, overwrite: bool = False
) -> dict[str, Any]:
    """Run every stage that has not been run yet; return the card.

    Args:
        what: sources, judges, scorer and selection.
        out: the folder; a run that was cut off goes on where it stopped.
        progress: told of (stage, rows done, rows in all; 0 where that is not known).
        overwrite: start anew whatever stands in the folder.

    Raises:
        ConfigError: for candidates made with other settings, or another process in the folder.
        DataError: where no candidate is left at some stage.
    """
    with lock(out):
        folder = Folder(out, overwrite=overwrite)
        prepare(folder, what, progress)
        folder.stage("select", select_record(what), lambda: choosing.select(folder, what.selection, what.beside))
        folder.gather()
        card = card_of(folder, what)
        write_json(folder.file(CARD), card)
    return card


def prepare(folder: Folder, what: Mining, progress: Progress) -> None:
    """Run the stages up to the scores."""
    evaluation: list[Evaluation] = []

    def held() -> Evaluation:
        if not evaluation:
            evaluation.append(Evaluation(what.evaluation, threshold=what.near, embedder=what.embedder))
        return evaluation[0]

    record = {"sources": [dict(source.record) for source in what.sources]}
    folder.stage("generate", record, lambda: _generate(folder, what, progress))
    kept_away = {"near": what.near, "evaluation": {name: [p.text for p in s] for name, s in what.evaluation.items()}}
    if what.embedder is not None:
        kept_away = {**kept_away, "embedder": what.embedder.name}
    kept_away = {**kept_away, "earlier": [str(lines(path)) for path in what.earlier]}
    folder.stage("distinct", {"mark": _short(kept_away)}, lambda: _distinct(folder, what, held(), progress))
    judges = {"judges": [to_json(part) for part, _ in what.judges]}
    folder.stage("moderate", judges, lambda: _moderate(folder, what, progress))
    scorer = {"scorer": dict(_scorer(what).record), "export_answered": what.export_answered}
    folder.stage("score", scorer, lambda: _score(folder, what, progress))


def _generate(folder: Folder, what: Mining, progress: Progress) -> None:
    seen: set[int] = set()
    with Writer(folder.file(CANDIDATES)) as kept, Writer(folder.dropped("generate")) as dropped:
        for source in what.sources:
            for row in source(folder.part("")):
                if isinstance(row, Dropped):
                    dropped.write(row)
                elif (key := hash(row.id)) in seen:
                    dropped.write(Dropped(id=row.id, stage="generate", reason="id given twice", text=row.text))
                else:
                    seen.add(key)
                    kept.write(row)
                    if not kept.count % 10_000:
                        progress("candidates", kept.count, 0)
    progress("candidates", kept.count, kept.count)
    _some(kept.count, "candidates were read or written", folder)


def _distinct(folder: Folder, what: Mining, evaluation: Evaluation, progress: Progress) -> None:
    """Drop what repeats a kept row or stands in an evaluation set; harmful twins first, then candidates."""
    total = lines(folder.file(CANDIDATES))
    merged: dict[str, str] = {}
    with Writer(folder.file(DISTINCT)) as kept, Writer(folder.dropped("distinct")) as dropped:
        for twins in (True, False):
            index, ids = Near(what.near), list[str]()
            for path in what.earlier:
                for batch in batched((p for p in prompts(path) if is_twin(p) == twins), _BATCH):
                    ids += [p.id for p, t in zip(batch, index.add([p.text for p in batch]), strict=True) if t is None]
            mark = b'"harmful"' if twins else b""
            rows = (p for p in prompts(folder.file(CANDIDATES), mark) if is_twin(p) == twins)
            for batch in batched(rows, _BATCH):
                for prompt, fate, detail in _fates(batch, evaluation, index, ids, merged):
                    if fate:
                        dropped.write(
                            Dropped(id=prompt.id, stage="distinct", reason=fate, detail=detail, text=prompt.text)
                        )
                    else:
                        kept.write(prompt)
                progress("distinct", kept.count + dropped.count, total)
    _some(kept.count, "candidates are left after duplicates and evaluation sets are taken out", folder)


def _fates(
    batch: list[Prompt], evaluation: Evaluation, index: Near, ids: list[str], merged: dict[str, str]
) -> Iterator[tuple[Prompt, str, str]]:
    """Yield (prompt, why it is dropped or "", detail); `ids` and `merged` grow."""
    caught = evaluation.caught(batch)
    for i, prompt in enumerate(batch):
        if not caught[i] and merged.get(prompt.pair) == "":
            caught[i] = "its harmful twin stands in an evaluation set"
    clean = [p for p, why in zip(batch, caught, strict=True) if not why]
    twins = iter(index.add([p.text for p in clean]))
    for prompt, why in zip(batch, caught, strict=True):
        if why:
            if is_twin(prompt):
                merged[prompt.id] = ""
            yield prompt, why, ""
            continue
        twin = next(twins)
        if twin is not None:
            if is_twin(prompt):
                merged[prompt.id] = ids[twin.row]
            yield prompt, "repeats a kept row", f"{ids[twin.row]} (similarity {twin.similarity:.2f})"
        else:
            ids.append(prompt.id)
            other = merged.get(prompt.pair)
            yield (replace(prompt, pair=other, group=prompt.cluster) if other else prompt), "", ""


def _moderate(folder: Folder, what: Mining, progress: Progress) -> None:
    """Ask the judges about every candidate; those that are benign go on with kind and expectation set."""
    judges = tuple((part.name, judge) for part, judge in what.judges)
    total = lines(folder.file(DISTINCT))
    path = folder.part("moderate.votes.jsonl")
    with Appender(path) as votes:
        done = votes.done
        candidates = (p for p in prompts(folder.file(DISTINCT)) if not is_twin(p))
        for batch, said in beside(Voting(judges), batched(_after(candidates, done), _ASKED), what.over):
            votes.write({"id": p.id, "labels": v.labels} for p, v in zip(batch, said, strict=True))
            done += len(batch)
            progress("moderate", done, total)
    with Writer(folder.file(MODERATED)) as kept, Writer(folder.dropped("moderate")) as dropped:
        found = stream(path)
        for prompt in prompts(folder.file(DISTINCT)):
            if is_twin(prompt):
                kept.write(prompt)
                continue
            choosing.passed(prompt, next(found), kept, dropped)
    progress("moderate", total, total)
    _some(kept.count, "candidates are left after moderation", folder)


def _score(folder: Folder, what: Mining, progress: Progress) -> None:
    """Place every row along the boundary; what has no distance is dropped with the reason."""
    total = lines(folder.file(MODERATED))
    path = folder.part("score.jsonl")
    with Appender(path) as scores:
        done = scores.done
        waiting = batched(_after(prompts(folder.file(MODERATED)), done), _ASKED)
        for batch, given in beside(_scorer(what), waiting, what.over):
            if [s.prompt_id for s in given] != [p.id for p in batch]:
                raise DataError(f"the scorer gave {len(given)} scores for {len(batch)} prompts, or in another order")
            scores.write(_withheld(p, s, what.export_answered) for p, s in zip(batch, given, strict=True))
            done += len(batch)
            progress("score", done, total)
    with Writer(folder.file(SCORED)) as kept, Writer(folder.dropped("score")) as dropped:
        for prompt, score in zip(prompts(folder.file(MODERATED)), stream(path), strict=True):
            if score["unscored"]:
                text = "" if score.get("withheld") else prompt.text
                dropped.write(Dropped(id=prompt.id, stage="score", reason=score["unscored"], text=text))
            else:
                kept.write({"prompt": plain(prompt), **{k: score[k] for k in ("d", "t", "r", "refused")}})
    _some(kept.count, "rows have a distance", folder)


def _withheld(prompt: Prompt, score: Score, export: bool) -> dict[str, Any]:
    """Return the row of a score; one of a harmful prompt that is answered or nearly so carries no number."""
    row: dict[str, Any] = {name: getattr(score, name) for name in _SCORE}
    if is_twin(prompt) and not export and not score.unscored and choosing.answered(score.d, score.refused):
        hidden = dict.fromkeys(("d", "t", "r", "refused"))
        return {**row, **hidden, "unscored": choosing.WITHHELD, "withheld": True}
    if not row["unscored"] and (row["d"] is None or row["refused"] is None):
        row["unscored"] = "the scorer gave no distance"
    return row


def _scorer(what: Mining) -> Scorer:
    if what.scorer is None:
        raise ConfigError("mining has no scorer; use demur.boundary_scorer.BoundaryScorer, or any Scorer")
    return what.scorer


def _after(rows: Iterable[Prompt], done: int) -> Iterator[Prompt]:
    """Yield the rows behind the first `done`."""
    for number, row in enumerate(rows):
        if number >= done:
            yield row


def card_of(folder: Folder, what: Mining) -> dict[str, Any]:
    """Return the card of a folder in which every stage has been done."""
    evaluation = Evaluation(what.evaluation, threshold=what.near).hashes
    counts = folder.counts()
    withheld = counts["dropped"].get("score", {}).get(choosing.WITHHELD, 0)
    return {
        "counts": counts,
        "strategies": _yields(folder),
        "selection": {**to_json(what.selection), **choosing.summary(folder)},
        "sources": [dict(source.record) for source in what.sources],
        "judges": [to_json(part) for part, _ in what.judges],
        "scorer": dict(_scorer(what).record),
        "near": what.near,
        "decontaminated_against": evaluation,
        "decontaminated_by": ["wording", *([what.embedder.name] if what.embedder else [])],
        "harmful_answered": {"count": withheld, "exported": what.export_answered},
        "seed": what.selection.seed,
        "sha256": folder.hashes((CANDIDATES, MODERATED, SELECTED)),
        "seconds": {stage: done.get("seconds") for stage, done in folder.done.items()},
    }


def _yields(folder: Folder) -> dict[str, dict[str, int]]:
    """Count, for each strategy, candidates that were written, moderated, and are refused."""
    made: dict[str, Counter[str]] = {}
    for name, kind in ((CANDIDATES, "candidates"), (MODERATED, "moderated")):
        for prompt in prompts(folder.file(name)):
            if strategy := prompt.get("strategy"):
                made.setdefault(strategy, Counter())[kind] += 1
    for row in stream(folder.file(SCORED)):
        told = dict(row["prompt"].get("meta") or ()).get("strategy")
        if told and row["refused"]:
            made.setdefault(told, Counter())["refused"] += 1
    keys = ("candidates", "moderated", "refused")
    return {name: {key: counts[key] for key in keys} for name, counts in sorted(made.items())}


def select_record(what: Mining) -> dict[str, Any]:
    """Return what decides the selection from scored rows."""
    return {**to_json(what.selection), "beside": _short([to_json(e) for e in what.beside])}


def _short(value: object) -> str:
    return fingerprint(value)


def _some(count: int, what: str, folder: Folder) -> None:
    if not count:
        folder.gather()
        raise DataError(f"no {what}; {folder.file('dropped.jsonl')} says why each one fell out")
