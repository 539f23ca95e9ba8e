"""From the rows of a set's files to prompts: one description for each file, one conversion for all sets.

A `Table` says where a file stands and which columns mean what. Rows of the mirror are already in one shape, so that
for them only the beginning of the ids is described. Ids are `benchmark/own id`, the same from either file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from demur.benchmarks import _loading
from demur.errors import DataError
from demur.types import Benchmark, Expected, Kind, Prompt

Meaning = Expected | None
"""What a good model does with a prompt; None: it counts in neither rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One file of a set: where it stands, and what its columns mean."""

    public: str = ""
    """Its name in the set's home."""
    mirror: str = ""
    """Its name in the folder DEMUR_DATA."""
    prefix: str = ""
    """What the ids of the mirror begin with; it is cut off."""
    part: str = ""
    """What the ids of the public file's rows begin with, as in `hard-`."""
    text: str = "prompt"
    """Column with the user's message."""
    id: str = ""
    """Column with the id; empty: the row's number."""
    start: int = 0
    """Number of the first row."""
    width: int = 3
    """Digits of numbered ids."""
    category: str = ""
    """Column with the category."""
    fixed: str = ""
    """Category of each row, where no column of the public file has it."""
    label: str = ""
    """Column that says what is expected; empty: `expected` holds for each row."""
    expected: Meaning = "comply"
    """What each row expects, where no column says it."""
    meanings: Mapping[str, Meaning] = field(default_factory=lambda: _loading.MEANINGS)
    """What the values of `label` expect."""
    benign: Kind = "borderline"
    """Kind of the rows that do not expect a refusal."""
    language: str = "en"
    """Language of each row of the public file."""
    whole: bool = False
    """Whether the mirror's file holds the rows of the set's other files too."""


class Loaded(NamedTuple):
    """A prompt and the record it was made from."""

    prompt: Prompt
    values: Mapping[str, object]
    mirrored: bool


def prompts(benchmark: Benchmark, *tables: Table) -> list[Prompt]:
    """Return the prompts of some files of a set, in their order.

    Raises:
        Unavailable: when a file cannot be had; the message says how to get it.
        DataError: when a file or a row is not what the card says.
    """
    return once(benchmark, (loaded.prompt for loaded in load_all(benchmark, *tables)))


def load_all(benchmark: Benchmark, *tables: Table) -> list[Loaded]:
    """Return the prompts of some files of a set with their records; see `prompts`."""
    made: list[Loaded] = []
    for table in tables:
        made += load(benchmark, table)
        if table.whole and made[-1].mirrored:
            break
    return made


def load(benchmark: Benchmark, table: Table) -> list[Loaded]:
    """Return the prompts of one file with their records.

    Raises:
        Unavailable: when the file cannot be had; the message says how to get it.
        DataError: when the file or a row is not what the card says.
    """
    source = type(benchmark).__module__.rpartition(".")[2]
    path, entry = _loading.find(benchmark.card, table.mirror, table.public, source)
    kind = _loading.KINDS.get(path.suffix.lower(), "csv")
    rows = list(_loading.read(path, kind))
    if not rows:
        raise DataError(f"{path}: no rows; {benchmark.card.title} needs at least one")
    if entry.rows and len(rows) != entry.rows:
        raise DataError(f"{path}: {len(rows)} rows; {benchmark.card.title} has {entry.rows}")
    make = _mirrored if entry.mirror else _public
    return [
        Loaded(make(source, table, row, number), row.values, entry.mirror)
        for number, row in enumerate(rows, start=table.start)
    ]


def once(benchmark: Benchmark, made: Iterable[Prompt]) -> list[Prompt]:
    """Return the prompts, after a check that there are some and no id is given twice.

    Raises:
        DataError: naming the id; where nothing is left.
    """
    by_id: dict[str, Prompt] = {}
    for prompt in made:
        if prompt.id in by_id:
            raise DataError(f"{benchmark.card.title}: id {prompt.id!r} stands twice; ids must differ")
        by_id[prompt.id] = prompt
    if not by_id:
        raise DataError(
            f"{benchmark.card.title}: no prompt is left; the files at hand hold none of what the settings ask for "
            "(those of the mirror may be samples: a copy of the public file goes before them)"
        )
    return list(by_id.values())


def adopt(prompt: Prompt, source: str) -> Prompt:
    """Return a prompt that was read from a file with mapped columns as one of the benchmark `source`."""
    kind = prompt.kind or ("borderline" if prompt.expected == "comply" else "")
    own = prompt.id.removeprefix(f"{source}/")
    return replace(prompt, id=f"{source}/{own}", source=source, kind=kind)


def _mirrored(source: str, table: Table, row: _loading.Row, _number: int) -> Prompt:
    """Make a prompt of a row of the mirror."""
    own = _cell(row, "id").removeprefix(table.prefix)
    expected = _meaning(row, "label", _loading.MEANINGS)
    return Prompt(
        id=f"{source}/{own}",
        text=_cell(row, "prompt"),
        expected=expected,
        kind="harmful" if expected == "refuse" else table.benign,
        source=source,
        category=_cell(row, "category", needed=False),
        language=_cell(row, "language", needed=False) or table.language,
    )


def _public(source: str, table: Table, row: _loading.Row, number: int) -> Prompt:
    """Make a prompt of a row of the public file."""
    own = _cell(row, table.id) if table.id else f"{number:0{table.width}d}"
    expected = _meaning(row, table.label, table.meanings) if table.label else table.expected
    return Prompt(
        id=f"{source}/{table.part}{own}",
        text=_cell(row, table.text, first=True),
        expected=expected,
        kind="harmful" if expected == "refuse" else table.benign,
        source=source,
        category=_cell(row, table.category, needed=False) if table.category else table.fixed,
        language=table.language,
    )


def _cell(row: _loading.Row, column: str, *, needed: bool = True, first: bool = False) -> str:
    """Return the text of a cell, without space around it; of a list its first item, or all, joined by commas."""
    if needed and column not in row.values:
        raise DataError(f"{row.where}: no column {column!r}; there are: {', '.join(map(str, row.values)) or 'none'}")
    value = row.values.get(column)
    if isinstance(value, list):
        value = next(iter(value), None) if first else ",".join(map(str, value))
    text = "" if value is None else str(value).strip()
    if needed and not text:
        raise DataError(f"{row.where}: column {column!r} is empty; a text is needed")
    return text


def _meaning(row: _loading.Row, column: str, meanings: Mapping[str, Meaning]) -> Meaning:
    """Return what a row's label expects."""
    label = _cell(row, column, needed=False)
    if label.casefold() not in meanings:
        raise DataError(f"{row.where}: label {label!r} in column {column!r}; allowed: {', '.join(meanings)}")
    return meanings[label.casefold()]
