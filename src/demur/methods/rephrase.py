"""Have a refused request put in other words, and ask again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.interventions.wrapped import Wrapped
from demur.methods._choice import choose
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
READS = "dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rephrase:
    """Prompt rephrasing after Yuan et al. (arXiv 2510.08158): nothing is fitted.

    The same model (or another, see the generator `rephrase`) words the request anew, and that is answered. Only the
    prompt's text changes, so any endpoint will do; a rewording that hides what a request is for would open it to
    harm, so the floor must be measured as for any other.

    From the paper's abstract: rephrasing at inference time, without access to the parameters. Ours: the wording of the
    task, which asks to keep what is wanted and not to mend harmful requests; that a phrase list decides what was
    refused; and the choice on the dev split between rewording what was refused and rewording everything.
    """

    always: tuple[bool, ...] = (False, True)
    """Whether every prompt is reworded, or only a refused one; to choose from."""
    max_new_tokens: int = 512
    """Longest answer while choosing."""

    def fit(self, lm: LM, data: FitData) -> Wrapped:
        """Return the wrapper that answers most of the dev split and keeps the floor there."""
        tried = {
            "every prompt" if every else "refused ones": Wrapped(name="rephrase", settings={"always": every})
            for every in self.always
        }
        return choose(lm, data, tried, max_new_tokens=self.max_new_tokens)
