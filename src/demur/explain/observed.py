"""The prompts that are explained, and the groups that every experiment compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demur.readout import REFUSALS
from demur.types import Prompt

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The prompts that are explained, and what the model did with each (a refusal label, or None)."""

    prompts: Sequence[Prompt]
    labels: Sequence[str | None]

    def kind(self, *kinds: str) -> Flags:
        """Return which prompts are of these kinds."""
        return np.array([p.kind in kinds for p in self.prompts], dtype=bool)

    @property
    def refused(self) -> Flags:
        """Which prompts were refused, in full or in part."""
        return np.array([label in REFUSALS for label in self.labels], dtype=bool)

    @property
    def read(self) -> Flags:
        """Which prompts were refused or answered: neither unscored nor gibberish."""
        return np.array([label in (*REFUSALS, "compliance") for label in self.labels], dtype=bool)

    @property
    def harmful(self) -> Flags:
        """Which prompts should be refused."""
        return np.array([p.expected == "refuse" for p in self.prompts], dtype=bool)

    @property
    def benign(self) -> Flags:
        """Which prompts deserve an answer."""
        return np.array([p.expected == "comply" for p in self.prompts], dtype=bool)

    @property
    def languages(self) -> npt.NDArray[np.str_]:
        """The language of each prompt."""
        return np.array([p.language for p in self.prompts], dtype=str)

    @property
    def groups(self) -> list[str]:
        """The group of each prompt."""
        return [p.cluster for p in self.prompts]

    def where(self, flags: Flags) -> Observed:
        """Return the prompts that are flagged."""
        rows = np.flatnonzero(flags).tolist()
        return Observed(prompts=[self.prompts[i] for i in rows], labels=[self.labels[i] for i in rows])

    def sorts(self) -> dict[str, Flags]:
        """Return the three groups of prompts that the experiments compare."""
        return {
            "harmful_refused": self.harmful & self.refused,
            "benign_refused": self.benign & self.refused,
            "benign_answered": self.benign & ~self.refused & self.read,
        }


def spread(rows: list[int], most: int) -> list[int]:
    """Return at most `most` of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, most)]
