"""Put a system text before every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions import Stock
from demur.plan import Plan

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruct(Stock):
    """Put a system text before every prompt.

    It stands before the prompt's own system text; where the chat template knows no system role, before the first
    user message.
    """

    text: str
    """The system text; an empty one changes nothing."""

    def plan(self, lm: LM) -> Plan:
        """Return a plan that holds the text; an empty one changes nothing."""
        return Plan(system=self.text or None)
