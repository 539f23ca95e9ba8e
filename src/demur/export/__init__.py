"""Exporters: one file per target. An intervention leaves demur only where the target holds it exactly.

An exporter is a frozen dataclass of settings with two doors. `refuse(lm, plan)` raises where the target cannot hold
the plan, with the reason; `exporter(lm, plan, folder, marks)` writes the artefact, loads it with the consumer's own
code and compares. `demur.exporting` joins them with the model, the floor's record, the card and the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from demur.export._checking import Checked
    from demur.lm import LM
    from demur.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an exporter did."""

    checked: Checked
    notes: tuple[str, ...] = ()
    """What a user of the artefact must know, one sentence each."""


class Exporter(Protocol):
    """Writes an intervention in a form that other software reads."""

    def refuse(self, lm: LM, plan: Plan) -> None:
        """Do nothing where the target holds the plan exactly; else raise ConfigError with the reason."""

    def __call__(self, lm: LM, plan: Plan, folder: Path, marks: Mapping[str, str]) -> Exported:
        """Write the artefact to a folder that is there, load it again, and compare.

        `marks` are written into the artefact's own metadata: the floor's state and the intervention's hash.
        """
