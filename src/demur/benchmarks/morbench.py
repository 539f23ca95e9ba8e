"""MORBench: over-refusal near the safety boundary, in several languages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from demur.benchmarks import _loading, _rows
from demur.benchmarks.file import File
from demur.errors import ConfigError
from demur.types import Card, CardFile, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Morbench:
    """MORBench: prompts near the safety boundary in several languages, with a map of their columns.

    demur does not know the file's columns: a wrong guess is an error that lists those that are there. Prompts that
    expect an answer are of kind borderline. Rows for which no column says what is expected count in neither rate
    until `expected` or `label` is set, since the file may hold harmful twins.

    Pan et al., *Understanding and Mitigating Overrefusal in LLMs from an Unveiling Perspective of Safety Decision
    Boundary*, EMNLP 2025, arXiv 2505.18325.
    """

    prompt: str = ""
    """Column with the user's message; empty: `text`, else `prompt`."""
    languages: tuple[str, ...] = ()
    """Columns that each hold the message in one language, as `es=prompt_es`; empty: one column, see `prompt`."""
    language: str = ""
    """Column with the language code; empty: `language` if there is one, else English."""
    category: str = ""
    """Column with the category; empty: `category` if there is one."""
    group: str = ""
    """Column with the item behind translations; empty: `group` if there is one."""
    label: str = ""
    """Column that says what is expected; empty: `expected`, else `label`, if there is one."""
    expected: Literal["comply", "refuse", "contested", ""] = ""
    """What rows without a label expect."""
    comply: tuple[str, ...] = ()
    """More label values that mean comply (known: comply, benign, safe, harmless)."""
    refuse: tuple[str, ...] = ()
    """More label values that mean refuse (known: refuse, harmful, unsafe, toxic)."""

    card: ClassVar[Card] = Card(
        title="MORBench",
        home="https://huggingface.co/datasets/Aaron-Pan/MORBench",
        hub="Aaron-Pan/MORBench",
        files=(CardFile(name="morbench.csv"),),
        licence="as its home states",
        languages=("en", "zh", "es"),
        kinds=("borderline", "harmful", ""),
        citation="Pan et al., Understanding and Mitigating Overrefusal in LLMs, EMNLP 2025, arXiv 2505.18325",
        cautions=(
            "demur knows neither its columns nor its languages for certain: look at the file, then map its columns.",
            "demur knows no revision of it: it takes the main branch, and records and keeps what that gave.",
            "demur knows no checksum of its public file: that of the first download is recorded and holds from "
            "then on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: for a malformed row; for a missing column, naming those that are there.
            ConfigError: for a setting that cannot be read.
        """
        path = str(_loading.find(self.card, "", "morbench.csv", "morbench").path)
        if not self.languages:
            return iter(_rows.once(self, (_rows.adopt(prompt, "morbench") for prompt in self._read(path, self.prompt))))
        return iter(_rows.once(self, (prompt for spec in self.languages for prompt in self._translated(path, spec))))

    def _read(self, path: str, column: str) -> Iterator[Prompt]:
        return File(
            path=path,
            prompt=column,
            language=self.language,
            category=self.category,
            group=self.group,
            label=self.label,
            expected=self.expected,
            comply=self.comply,
            refuse=self.refuse,
        )()

    def _translated(self, path: str, spec: str) -> Iterator[Prompt]:
        """Give the prompts of one language's column; the row is the group."""
        code, _, column = spec.partition("=")
        if not code or not column:
            raise ConfigError(f'benchmark morbench: languages holds {spec!r}; write code=column, as in "es=prompt_es"')
        for prompt in self._read(path, column):
            own = _rows.adopt(prompt, "morbench")
            yield replace(own, id=f"{own.id}-{code}", group=own.id, language=code)
