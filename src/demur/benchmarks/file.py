"""Prompts from a file of your own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from demur.benchmarks import _loading
from demur.errors import ConfigError, DataError, nearest
from demur.files import TABLES
from demur.types import Card, Prompt, from_json

_MEANINGS = {**_loading.MEANINGS, "contested": "contested"}
_OPTIONAL = ("kind", "category", "language", "pair", "group", "system", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Prompts from a JSONL, CSV or TSV file, with a map of its columns.

    Without settings it reads demur's own prompt records and rows of `id, prompt, label, category, language,
    source`. Rows without a label expect what `expected` says; where that is empty too they count in neither
    rate and are reported apart. Columns that nothing names are left aside.
    """

    path: str
    """The file."""
    format: str = ""
    """`jsonl`, `csv` or `tsv`; empty: by the file's ending."""
    prompt: str = ""
    """Column with the user's message; empty: `text`, else `prompt`."""
    id: str = ""
    """Column with the id; empty: `id` if there is one, else the file's name and the row's number."""
    label: str = ""
    """Column that says what is expected; empty: `expected`, else `label`, if there is one."""
    expected: str = ""
    """What rows without a label expect: `comply`, `refuse`, `contested` or empty."""
    comply: tuple[str, ...] = ()
    """More label values that mean comply (known: comply, benign, safe, harmless)."""
    refuse: tuple[str, ...] = ()
    """More label values that mean refuse (known: refuse, harmful, unsafe, toxic)."""
    kind: str = ""
    """Column with the kind (plain, borderline, harmful); empty: `kind` if there is one, else harmful where a
    refusal is expected and none elsewhere."""
    category: str = ""
    """Column with the category; empty: `category` if there is one. So too the five below."""
    language: str = ""
    """Column with the language code."""
    pair: str = ""
    """Column with the id of the harmful twin."""
    group: str = ""
    """Column with what is resampled together."""
    system: str = ""
    """Column with the system prompt."""
    source: str = ""
    """Column with the source; where there is none, the file's name without its ending."""

    card: ClassVar[Card] = Card(
        title="Your own file",
        home="demur",
        licence="as the file's owner states",
        languages=(),
        size=None,
        cautions=("demur checks the shape of the rows, not whether their labels are right.",),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order.

        Raises:
            ConfigError: for a missing file, an unknown format, a named column that is not there.
            DataError: for a malformed row (with file and line), an id given twice, an empty file.
        """
        path = Path(self.path)
        if not path.is_file():
            raise ConfigError(f"benchmark file: no file {self.path!r}; set path to a JSONL, CSV or TSV file")
        if self.expected not in ("", "comply", "refuse", "contested"):
            raise ConfigError(
                f"benchmark file: expected={self.expected!r}; allowed: comply, refuse, contested or empty"
            )
        seen: dict[str, str] = {}
        for number, row in enumerate(_loading.read(path, self._format(path)), start=1):
            prompt = self._prompt(row, path.stem, number)
            if prompt.id in seen:
                raise DataError(f"{row.where}: id {prompt.id!r} stands at {seen[prompt.id]} already; ids must differ")
            seen[prompt.id] = row.where
            yield prompt
        if not seen:
            raise DataError(f"{path}: no rows; a benchmark needs at least one prompt")

    def _format(self, path: Path) -> str:
        known = sorted(set(TABLES.values()))
        found = self.format or TABLES.get(path.suffix.lower(), "")
        if found not in known:
            asked = f"format={self.format!r}" if self.format else f"{path.name!r} ends in none of {', '.join(TABLES)}"
            raise ConfigError(f"benchmark file: {asked}; set format to one of {', '.join(known)}")
        return found

    def _prompt(self, row: _loading.Row, stem: str, number: int) -> Prompt:
        """Turn one row into a prompt."""
        values = row.values
        text = values.get(self._column(row, "prompt", "text", "prompt", needed=True))
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{row.where}: the prompt is {text!r}; a text that is not empty is needed")
        name = values.get(self._column(row, "id", "id"))
        expected = self._expected(row)
        made: dict[str, Any] = {"id": str(name) if name not in (None, "") else f"{stem}/{number}", "text": text}
        made |= {"expected": expected, "kind": "harmful" if expected == "refuse" else "", "source": stem}
        for field in _OPTIONAL:
            value = values.get(self._column(row, field, field))
            if value not in (None, ""):
                made[field] = value
        if isinstance(values.get("history"), list):
            made["history"] = values["history"]
        if isinstance(values.get("meta"), list):
            made["meta"] = values["meta"]
        return from_json(Prompt, made, where=row.where)

    def _expected(self, row: _loading.Row) -> str | None:
        """Read what the row expects from its label, else from the setting."""
        column = self._column(row, "label", "expected", "label")
        raw = row.values.get(column)
        if raw is None or raw == "":
            return self.expected or None
        known = _MEANINGS | dict.fromkeys(self.comply, "comply") | dict.fromkeys(self.refuse, "refuse")
        word = str(raw).strip()
        meaning = known.get(word) or known.get(word.casefold())
        if meaning is None:
            raise DataError(
                f"{row.where}: label {word!r} in column {column!r} is not known; allowed: {', '.join(known)}. "
                'Name others with comply=["…"] and refuse=["…"]'
            )
        return meaning

    def _column(self, row: _loading.Row, setting: str, *usual: str, needed: bool = False) -> str:
        """Return the column that a setting names, else the first usual one that the row has, else ""."""
        asked: str = getattr(self, setting)
        if asked and asked not in row.values:
            raise _missing(row.where, f"{setting}={asked!r}", asked, row.values)
        found = asked or next((name for name in usual if name in row.values), "")
        if needed and not found:
            raise _missing(row.where, " or ".join(usual), usual[-1], row.values)
        return found


def _missing(where: str, wanted: str, name: str, values: Mapping[str, Any]) -> DataError:
    near = nearest(name, values)
    hint = f"; did you mean {near!r}?" if near else "."
    return DataError(
        f"{where}: no column {wanted}{hint} There are: {', '.join(values) or 'none'}. "
        "Set prompt=COLUMN, …, as in file:path=FILE,prompt=COLUMN"
    )
