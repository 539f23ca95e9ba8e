"""P(refuse) along a training: how probable the first token of a refusal is, by class of prompts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from demur.errors import DataError
from demur.readout import Openers, find_openers, p_refuse
from demur.types import ATTACK, Example, FitData, Response, Verdict

if TYPE_CHECKING:
    from demur.lm import LM

CLASSES = ("plain", "borderline", "harmful", "attacked")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RefusalCurve:
    """Called with a model as it stands, gives `p_refuse <class>`: the mean over held-out prompts of each class."""

    prompts: Mapping[str, tuple[tuple[int, ...], ...]]
    """Class -> prompts as tokens, with what an attack puts before the answer."""
    openers: Openers
    """First tokens of the untouched model's refusals, or of those that are taught; a model that learns to refuse in
    other words is not seen."""

    @classmethod
    def of(
        cls, lm: LM, data: FitData, *, taught: Sequence[Example] = (), each: int = 48, seed: int = 0
    ) -> RefusalCurve | None:
        """Take prompts of the `dev` split, and openers from the answers there are; None where none can be found.

        Args:
            lm: the model.
            data: its `dev` split is asked.
            taught: answers with their labels that give the openers, where the model before refuses nothing.
            each: prompts of each class, at most.
            seed: of their choice.
        """
        openers = _openers(lm, taught or data.examples)
        if openers is None:
            return None
        found: dict[str, list[Example]] = {name: [] for name in CLASSES}
        for e in data.examples:
            name = "attacked" if e.prompt.category.startswith(ATTACK) else e.prompt.kind
            if e.split == "dev" and name in found:
                found[name].append(e)
        chosen = {name: random.Random(seed).sample(rows, min(each, len(rows))) for name, rows in found.items()}
        made = {n: tuple(e.ids for e in lm.encode_all([r.prompt for r in rows])) for n, rows in chosen.items() if rows}
        return cls(prompts=made, openers=openers)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the mean probability of each class."""
        training = model.training
        model.eval()
        try:
            return {f"p_refuse {name}": self._mean(model, rows) for name, rows in self.prompts.items()}
        finally:
            model.train(training)

    def _mean(self, model: Any, rows: Sequence[tuple[int, ...]]) -> float:
        lengths = torch.tensor([len(ids) for ids in rows])
        width = int(lengths.max())
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        mask = (torch.arange(width) < lengths[:, None]).long()
        device = next(model.parameters()).device
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        return float(p_refuse(logits[torch.arange(len(rows)), lengths - 1], self.openers).mean())


def _openers(lm: LM, examples: Sequence[Example]) -> Openers | None:
    known = [e for e in examples if e.answer and e.label and not e.rejected and not e.prompt.get("prefill")]
    answers = [Response(prompt_id=e.prompt.id, text=e.answer, finish="stop") for e in known]
    labels = [Verdict(prompt_id=e.prompt.id, judge="fit", question="refusal", label=e.label) for e in known]
    try:
        return find_openers(lm, answers, labels)
    except DataError:
        return None
