"""Apply several interventions, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions import Stock
from demur.plan import Intervention, Plan, merge

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack(Stock):
    """Apply several interventions, one after the other.

    At one point of the stream their edits act in order; system texts stand one below the other; every gate reads
    the untouched model.
    """

    parts: tuple[Intervention, ...] = ()
    """What to apply, in this order."""

    def plan(self, lm: LM) -> Plan:
        """Return the parts' plans as one."""
        return merge(part.plan(lm) for part in self.parts)
