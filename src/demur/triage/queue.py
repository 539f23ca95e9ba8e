"""The review queue: a stratified random sample of a log, blind to the judges, labelled by a person in a spreadsheet.

`queue.csv` holds `id, prompt, answer, label, note` in random order; what the judges said stands in the key beside it,
not in the queue, so that it cannot lead the reviewer. Labels already written are never overwritten.
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.errors import ConfigError, DataError
from demur.files import read_json, replace, write_json
from demur.triage.estimate import Stratum

HEADER = ("id", "prompt", "answer", "label", "note")
LABELS: Mapping[str, str] = {
    "over_refusal": "over_refusal",
    "o": "over_refusal",
    "right_refusal": "right_refusal",
    "r": "right_refusal",
    "answered": "answered",
    "a": "answered",
    "unsure": "unsure",
    "u": "unsure",
}
"""What a reviewer may write: refused though it deserves an answer; rightly refused; not refused at all; unsure."""

STRATA: Mapping[str, float] = {
    "refused, judged benign": 0.45,
    "refused, judged harmful": 0.3,
    "refused": 0.5,
    "answered": 0.12,
    "other": 0.3,
}
"""The strata with the spread of labels that is expected in each: the queue is shared out by size times spread."""

LEAST = 20
"""Rows drawn from each stratum at least, where it has them."""
LONGEST = 2000
"""Characters of a prompt or an answer in the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Which rows were drawn from which strata: what turns labels into an estimate."""

    log: str
    """Fingerprint of the log and the draw."""
    sizes: Mapping[str, int]
    """Rows of the log in each stratum."""
    drawn: Mapping[str, str]
    """Stratum of each id in the queue, in the queue's order."""

    @property
    def inclusion(self) -> dict[str, float]:
        """The probability of a row of each stratum to be in the queue."""
        counts = _counts(self.drawn)
        return {name: counts.get(name, 0) / size for name, size in self.sizes.items()}


def draw(strata: Mapping[str, str], size: int, *, log: str, seed: int = 0) -> Key:
    """Draw the queue.

    Args:
        strata: the stratum of each row of the log, by id.
        size: rows to draw; more where the strata's least numbers add to more, all where the log has fewer.
        log: fingerprint of what is drawn from.
        seed: seed of the draw and of the order.
    """
    rows: dict[str, list[str]] = {name: [] for name in STRATA}
    for identifier, name in strata.items():
        rows[name].append(identifier)
    rows = {name: ids for name, ids in rows.items() if ids}
    shares = allocate({name: len(ids) for name, ids in rows.items()}, size)
    rng = random.Random(f"{seed}/{log}")
    picked = {i: name for name, ids in rows.items() for i in rng.sample(ids, shares[name])}
    order = sorted(picked)
    rng.shuffle(order)
    sizes = {name: len(ids) for name, ids in rows.items()}
    return Key(log=log, sizes=sizes, drawn={i: picked[i] for i in order})


def allocate(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Share out the queue by size times expected spread (Neyman), `LEAST` from each stratum, none beyond its size."""
    found = {name: min(size, LEAST) for name, size in sizes.items()}
    while (rest := total - sum(found.values())) > 0:
        weights = {n: sizes[n] * STRATA[n] for n in sizes if found[n] < sizes[n]}
        if not weights:
            break
        whole = sum(weights.values())
        for name in sorted(weights, key=lambda n: -weights[n]):
            more = math.ceil(rest * weights[name] / whole)
            more = min(more, sizes[name] - found[name], total - sum(found.values()))
            found[name] += max(0, more)
    return found


def write_queue(folder: Path, key: Key, texts: Mapping[str, tuple[str, str]], *, overwrite: bool = False) -> Path:
    """Write the queue and its key; an equal one is left as it is, labels and all.

    Args:
        folder: where to.
        key: what was drawn.
        texts: (prompt, answer) of each drawn id, redacted.
        overwrite: write it anew although it holds labels of another draw.

    Raises:
        ConfigError: where the folder's queue holds labels of another draw.
    """
    path, beside = folder / "queue.csv", folder / "queue-key.json"
    if path.is_file() and beside.is_file():
        if read_key(folder) == key:
            return path
        held = 0 if overwrite else sum(1 for label in read_labels(path).values() if label)
        if held:
            raise ConfigError(
                f"{path} holds {held} labels of another draw (other logs, judges, queue size or seed); choose another "
                "--out, or lose them with --overwrite"
            )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for identifier in key.drawn:
        writer.writerow([identifier, *(_cell(part) for part in texts[identifier]), "", ""])
    write_json(beside, key)
    replace(path, text.getvalue().encode("utf-8", "backslashreplace"))
    return path


def read_key(folder: Path) -> Key:
    """Read the key of a queue; raises DataError where there is none or it is malformed."""
    raw = read_json(folder / "queue-key.json")
    try:
        return Key(log=str(raw["log"]), sizes=dict(raw["sizes"]), drawn=dict(raw["drawn"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / 'queue-key.json'} is no key of a queue: {error!r}") from None


def read_labels(path: Path) -> dict[str, str]:
    """Return the label of each id in a queue, "" where there is none yet.

    Raises:
        ConfigError: where the file is missing.
        DataError: for a label that is not one of `LABELS`, a missing column, or an id given twice.
    """
    if not path.is_file():
        raise ConfigError(f"no queue {str(path)!r}; `demur triage` writes queue.csv into its --out folder")
    found: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        sample = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=sample.count))
        if not {"id", "label"} <= set(reader.fieldnames or ()):
            raise DataError(f"{path}: columns id and label are needed; there are: {', '.join(reader.fieldnames or ())}")
        for row in reader:
            word = (row["label"] or "").strip().casefold().replace(" ", "_").replace("-", "_")
            if word and word not in LABELS:
                allowed = ", ".join(dict.fromkeys(LABELS.values()))
                raise DataError(
                    f"{path}:{reader.line_num}: label {row['label']!r} is none of {allowed} (or their initials)"
                )
            if row["id"] in found:
                raise DataError(f"{path}:{reader.line_num}: id {row['id']!r} stands twice")
            found[row["id"]] = LABELS.get(word, "")
    return found


def strata_of(key: Key, labels: Mapping[str, str]) -> tuple[Stratum, ...]:
    """Return what the labels say of each stratum.

    Raises:
        DataError: for a labelled id that was not drawn.
    """
    foreign = [i for i, label in labels.items() if label and i not in key.drawn]
    if foreign:
        raise DataError(f"{len(foreign)} labelled ids were not drawn into this queue, such as {foreign[0]!r}")
    drawn = _counts(key.drawn)
    found = []
    for name, size in key.sizes.items():
        own = [labels.get(i, "") for i, stratum in key.drawn.items() if stratum == name]
        found.append(
            Stratum(
                name=name,
                size=size,
                drawn=drawn.get(name, 0),
                labelled=sum(1 for label in own if label),
                unsure=own.count("unsure"),
                hits=own.count("over_refusal"),
            )
        )
    return tuple(found)


def _counts(drawn: Mapping[str, str]) -> dict[str, int]:
    names: Sequence[str] = list(drawn.values())
    return {name: names.count(name) for name in set(names)}


def _cell(text: str) -> str:
    """Return a text that a spreadsheet shows and does not run as a formula."""
    text = text if len(text) <= LONGEST else text[:LONGEST] + " […]"
    return "'" + text if text[:1] in "=+-@\t\r" else text
