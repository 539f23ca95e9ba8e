"""Steer each prompt towards refusal or away from it, as a probe of the model's own states says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.directions import Direction
from demur.errors import ConfigError
from demur.interventions import Stock
from demur.interventions.steer import Steer
from demur.plan import Branch, Gate, Plan

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SignedSteer(Stock):
    """Steer each prompt towards refusal or away from it: h + strength * v where the gate says 1, - where it says -1.

    What the gate reads may depend on a beginning of the answer that is put there for the probe alone (`cue`): such a
    probe costs one more pass over the prompt, and the answer does not begin with it (SCANS, arXiv 2408.11491).
    """

    direction: Direction
    """What to add, one vector for each layer that is edited; it points towards refusal."""
    gate: Gate
    """The probe, with the rule `sign`; branch 1 is the prompt with the cue."""
    cue: str = ""
    """A beginning of an answer; empty: the prompt as it is."""
    strength: float = 1.0
    """In lengths of the direction; 0 changes nothing."""
    positions: str = "from_instruction_end"
    """Which tokens: all, prompt, last_prompt, from_instruction_end, generated, generated[:k]."""

    def __post_init__(self) -> None:
        if self.gate.rule != "sign":
            raise ConfigError(f"signed_steer: the gate's rule is {self.gate.rule!r}; it must be sign")

    def plan(self, lm: LM) -> Plan:
        """Return the sites behind the gate, and the branch that the gate reads."""
        if self.strength == 0:
            return Plan()
        steer = Steer(direction=self.direction, strength=self.strength, positions=self.positions)
        inner = steer.plan(lm)
        sites = tuple(dataclasses.replace(site, gate=0) for site in inner.sites)
        branches = (Branch(prefill=self.cue),) if self.cue else ()
        return dataclasses.replace(inner, sites=sites, gates=(self.gate,), branches=branches)
