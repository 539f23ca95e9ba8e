"""Where a prompt stands along the refusal boundary, read while it is read to be answered: no pass of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur.boundary_scorer import BoundaryScorer
from demur.methods._contrast import POINT
from demur.readout import p_refuse

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from demur.rows import Key

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boundary:
    """The boundary of the model without any intervention; rows are placed by what their own plan makes of them."""

    scorer: BoundaryScorer

    @property
    def key(self) -> Key:
        """The place in the model that is read."""
        return (self.scorer.layer, POINT)

    def about(self) -> dict[str, Any]:
        """Return layer and calibration over all languages, as JSON values."""
        fit = self.scorer.axes[""][1]
        finite = math.isfinite(fit.tau)
        return {
            "layer": self.scorer.layer,
            "t_star": fit.t_star if finite else None,
            "tau": fit.tau if finite else None,
            "auroc": fit.auroc,
            "n": fit.n,
            "unusable": fit.unusable,
        }

    def places(
        self,
        states: Float[Tensor, "row d_model"],
        logits: Float[Tensor, "row vocab"],
        languages: Sequence[str],
        bare: Sequence[bool],
    ) -> list[Mapping[str, Any]]:
        """Return coordinate t, boundary t*, distance d and first-token refusal probability of each row.

        Args:
            states: after the block of `key`, at the last prompt token.
            logits: of the token drawn first.
            languages: codes; "" and unknown ones are placed on the axis of all languages.
            bare: whether that first token is the first of the answer (it is not after a prefill).
        """
        openers = self.scorer.openers
        chances = p_refuse(logits, openers).tolist() if openers is not None else [None] * len(bare)
        made: list[Mapping[str, Any]] = []
        for i, language in enumerate(languages):
            axis, fit = self.scorer.axes.get(language) or self.scorer.axes[""]
            t = float(axis.coordinate(states[i : i + 1])[0])
            usable = math.isfinite(fit.tau) and not fit.unusable
            made.append(
                {
                    "layer": self.scorer.layer,
                    "t": t,
                    "t_star": fit.t_star if usable else None,
                    "tau": fit.tau if usable else None,
                    "d": (t - fit.t_star) / fit.tau if usable else None,
                    "unusable": fit.unusable,
                    "p_refuse": chances[i] if bare[i] else None,
                }
            )
        return made
