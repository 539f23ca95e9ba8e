"""Answers with a label by a person or another judge: reading them from a file, whatever its columns and words.

A row holds `prompt, response, label` and may hold `model, language, annotator, id, expected, category, weight`. Columns
of other names are named by a column map, labels of other words by a label map; the usual names and words are known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from demur.benchmarks import _loading
from demur.dedup import folded
from demur.errors import ConfigError, DataError, NotFound
from demur.files import TABLES
from demur.types import LABELS, Expected, Item, Prompt, Response

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "input"),
    "response": ("response", "completion", "answer", "output"),
    "label": ("label", "final_label", "annotation"),
    "model": ("model",),
    "language": ("language", "lang"),
    "annotator": ("annotator",),
    "id": ("id",),
    "expected": ("expected", "prompt_label", "prompt_class"),
    "category": ("category", "type"),
    "weight": ("weight",),
}
"""What a row may hold, and the columns looked for, the first found wins."""

WORDS: Mapping[str, str] = {
    **dict.fromkeys(("compliance", "full_compliance", "comply", "complied", "complies", "answered"), "compliance"),
    **dict.fromkeys(("refusal", "full_refusal", "refuse", "refused", "refuses"), "refusal"),
    **dict.fromkeys(("partial_refusal", "partial", "partial_compliance", "deflection"), "partial_refusal"),
    **dict.fromkeys(("gibberish", "broken", "incoherent"), "gibberish"),
    "is_jailbreak_substring_matching=1": "compliance",
    "is_jailbreak_substring_matching=0": "refusal",
}
"""Words for the labels, without case, a leading number (`2_full_refusal`) and what follows a semicolon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One answer and the label it got."""

    id: str
    prompt: str
    response: str
    label: str
    """One of the labels of the question `refusal`."""
    model: str = ""
    language: str = ""
    """Language code; empty where the file does not say."""
    annotator: str = ""
    expected: Expected | None = None
    """The prompt's class: whether a good model answers; None where it is not known."""
    category: str = ""
    weight: float = 1.0
    """How many answers the row stands for: one over the probability that it was drawn."""

    @property
    def item(self) -> Item:
        """What a judge reads of the row."""
        prompt = Prompt(
            id=self.id, text=self.prompt, expected=self.expected, source="labelled", language=self.language or "en"
        )
        return Item(prompt, Response(prompt_id=self.id, text=self.response, finish="stop"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a file of labelled answers is to be read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Field -> column, where a column has an unusual name."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Label in the file -> label of the question `refusal`; "" leaves such rows out."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Column -> the value that a row must have to be read."""
    language: str = ""
    """Language of the rows that name none."""
    skip_unknown: bool = False
    """Leave rows out whose label is not known, instead of refusing the file."""

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in COLUMNS:
                raise NotFound("field", name, COLUMNS, where="the column map")
        for word, label in self.words.items():
            if label and label not in LABELS["refusal"]:
                raise NotFound("label", label, LABELS["refusal"], where=f"the label map, for {word!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """The labelled answers of a file, and what was left out or assumed while reading it."""

    rows: tuple[Labelled, ...]
    notes: tuple[str, ...] = ()


def read_labelled(path: Path, reading: Reading | None = None) -> LabelledSet:
    """Read labelled answers from a JSONL, CSV or TSV file.

    Where the file names several annotators, one of them `human`, and `reading.where` does not choose, the rows of
    `human` are read and a note says so. Rows without a label are left out, and counted in a note.

    Raises:
        ConfigError: for a missing file, an unknown ending, or a column that is not there.
        DataError: for a malformed row, a label that is not known, or no labelled row at all.
    """
    reading = reading or Reading()
    found = _raw(path)
    known = set().union(*(row.values for row in found))
    columns = _columns(path, reading, known)
    kept = [row for row in found if all(str(row.values.get(k, "")) == v for k, v in reading.where.items())]
    kept, notes = _people(kept, columns, reading)
    unknown: Counter[str] = Counter()
    unlabelled = 0
    rows: list[Labelled] = []
    seen: set[str] = set()
    for number, row in enumerate(kept, start=1):
        word = str(row.values.get(columns["label"]) or "").strip()
        label = label_of(word, reading.words) if word else ""
        if label is None:
            unknown[word] += 1
        elif label:
            made = _labelled(row, columns, label, f"{path.stem}/{number}")
            made = replace(made, language=made.language or reading.language)
            rows.append(made if made.id not in seen else replace(made, id=f"{made.id}#{number}"))
            seen.add(made.id)
        else:
            unlabelled += 1
    if unknown and not reading.skip_unknown:
        raise _unknown(path, unknown)
    left = unlabelled + sum(unknown.values())
    if left:
        notes.append(f"{left} rows without a known label are left out")
    if not rows:
        chosen = ", ".join(f"{k}={v}" for k, v in reading.where.items()) or "none"
        raise DataError(f"{path}: none of its {len(found)} rows is labelled and chosen (where: {chosen})")
    return LabelledSet(rows=tuple(rows), notes=tuple(notes))


def label_of(word: str, words: Mapping[str, str] | None = None) -> str | None:
    """Return the label that a word stands for, "" where it is mapped to nothing, None where it is not known."""
    given = words or {}
    if word in given:
        return given[word]
    plain = re.sub(r"^\d+[\s_.)-]+", "", word.casefold().split(";")[0].strip())
    plain = re.sub(r"[\s-]+", "_", plain)
    return given.get(plain) if plain in given else WORDS.get(plain)


def with_prompts(labelled: LabelledSet, prompts: Sequence[Prompt]) -> LabelledSet:
    """Take class, category and language of each row from the prompt of the same text, where the row has none.

    Texts are compared without case, punctuation and blanks; never by likeness, since contrast sets hold prompts that
    differ in a word and in class. Where one text alone is not in the set and one prompt alone is in no row, all others
    (ten at least) being found, the two are taken for one prompt in two spellings.
    """
    known = {_key(p.text): p for p in prompts}
    asked = {_key(row.prompt) for row in labelled.rows}
    strange, unused = asked - known.keys(), known.keys() - asked
    if len(strange) == len(unused) == 1 and len(known) > 10:
        known[strange.pop()] = known[unused.pop()]
    rows, missing = [], 0
    for row in labelled.rows:
        prompt = known.get(_key(row.prompt))
        missing += prompt is None
        if prompt is not None:
            expected = prompt.expected if prompt.expected in ("comply", "refuse") else None
            row = replace(
                row,
                expected=row.expected or expected,
                category=row.category or prompt.category,
                language=row.language or prompt.language,
            )
        rows.append(row)
    notes = labelled.notes
    if missing:
        notes = (*notes, f"{missing} rows have a prompt that is not in the prompt set: their class is not known")
    return LabelledSet(rows=tuple(rows), notes=notes)


def prompts_beside(path: Path) -> list[Prompt]:
    """Return the prompts of `set.jsonl` that lies beside `set.responses.jsonl`, none where there is no such file.

    Raises:
        DataError: for a malformed row.
    """
    name = path.name.removesuffix(".responses.jsonl")
    beside = path.with_name(f"{name}.jsonl")
    if name == path.name or not beside.is_file():
        return []
    rows = []
    for number, row in enumerate(_loading.read(beside, "jsonl"), start=1):
        values = row.values
        text, word = values.get("prompt"), str(values.get("label", ""))
        if isinstance(text, str):
            rows.append(
                Prompt(
                    id=str(values.get("id") or f"{name}/{number}"),
                    text=text,
                    expected=_loading.MEANINGS.get(word.casefold()),
                    category=str(values.get("category") or ""),
                    language=str(values.get("language") or ""),
                    source=name,
                )
            )
    return rows


def _raw(path: Path) -> list[_loading.Row]:
    kind = TABLES.get(path.suffix.lower())
    if not path.is_file():
        raise ConfigError(f"no file {str(path)!r}; give a JSONL, CSV or TSV file of prompt, response, label")
    if kind is None:
        raise ConfigError(f"{path.name!r} ends in none of {', '.join(TABLES)}; rename it after its format")
    found = list(_loading.read(path, kind))
    if not found:
        raise DataError(f"{path}: no rows; at least one labelled answer is needed")
    return found


def _columns(path: Path, reading: Reading, known: set[str]) -> dict[str, str]:
    """Return the column of each field, "" where the file has none."""
    for name in [*reading.columns.values(), *reading.where]:
        if name not in known:
            raise NotFound("column", name, known, where=str(path))
    columns = {
        name: reading.columns.get(name) or next((c for c in usual if c in known), "") for name, usual in COLUMNS.items()
    }
    for name in ("prompt", "response", "label"):
        if not columns[name]:
            have = ", ".join(sorted(known))
            raise ConfigError(f"{path}: no column for the {name}; there are: {have}. Name it with --column {name}=…")
    return columns


def _people(
    rows: list[_loading.Row], columns: Mapping[str, str], reading: Reading
) -> tuple[list[_loading.Row], list[str]]:
    """Keep the rows that a person labelled, where the file also holds others' and the user did not choose."""
    column = columns["annotator"]
    counts = Counter(str(row.values.get(column, "")) for row in rows) if column else Counter()
    if column in reading.where or len(counts) < 2 or "human" not in counts:
        return rows, []
    listed = ", ".join(f"{name}: {n}" for name, n in counts.most_common())
    note = f"annotators are {listed}; those of human are read (choose with --where {column}=NAME)"
    return [row for row in rows if row.values.get(column) == "human"], [note]


def _labelled(row: _loading.Row, columns: Mapping[str, str], label: str, name: str) -> Labelled:
    def text(field_: str, default: str = "") -> str:
        value = row.values.get(columns[field_]) if columns[field_] else None
        return default if value in (None, "") else str(value)

    prompt, response = (row.values.get(columns[k]) for k in ("prompt", "response"))
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise DataError(f"{row.where}: prompt and response must be texts, got {_kind(prompt)} and {_kind(response)}")
    raw = text("weight", "1")
    try:
        weight = float(raw)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise DataError(f"{row.where}: weight {raw!r}; it is a number above 0, one over the chance of being drawn")
    return Labelled(
        id=text("id", name),
        prompt=prompt,
        response=response,
        label=label,
        model=text("model"),
        language=text("language"),
        annotator=text("annotator"),
        expected=_loading.MEANINGS.get(text("expected").casefold()),
        category=text("category"),
        weight=weight,
    )


def _unknown(path: Path, unknown: Counter[str]) -> DataError:
    shown = ", ".join(f"{word[:40]!r} ({n} rows)" for word, n in unknown.most_common(4))
    more = f" and {len(unknown) - 4} others" if len(unknown) > 4 else ""
    first = next(iter(unknown))[:40]
    return DataError(
        f"{path}: unknown labels {shown}{more}; allowed: {', '.join(LABELS['refusal'])} and common words for them. "
        f'Say what they mean with --map "{first}=refusal", or leave such rows out with --skip-unknown'
    )


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _key(text: str) -> str:
    return folded(text).replace(" ", "")
