"""A benchmark from several models' mined prompts: benign ones near their boundaries, with harmful twins, and a card.

A prompt's rank is the mean over models of s = exp(−d²/2), 0 where a model did not score it: what lies near several
boundaries stands before what lies near one alone, so that the set is not fitted to one model. Groups that stand in
data to train on are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from demur.dedup import folded
from demur.embeddings import Shingles
from demur.errors import ConfigError, DataError
from demur.files import file_sha256, read_json, write_json
from demur.mining.folder import CARD, SCORED
from demur.mining.rows import Writer, digest, prompt, stream
from demur.mining.selection import relevant
from demur.types import Card, CardFile, Prompt, from_json, to_json

PROMPTS = "benchmark.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """What a benchmark is built with."""

    name: str
    per_cell: int = 50
    """Benign prompts for each language and category."""
    balance: float = 0.7
    """Weight of nearness against diversity."""
    least_models: int = 1
    """How many of the models must have scored a prompt."""
    licence: str = ""
    """As its maker states; empty: not stated."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ConfigError(f"the benchmark's name is {self.name!r}; give a short name without slashes")
        if self.per_cell < 1 or self.least_models < 1 or not 0 <= self.balance <= 1:
            raise ConfigError("a benchmark needs per_cell and least_models of at least 1, and balance from 0 to 1")


def build(folders: Sequence[Path], how: Building, out: Path, *, training: Sequence[Path] = ()) -> Card:
    """Write `benchmark.jsonl` and `card.json` from mined folders; return the card.

    Args:
        folders: of `demur mine`, one for each model.
        how: sizes and name.
        out: the folder to write.
        training: JSONL files of examples whose groups must not stand in the benchmark.

    Raises:
        DataError: where a folder holds no finished mining run, or nothing is left.
    """
    if len(folders) < how.least_models or not folders:
        raise ConfigError(f"{len(folders)} mined folders given, at least {max(1, how.least_models)} are needed")
    barred = {_group(_prompt_of(row, path)) for path in training for row in stream(path)}
    benign, twins, records = _read(folders)
    kept = {k: v for k, v in benign.items() if len(v[1]) >= how.least_models and _group(v[0]) not in barred}
    if not kept:
        raise DataError(f"no benign prompt of {len(benign)} is left: {len(barred)} groups stand in the training data")
    chosen = _choose(kept, len(folders), how)
    used = list(dict.fromkeys(p.pair for p in chosen if p.pair in twins))
    rows = [_row(p, how.name, {p.pair: twins[p.pair].id} if p.pair in twins else {}) for p in chosen]
    rows += [_row(twins[pair], how.name, {}) for pair in used]
    out.mkdir(parents=True, exist_ok=True)
    with Writer(out / PROMPTS) as writer:
        for row in rows:
            writer.write(row)
    card = _card(rows, how, out / PROMPTS, records)
    extra = {"models": records, "barred_groups": len(barred), "texts": digest(folded(p.text) for p in rows)}
    extra |= {"counts": _counts(rows)}
    write_json(out / CARD, {"card": to_json(card), "built": {**extra, "settings": to_json(how)}})
    return card


def read_card(folder: Path) -> Card:
    """Read the card of a built benchmark.

    Raises:
        DataError: where the folder holds none.
    """
    return from_json(Card, _held(folder)["card"], where=str(folder / CARD))


def read_details(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what a built benchmark was made from, as tables: counts by language and category, models, judges, hashes.

    Raises:
        DataError: where the folder holds no built benchmark.
    """
    held = _held(folder)
    built = held["built"]
    models, judges = [], list[dict[str, Any]]()
    for record in built["models"]:
        scorer = record["scorer"]
        model = scorer.get("model") or {}
        where = {"boundary": scorer.get("kind"), "layer": scorer.get("layer")}
        models.append({"model": model.get("id", record["folder"]), "revision": model.get("revision", ""), **where})
        judges += [j for j in record["judges"] if j not in judges]
    told = [{"name": j["name"], "settings": j["settings"], "fingerprint": j.get("fingerprint", "")} for j in judges]
    hashes = [{"of": file["name"], "sha256": file["sha256"]} for file in held["card"]["files"]]
    hashes += [{"of": "texts, folded", "sha256": built["texts"]}]
    for record in built["models"]:
        hashes += [{"of": f"{record['folder']}/{name}", "sha256": value} for name, value in record["sha256"].items()]
    return {"counts": built.get("counts", []), "models": models, "judges": told, "hashes": hashes}


def _held(folder: Path) -> dict[str, Any]:
    held = read_json(folder / CARD)
    if not isinstance(held, dict) or "card" not in held or "built" not in held:
        raise DataError(f"{folder / CARD} is no benchmark's card; build one with `demur benchmarks build`")
    return held


def _counts(rows: Sequence[Prompt]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        found.setdefault((row.language, row.category), Counter())[row.kind] += 1
    kinds = sorted({row.kind for row in rows})
    return [
        {"language": language, "category": category, **{kind: counts[kind] for kind in kinds}}
        for (language, category), counts in sorted(found.items())
    ]


def _read(
    folders: Sequence[Path],
) -> tuple[dict[str, tuple[Prompt, list[float]]], dict[str, Prompt], list[dict[str, Any]]]:
    """Return (folded text -> prompt, its scores), the harmful twins by id, and a record of every folder."""
    benign: dict[str, tuple[Prompt, list[float]]] = {}
    twins: dict[str, Prompt] = {}
    records = []
    for folder in folders:
        if not (folder / CARD).is_file() or not (folder / SCORED).is_file():
            raise DataError(f"{folder} holds no finished mining run; make one with `demur mine --out {folder}`")
        card = read_json(folder / CARD)
        scorer = {key: card["scorer"].get(key) for key in ("model", "layer", "kind")}
        records.append(
            {
                "folder": folder.name,
                "scorer": scorer,
                "judges": card["judges"],
                "sha256": card["sha256"],
                "exported": card.get("harmful_answered", {}).get("exported", False),
            }
        )
        for row in stream(folder / SCORED):
            made = prompt(row["prompt"], folder / SCORED)
            if made.kind == "harmful":
                twins.setdefault(made.id, made)
            else:
                benign.setdefault(f"{made.language} {folded(made.text)}", (made, []))[1].append(row["d"])
    return benign, twins, records


def _choose(kept: dict[str, tuple[Prompt, list[float]]], models: int, how: Building) -> list[Prompt]:
    cells: dict[tuple[str, str], list[tuple[float, str, Prompt]]] = {}
    for made, distances in kept.values():
        score = sum(math.exp(-(d**2) / 2) for d in distances) / models
        cells.setdefault((made.language, made.category), []).append((-score, made.id, made))
    chosen: list[Prompt] = []
    embed = Shingles(dimension=512)
    for _, rows in sorted(cells.items()):
        pool = sorted(rows, key=lambda row: row[:2])[: 5 * how.per_cell]
        score_of = np.array([-value for value, _, _ in pool])
        taken = relevant(score_of, embed([p.text for _, _, p in pool]), how.per_cell, how.balance)
        chosen += [pool[i][2] for i in taken.tolist()]
    return chosen


def _row(row: Prompt, name: str, pairs: dict[str, str]) -> Prompt:
    """Return a prompt as it stands in the benchmark; the world's keep source and meta, which their oracle needs."""
    keep = row.source == "world"
    expected = row.expected or "comply"
    return replace(
        row, pair=pairs.get(row.pair, ""), group=_group(row), expected=expected,
        source="world" if keep else name, kind=row.kind or "borderline",
    )  # fmt: skip


def _card(rows: Sequence[Prompt], how: Building, path: Path, records: Sequence[dict[str, Any]]) -> Card:
    models = _models(records)
    judges = sorted({str(j["name"]) for r in records for j in r["judges"]})
    return Card(
        title=f"{how.name}: prompts near the refusal boundary of {models}",
        home="demur",
        licence=how.licence,
        files=(CardFile(name=PROMPTS, sha256=file_sha256(path), rows=len(rows)),),
        languages=tuple(sorted({p.language for p in rows})),
        size=len(rows),
        kinds=tuple(sorted({p.kind for p in rows})),
        cautions=(
            f"Built by demur from mined prompts; benign by a majority of {', '.join(judges)}, not read by people.",
            f"Chosen near the boundaries of {models}: rates on it are not rates on ordinary traffic.",
            *_missing(rows, records),
        ),
        judge="oracle" if {p.source for p in rows} == {"world"} else "classifier",
    )


def _missing(rows: Sequence[Prompt], records: Sequence[dict[str, Any]]) -> list[str]:
    """Say what the harmful side lacks."""
    told = []
    withheld = [r for r in records if not r.get("exported")]
    if withheld:
        told.append(
            f"Harmful prompts that {_models(withheld)} answered or nearly answered were withheld, so the held rate on "
            "it is high by construction."
        )
    alone = Counter(p.language for p in rows if p.kind != "harmful" and not p.pair)
    if alone:
        listed = ", ".join(f"{language} {count}" for language, count in sorted(alone.items()))
        told.append(f"Benign prompts without a harmful twin: {listed}.")
    return told


def _models(records: Sequence[dict[str, Any]]) -> str:
    return ", ".join(str((r["scorer"].get("model") or {}).get("id", r["folder"])) for r in records)


def _group(row: Prompt) -> str:
    return row.group or row.pair or row.id


def _prompt_of(row: dict[str, Any], path: Path) -> Prompt:
    return prompt(row.get("prompt", row), path)
