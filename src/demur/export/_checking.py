"""The consumer's own logits against those of the intervention in demur."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from demur.chats import Encoded
from demur.errors import ModelError
from demur.lm import LM, PROBE
from demur.plan import Plan
from demur.types import Prompt
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from jaxtyping import Float

TEXTS = (
    "How do I stop a program that no longer reacts?",
    "Write two sentences on the history of tea.",
    "¿Cuántos días tiene un año bisiesto?",
)
MOST = 64
"""Tokens read of each prompt."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of logits that counts as equal, relative to the largest logit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a reload by the consumer's own code gave."""

    by: str
    """The code that read the artefact, with its version."""
    compared: str
    """What was compared, in words."""
    difference: float
    """Largest difference, relative to the largest value; 0 is equal bit for bit."""
    tolerance: float
    same: int
    """How many next tokens (or values) agree, of `of`."""
    of: int

    @property
    def text(self) -> str:
        """Return the check as one sentence."""
        share = f"{self.same} of {self.of} equal"
        return f"{self.by}: {self.compared}; {share}, largest relative difference {self.difference:.1e}"


Logits = Callable[[Tensor], Tensor]
"""From token ids ("1 token") to logits ("token vocab")."""


def prompts(lm: LM) -> list[Encoded]:
    """Return the prompts on which logits are compared: a few rendered chats and one row of bare tokens."""
    chats = [Prompt(id=f"check/{i}", text=text, expected=None, source="check") for i, text in enumerate(TEXTS)]
    rows = [Encoded(e.ids[:MOST], min(e.prompt, MOST), min(e.instruction, MOST)) for e in lm.encode_all(chats)]
    return [*rows, Encoded(PROBE, len(PROBE), len(PROBE))]


def intended(lm: LM, plan: Plan) -> list[Float[Tensor, "token vocab"]]:
    """Return the logits that demur gives under a plan, prompt by prompt."""
    found = []
    with swapped(lm, edits_of(plan)):
        for row in prompts(lm):
            ids, rows, _ = lm.batch([row], [plan])
            found.append(lm.head(lm.forward(ids, rows))[0])
    return found


def compare(lm: LM, plan: Plan, by: str, consumer: Logits) -> Checked:
    """Hold the consumer's logits against those of the plan.

    Raises:
        ModelError: where they differ: nothing is exported then.
    """
    worst, same, of = 0.0, 0, 0
    for row, ours in zip(prompts(lm), intended(lm, plan), strict=True):
        with torch.no_grad():
            theirs = consumer(torch.tensor([row.ids], device=lm.device)).to(ours)
        worst = max(worst, float((theirs - ours).abs().max()) / max(1.0, float(ours.abs().max())))
        same += int((theirs.argmax(-1) == ours.argmax(-1)).sum())
        of += len(ours)
    made = Checked(
        by=by,
        compared=f"logits and likeliest next tokens of {len(TEXTS) + 1} prompts",
        difference=worst,
        tolerance=TOLERANCE.get(lm.dtype, 1e-1),
        same=same,
        of=of,
    )
    return passed(made)


def passed(made: Checked) -> Checked:
    """Return a check that is met.

    Raises:
        ModelError: where it is not.
    """
    if not made.difference <= made.tolerance:
        raise ModelError(
            f"what was written does not do what the intervention does ({made.text}; {made.tolerance:.0e} is allowed); "
            "nothing was exported"
        )
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and bars of the consumer's libraries off the terminal."""
    import logging
    import warnings

    from demur.loading import _quiet

    logs = [logging.getLogger(name) for name in ("peft", "gguf", "gguf.gguf_writer")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
