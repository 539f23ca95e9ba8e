"""The folder of a mining run: stages that hand over files, each done once, resumed after a kill.

| file | what stands in it |
|---|---|
| `candidates.jsonl` | every candidate and harmful twin that was read or written, as prompts |
| `distinct.jsonl` | those that repeat nothing and stand in no evaluation set |
| `moderated.jsonl` | those that a majority of the judges calls benign, and their harmful twins |
| `scored.jsonl` | `{prompt, d, t, r, refused}` |
| `selected.jsonl` | `Example` rows |
| `trl/` | the same rows in the formats of trl's trainers |
| `dropped.jsonl` | every row that fell out, with stage and reason |
| `card.json` | counts, hashes, settings, seeds |
| `stages.json`, `parts/` | what has been done; work in progress |

A stage that was cut off goes on behind its last whole row. One whose settings have changed is made anew with all that
follow it; other candidates need another folder, or `overwrite`.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from demur.errors import ConfigError
from demur.files import file_sha256, fingerprint, read_json, write_json
from demur.mining.rows import Writer, stream

CANDIDATES, DISTINCT, MODERATED = "candidates.jsonl", "distinct.jsonl", "moderated.jsonl"
SCORED, SELECTED, DROPPED, CARD = "scored.jsonl", "selected.jsonl", "dropped.jsonl", "card.json"
TRL = "trl"
"""The selected rows once more, as `demur.ecosystem.trl_rows` writes them."""
STAGES: Mapping[str, str] = {
    "generate": CANDIDATES,
    "distinct": DISTINCT,
    "moderate": MODERATED,
    "score": SCORED,
    "select": SELECTED,
}
"""Stage -> the file it makes, in order."""


class Folder:
    """A mining run's folder, and what has been done in it."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        if overwrite:
            for name in (*STAGES.values(), DROPPED, CARD, "stages.json"):
                (path / name).unlink(missing_ok=True)
            for inner in ("parts", "rounds"):
                shutil.rmtree(path / inner, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        if (path / "stages.json").is_file():
            self.done = read_json(path / "stages.json")

    def file(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.path / name

    def part(self, name: str) -> Path:
        """Return the path of a work file."""
        return self.path / "parts" / name

    def dropped(self, stage: str) -> Path:
        """Return the file of the rows that a stage dropped."""
        return self.part(f"{stage}.dropped.jsonl")

    def stage(self, name: str, settings: Mapping[str, Any], work: Callable[[], None]) -> bool:
        """Do a stage unless it has been done with the same settings on the same rows; say whether it was done now.

        Raises:
            ConfigError: where the candidates would come from elsewhere than those that stand in the folder.
        """
        names = list(STAGES)
        before = self.done.get(names[names.index(name) - 1], {}).get("fingerprint", "") if name != names[0] else ""
        mark = fingerprint([before, settings])
        known = self.done.get(name)
        if known and known["fingerprint"] == mark and known["done"] and self.file(STAGES[name]).is_file():
            return False
        if known is None or known["fingerprint"] != mark:
            if known is not None and name == "generate":
                raise self._other(known["settings"], settings)
            self._forget(names[names.index(name) :])
            self.done[name] = {"fingerprint": mark, "done": False, "settings": dict(settings)}
            self._save()
        wall, cpu = time.monotonic(), time.process_time()
        work()
        spent = {"wall": round(time.monotonic() - wall, 2), "cpu": round(time.process_time() - cpu, 2)}
        self.done[name] |= {"done": True, "seconds": spent}
        self._save()
        return True

    def gather(self) -> None:
        """Write `dropped.jsonl` from what every stage dropped."""
        with Writer(self.file(DROPPED)) as writer:
            for stage in STAGES:
                if self.dropped(stage).is_file():
                    writer.copy(self.dropped(stage))

    def counts(self) -> dict[str, Any]:
        """Return how many rows each stage left, and how many fell out for which reason."""
        kept = {stage: lines(self.file(name)) for stage, name in STAGES.items() if self.file(name).is_file()}
        fell: dict[str, dict[str, int]] = {}
        for stage in STAGES:
            if self.dropped(stage).is_file():
                fell[stage] = dict(sorted(Counter(str(r["reason"]) for r in stream(self.dropped(stage))).items()))
        return {"kept": kept, "dropped": fell}

    def hashes(self, names: Iterable[str]) -> dict[str, str]:
        """Return the sha256 of files of the folder."""
        return {name: file_sha256(self.file(name)) for name in names if self.file(name).is_file()}

    def _forget(self, stages: Iterable[str]) -> None:
        for stage in stages:
            self.done.pop(stage, None)
            self.file(STAGES[stage]).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                for part in self.part("").iterdir():
                    if part.name.startswith(f"{stage}."):
                        part.unlink()
        self.file(CARD).unlink(missing_ok=True)

    def _save(self) -> None:
        write_json(self.path / "stages.json", self.done)

    def _other(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> ConfigError:
        keys = [key for key in {**old, **new} if fingerprint(old.get(key)) != fingerprint(new.get(key))]
        return ConfigError(
            f"folder {self.path} holds candidates made with other settings ({', '.join(keys) or 'an earlier stage'} "
            "differs); choose another --out, or --overwrite to start anew"
        )


def lines(path: Path) -> int:
    """Count the lines of a file without reading it whole."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
