"""Scored rows on disk -> `Example` rows: the columns in memory, the texts read where they are needed."""

from __future__ import annotations

import json
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from demur.ecosystem import trl_rows
from demur.files import read_rows
from demur.mining.folder import SCORED, SELECTED, TRL, Folder
from demur.mining.moderation import Vote
from demur.mining.rows import Dropped, Writer
from demur.mining.selection import Chosen, Floats, Rows, Scored, Selection, band, choose, nearest
from demur.mining.splits import sides
from demur.types import Example, Prompt, from_json

WITHHELD = "harmful and answered or nearly so: counted, not exported"


def answered(d: float | None, refused: bool | None) -> bool:
    """Say whether a harmful prompt gets past the model, or nearly: no distance above 0, or not refused."""
    return d is None or d <= 0 or not refused


def passed(prompt: Prompt, said: dict[str, Any], kept: Writer, dropped: Writer) -> None:
    """Write a candidate to those that go on, as benign, or to the dropped ones with the judges' labels."""
    verdict = Vote(tuple(said["labels"]))
    if verdict.benign:
        kept.write(replace(prompt, expected="comply", kind=prompt.kind or "borderline"))
    else:
        detail = "; ".join(verdict.labels)
        dropped.write(
            Dropped(id=prompt.id, stage="moderate", reason=verdict.reason, detail=detail[:300], text=prompt.text)
        )


class Table:
    """Columns of `scored.jsonl`, and where each row begins in the file."""

    def __init__(self, folder: Folder) -> None:
        self.path = folder.file(SCORED)
        self.cells: dict[tuple[str, str], int] = {}
        d, r = array("d"), array("d")
        refused, harmful, cell, offset, group = array("b"), array("b"), array("i"), array("q"), array("q")
        at = 0
        with self.path.open("rb") as file:
            for raw in file:
                row = json.loads(raw)
                prompt = row["prompt"]
                d.append(row["d"])
                r.append(np.nan if row["r"] is None else row["r"])
                refused.append(bool(row["refused"]))
                harmful.append(prompt["kind"] == "harmful")
                key = (prompt.get("language", "en"), prompt.get("category", ""))
                cell.append(self.cells.setdefault(key, len(self.cells)))
                offset.append(at)
                name = prompt.get("group") or prompt.get("pair") or prompt["id"]
                group.append(zlib.crc32(name.encode("utf-8", "surrogatepass")))
                at += len(raw)
        self.d, self.r = np.array(d), np.array(r)
        self.refused, self.harmful = np.array(refused, bool), np.array(harmful, bool)
        self.cell, self.offset = np.array(cell, np.int64), np.array(offset, np.int64)
        self.group = np.array(group, np.int64)

    def prompts(self, rows: Rows) -> list[Prompt]:
        """Read the prompts of some rows."""
        return [from_json(Prompt, row["prompt"]) for row in self._read(rows)]

    def texts(self, rows: Rows) -> list[str]:
        """Read the texts of some rows."""
        return [str(row["prompt"]["text"]) for row in self._read(rows)]

    def _read(self, rows: Rows) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        with self.path.open("rb") as file:
            for row in sorted(rows.tolist()):
                file.seek(int(self.offset[row]))
                found[row] = json.loads(file.readline())
        return [found[row] for row in rows.tolist()]


def select(folder: Folder, how: Selection, beside: Sequence[Example] = ()) -> None:
    """Write `selected.jsonl`: benign prompts by the rule, harmful twins with the smallest |d|, and the rows beside.

    The same rows stand in `trl/`, in the formats of trl's trainers.

    Args:
        folder: with a scored file.
        how: the rule and the sizes.
        beside: answered plain prompts and refused harmful ones to train on too, and prompts to hold out, all with what
            the model did. Those that were selected, or whose group is on the other side, are left out.
    """
    table = Table(folder)
    benign = np.flatnonzero(~table.harmful)
    harmful = np.flatnonzero(table.harmful)
    scored = Scored(
        d=table.d[benign],
        r=table.r[benign],
        refused=table.refused[benign],
        cell=table.cell[benign],
        texts=lambda rows: table.texts(benign[rows]),
        group=table.group[benign],
        harmful=table.texts(harmful[:2000]) if how.rule == "near_harmful" else (),
    )
    chosen = choose(scored, how)
    twins = _twins(table, harmful, how)
    strata = (*chosen.strata, *("twin",) * len(twins))
    rows = np.concatenate([benign[chosen.rows], twins])
    made = table.prompts(rows)
    own, kept = sides(made, beside, dev=how.dev, seed=how.seed)
    with Writer(folder.file(SELECTED)) as writer:
        for prompt, row, stratum, side in zip(made, rows.tolist(), strata, own, strict=True):
            label = "refusal" if table.refused[row] else "compliance"
            score = float(table.d[row])
            writer.write(Example(prompt=_marked(prompt, stratum), split=side, label=label, score=score))
        for example, also in zip(beside, kept, strict=True):
            if also:
                writer.write(replace(example, prompt=_marked(example.prompt, "beside"), split=also))
    counts = Counter(f"{e.prompt.kind or 'no kind'}/{s}" for e, s in zip(beside, kept, strict=True) if s)
    with Writer(folder.part("select.summary.jsonl")) as writer:
        told = _summary(table, scored, chosen, len(twins))
        writer.write({**told, "split": dict(Counter(own)), "beside": dict(sorted(counts.items()))})
    if rows.size or any(kept):
        trl_rows.write(read_rows(folder.file(SELECTED), Example), folder.file(TRL))


def summary(folder: Folder) -> dict[str, Any]:
    """Return what the last selection found, for the card."""
    made: dict[str, Any] = json.loads(folder.part("select.summary.jsonl").read_bytes())
    return made


def _twins(table: Table, harmful: Rows, how: Selection) -> Rows:
    """Return the harmful rows with the smallest |d| of each language."""
    names = {number: language for (language, _), number in table.cells.items()}
    spoken = np.array([names[int(c)] for c in table.cell[harmful]])
    parts = [np.zeros(0, np.int64)]
    for language in sorted(set(spoken.tolist())):
        own = harmful[spoken == language]
        parts.append(own[nearest(_values(table.d[own]), how.twins)])
    return np.concatenate(parts)


def _values(d: Floats) -> Floats:
    return np.where(np.isfinite(d), d, np.inf)


def _marked(prompt: Prompt, stratum: str) -> Prompt:
    return replace(prompt, meta=(*prompt.meta, ("stratum", stratum)))


def _summary(table: Table, scored: Scored, chosen: Chosen, twins: int) -> dict[str, Any]:
    names = {number: "/".join(filter(None, key)) for key, number in table.cells.items()}
    flags = scored.refused[chosen.rows]
    return {
        "benign": len(chosen.rows),
        "wanted": chosen.wanted,
        "refused_share": float(flags.mean()) if len(flags) else None,
        "strata": dict(sorted(Counter(chosen.strata).items())),
        "twins": twins,
        "short": {names[cell]: missing for cell, missing in chosen.short.items()},
        "candidates_refused": int(scored.refused.sum()),
        "band_recall": {str(w): band(scored.d, scored.refused, w) for w in (0.5, 1.0, 2.0)},
    }
