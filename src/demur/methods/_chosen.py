"""Choosing the benign prompts that a method trains on, by a rule of mining, where no mined set was given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from demur.boundary_scorer import BoundaryScorer
from demur.errors import DataError
from demur.mining.selection import Rule, Scored, Selection, choose
from demur.readout import REFUSALS, Openers, find_openers
from demur.types import ATTACK, Example, Response, Verdict

if TYPE_CHECKING:
    from demur.lm import LM

_SCORED = {*REFUSALS, "compliance"}


def by_rule(
    lm: LM, examples: Sequence[Example], rule: str, *, count: int, anchors: float = 0.2, seed: int = 0
) -> list[Example]:
    """Return the examples without the borderline prompts of the `fit` split that a rule leaves out.

    All languages and categories are one pool, so that every rule gives the same number of prompts.

    Args:
        lm: the model, whose boundary is fitted on `fit` and calibrated on `dev`.
        examples: with what the model did with each.
        rule: one of `demur.mining.selection.RULES`.
        count: refused prompts that are wanted.
        anchors: answered ones, as a share of these. `random_all` draws all from one urn instead.
        seed: of the rules that draw.

    Returns:
        those kept, the chosen ones with their distance d as score.

    Raises:
        DataError: where there is no refused borderline prompt, or the boundary cannot be placed.
    """
    pool = [e for e in examples if e.split == "fit" and e.prompt.kind == "borderline" and e.label in _SCORED]
    if not any(e.label in REFUSALS for e in pool):
        raise DataError("the rules of selection need borderline prompts that the model refused; the fit split has none")
    harmful = [e.prompt.text for e in examples if e.split == "fit" and e.prompt.expected == "refuse"]
    fitted = [e for e in examples if not e.prompt.category.startswith(ATTACK)]
    scores = BoundaryScorer.fit(lm, fitted, openers(lm, fitted), unusable=True)([e.prompt for e in pool])
    groups = {name: number for number, name in enumerate(sorted({e.prompt.cluster for e in pool}))}
    scored = Scored(
        d=np.array([math.nan if s.d is None else s.d for s in scores]),
        r=np.array([s.r or 0.0 for s in scores]),
        refused=np.array([e.label in REFUSALS for e in pool]),
        cell=np.zeros(len(pool), np.int64),
        texts=lambda rows: [pool[row].prompt.text for row in rows.tolist()],
        group=np.array([groups[e.prompt.cluster] for e in pool]),
        harmful=harmful,
    )
    size = round(count * (1 + anchors))
    how = Selection(rule=cast(Rule, rule), per_category=size, refused=1 / (1 + anchors), seed=seed)
    kept = {pool[row].prompt.id: float(scored.d[row]) for row in choose(scored, how).rows.tolist()}
    left_out = {e.prompt.id for e in pool} - set(kept)
    return [
        dataclasses.replace(e, score=kept.get(e.prompt.id, e.score)) for e in examples if e.prompt.id not in left_out
    ]


def openers(lm: LM, examples: Sequence[Example]) -> Openers | None:
    """Return the openers of the model's refusals among its answers; None where the examples hold no answers."""
    known = [e for e in examples if e.answer and e.label]
    answers = [Response(prompt_id=e.prompt.id, text=e.answer, finish="stop", n_tokens=1) for e in known]
    labels = [Verdict(prompt_id=e.prompt.id, judge="fit", question="refusal", label=e.label) for e in known]
    return find_openers(lm, answers, labels) if known else None
