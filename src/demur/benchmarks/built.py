"""A benchmark that `demur benchmarks build` made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from demur.errors import ConfigError, DataError
from demur.files import file_sha256
from demur.types import Card, Prompt

_GENERAL = Card(
    title="A set built from mined prompts",
    home="demur",
    licence="as its maker states",
    languages=(),
    size=None,
    cautions=("Its own card, in its folder, says what it was built from.",),
)


class _OwnCard:
    """The card in the folder of an instance; a general one on the class."""

    def __get__(self, instance: Any, owner: type) -> Card:
        if instance is None:
            return _GENERAL
        from demur.mining.building import read_card

        return read_card(instance.folder())


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Prompts near the refusal boundaries of several models, with harmful twins, from a folder that demur built.

    The folder holds `benchmark.jsonl` and `card.json`; the card's checksum is verified on every read.
    """

    path: str
    """The folder."""

    card: ClassVar[Any] = _OwnCard()

    def folder(self) -> Path:
        """Return the folder.

        Raises:
            ConfigError: where there is none.
        """
        folder = Path(self.path)
        if not folder.is_dir():
            raise ConfigError(f"benchmark built: no folder {self.path!r}; set path to one of `demur benchmarks build`")
        return folder

    def details(self) -> dict[str, list[dict[str, Any]]]:
        """Return counts by language and category, models, judges and hashes, as tables.

        Raises:
            ConfigError: for a missing folder.
            DataError: where it holds no built benchmark.
        """
        from demur.mining.building import read_details

        return read_details(self.folder())

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order.

        Raises:
            ConfigError: for a missing folder.
            DataError: where the prompts are not those that the card names.
        """
        from demur.mining.rows import prompts

        file = self.card.files[0]
        path = self.folder() / file.name
        if not path.is_file() or file_sha256(path) != file.sha256:
            raise DataError(f"{path} is missing or is not the file that its card names; build it again")
        yield from prompts(path)
