"""Texts as vectors, behind one small interface: hashed n-grams without torch, or a sentence model by name."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from demur import registry
from demur.errors import ConfigError, Unavailable

Vectors = NDArray[np.float32]
"""[text, dimension]"""


class Embedder(Protocol):
    """Turns texts into vectors of length 1, so that a dot product is a cosine."""

    @property
    def name(self) -> str:
        """What results are marked with."""
        ...

    @property
    def threshold(self) -> float:
        """The cosine from which two texts count as near."""
        ...

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return [text, dimension], each row of length 1, the same for the same text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shingles:
    """Counts of hashed words, word pairs and character 4-grams, damped by their root: needs numpy alone.

    It sees shared wording, not meaning: a paraphrase in other words is far away, and two languages never meet.
    """

    dimension: int = 1024
    """Number of buckets; fewer mean more chance likeness."""
    name: str = "shingles"
    threshold: float = 0.8

    def __post_init__(self) -> None:
        if self.dimension < 2:
            raise ConfigError(f"embedder shingles: dimension is {self.dimension}; it must be at least 2")

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed texts; an empty one gets the vector of an empty text, of length 1 too."""
        made = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for feature in _features(text):
                value = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
                made[row, (value >> 1) % self.dimension] += 1 if value & 1 else -1
        made = np.sign(made) * np.sqrt(np.abs(made))
        empty = ~made.any(axis=1)
        made[empty, 0] = 1
        return cast(Vectors, made / np.linalg.norm(made, axis=1, keepdims=True))


def embedder(name: str = "shingles") -> Embedder:
    """Return an embedder by name.

    Args:
        name: `shingles` (no torch), or a sentence-transformers model: its hub id or a local folder.

    Raises:
        Unavailable: for a model where the extra `local` is missing, or that cannot be loaded.
    """
    if name in ("", "shingles"):
        return Shingles()
    if gone := registry.missing("local"):
        hint = registry.install_hint("local")
        raise Unavailable(f"embedder {name!r} needs {', '.join(gone)}, not installed: {hint}. 'shingles' needs none")
    from demur.sentence_model import SentenceModel

    return SentenceModel(model=name)


def _features(text: str) -> list[str]:
    words = text.casefold().split()
    whole = f" {' '.join(words)} "
    grams = [whole[i : i + 4] for i in range(max(1, len(whole) - 3))]
    return [*words, *(f"{one} {two}" for one, two in pairwise(words)), *grams]
