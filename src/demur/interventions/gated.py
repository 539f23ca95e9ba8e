"""Apply another intervention only to the rows that a probe picks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.errors import ConfigError
from demur.interventions import Stock
from demur.plan import Gate, Intervention, Plan

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gated(Stock):
    """Apply another intervention only to the rows that a probe picks.

    The probe reads the untouched model at the last prompt token and decides once per request (conditional
    activation steering, Lee et al., arXiv 2409.05907, is of this kind).
    """

    inner: Intervention
    """What to do where the gate is open: an intervention that edits the stream or mixes logits."""
    gate: Gate
    """The probe, and when it opens."""

    def plan(self, lm: LM) -> Plan:
        """Return the inner plan with every site, and the logits, behind the gate.

        Raises:
            ConfigError: for an inner intervention that cannot be switched per row (weights, system text, soft
                tokens), or that is gated already.
        """
        inner = self.inner.plan(lm)
        if inner.weights or inner.system is not None or inner.gates or inner.soft_tokens:
            raise ConfigError(
                "gated: the inner intervention must edit the residual stream alone, or mix logits, without weights, "
                "system text or a gate of its own; ablate with by=hooks, for instance"
            )
        sites = tuple(dataclasses.replace(site, gate=0) for site in inner.sites)
        logits = None if inner.logits is None else dataclasses.replace(inner.logits, gate=0)
        return dataclasses.replace(inner, sites=sites, logits=logits, gates=(self.gate,))
