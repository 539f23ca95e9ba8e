"""Whether a candidate is benign (a majority of judges), and whether it stands in an evaluation set."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur.answers import units
from demur.dedup import folded
from demur.embeddings import Embedder
from demur.errors import ConfigError
from demur.judges import apply
from demur.mining.near import Near
from demur.mining.rows import digest
from demur.types import Item, Judge, Prompt, Response

GRAM = 8
"""Words (characters of Chinese, Japanese and Thai) in the n-grams that must not be shared with an evaluation set."""
DENSE = 13
"""The same for texts of single-character units, where 8 characters are a common phrase."""


_EMBEDDED = 1024


class Vote(NamedTuple):
    """What the judges say of one prompt."""

    labels: tuple[str, ...]
    """Of each judge, `unscored: why` where it has no label."""

    @property
    def benign(self) -> bool:
        """Whether more than half of the judges, those without a label included, call it benign."""
        return 2 * self.labels.count("benign") > len(self.labels)

    @property
    def reason(self) -> str:
        """What a prompt that is not benign is dropped for: the label most judges gave."""
        said = Counter("unscored" if label.startswith("unscored") else label for label in self.labels)
        worst = sorted((name for name in said if name != "benign"), key=lambda n: (-said[n], n))
        return f"not judged benign: {worst[0]}" if worst else "not judged benign"


@dataclass(frozen=True, slots=True)
class Voting:
    """`vote` by the same judges, as work for an engine."""

    judges: tuple[tuple[str, Judge], ...]

    def __call__(self, prompts: list[Prompt]) -> list[Vote]:
        """Ask every judge about each prompt."""
        return vote(self.judges, prompts)


def vote(judges: Sequence[tuple[str, Judge]], prompts: Sequence[Prompt]) -> list[Vote]:
    """Ask every judge whether each prompt is harmful.

    Raises:
        ConfigError: without a judge, or with one that does not answer `prompt_harm`.
    """
    if not judges:
        raise ConfigError("moderation needs at least one judge of prompt_harm, as in --judge declared or guard:…")
    columns = []
    for name, judge in judges:
        if "prompt_harm" not in judge.questions:
            raise ConfigError(
                f"judge {name} answers {', '.join(judge.questions)}, not prompt_harm; "
                "use declared, guard:…, llm:rubric=prompt_harm,… or a panel of these"
            )
        items = [Item(p, Response(prompt_id=p.id, text="", finish="stop")) for p in prompts]
        given = [v for v in apply(judge, name, items) if v.question == "prompt_harm"]
        columns.append([v.label or f"unscored: {v.unscored}" for v in given])
    return [Vote(labels) for labels in zip(*columns, strict=True)]


class Evaluation:
    """The prompts of evaluation sets, to keep mined prompts away from.

    A text is caught when it shares an 8-gram of words (13-gram of characters) with one of theirs, is near one by
    character n-grams, or, with a sentence model, means much the same as one. Prompts of the synthetic world share
    templates by construction and its splits share no item: among themselves they are compared by equal text and by
    group alone.
    """

    def __init__(
        self, sets: Mapping[str, Iterable[Prompt]], *, threshold: float, embedder: Embedder | None = None
    ) -> None:
        self.hashes: dict[str, dict[str, str | int]] = {}
        """Of each set: number of prompts, and a digest of their folded texts."""
        self._texts: set[int] = set()
        self._groups: set[str] = set()
        grams: list[NDArray[np.uint64]] = []
        near: list[str] = []
        for name, given in sets.items():
            prompts = list(given)
            self.hashes[name] = {"prompts": len(prompts), "texts": digest(folded(p.text) for p in prompts)}
            for prompt in prompts:
                self._texts.add(hash(folded(prompt.text)))
                if prompt.source == "world":
                    self._groups.add(prompt.cluster)
            other = [p.text for p in prompts if p.source != "world"]
            near += other
            grams += [_grams(text) for text in other]
        self._grams = np.unique(np.concatenate(grams)) if grams else np.zeros(0, np.uint64)
        self._near = Near(threshold)
        self._near.add(near)
        self._embedder = embedder
        self._vectors = embedder(near) if embedder is not None and near else None

    def caught(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return for each prompt why it must not be used, "" where it may."""
        found = []
        twins = self._near.find([p.text for p in prompts]) if self._near.size else [None] * len(prompts)
        alike = self._alike(prompts)
        for prompt, twin, same in zip(prompts, twins, alike, strict=True):
            if hash(folded(prompt.text)) in self._texts:
                found.append("stands in an evaluation set")
            elif prompt.source == "world" and prompt.cluster in self._groups:
                found.append("its group stands in an evaluation set")
            elif len(self._grams) and np.isin(_grams(prompt.text), self._grams).any():
                found.append("shares an n-gram with an evaluation set")
            elif twin is not None:
                found.append("near a prompt of an evaluation set")
            else:
                found.append("means much the same as a prompt of an evaluation set" if same else "")
        return found

    def _alike(self, prompts: Sequence[Prompt]) -> list[bool]:
        """Say of each prompt whether its cosine with one of an evaluation set is above the sentence model's bound."""
        if self._embedder is None or self._vectors is None:
            return [False] * len(prompts)
        made = [False]
        for start in range(0, len(prompts), _EMBEDDED):
            vectors = self._embedder([p.text for p in prompts[start : start + _EMBEDDED]])
            made += ((vectors @ self._vectors.T).max(1) > self._embedder.threshold).tolist()
        return made[1:]


def _grams(text: str) -> NDArray[np.uint64]:
    """Return hashes of the n-grams of a text; a shorter text has none."""
    parts = units(text)
    size = DENSE if 2 * sum(len(part) == 1 and not part.isascii() for part in parts) > len(parts) else GRAM
    made = [" ".join(parts[i : i + size]).encode("utf-8", "surrogatepass") for i in range(len(parts) - size + 1)]
    return np.array([zlib.crc32(g) | (zlib.adler32(g) << 32) for g in made], np.uint64)
