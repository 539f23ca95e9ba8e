"""Choose among settings of a method on the dev split: a screen by first tokens, then whole answers under the floor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from demur.decoding import decode
from demur.errors import DataError
from demur.files import write_json
from demur.floor import MARGIN
from demur.interventions.wrapped import Wrapped
from demur.methods._held_out import HeldOut
from demur.readout import Openers, find_openers, p_refuse
from demur.screen import Screen
from demur.types import ATTACK, DEFAULT_JUDGE, FitData, Judge, Prompt, Response, Sampling, Verdict

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

FILE = "choice.json"
"""What was tried, with which rates, and why one was taken; written to the folder of the fit."""

What = TypeVar("What", bound="Intervention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A generator of a model that is loaded already."""

    lm: LM

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Answer the prompts through the decode loop."""
        yield from decode(self.lm, prompts, sampling)


def choose(lm: LM, data: FitData, tried: Mapping[str, What], *, most: int = 4, max_new_tokens: int = 512) -> What:
    """Return the setting that answers most of the dev split among those that keep the floor at half its margin.

    A single setting is returned as it is. Of more, the first answer token of the dev split is read under each, the
    best `most` answer it whole, and the choice is written to `choice.json` in the folder of the fit. Where none keeps
    the floor, the one that holds most is returned, and the file says so.

    Args:
        lm: the model.
        data: holds the dev split, and the judge.
        tried: name -> the intervention with that setting.
        most: how many answer the whole split.
        max_new_tokens: longest answer.

    Raises:
        DataError: where there is no dev split to choose on.
    """
    if len(tried) == 1:
        return next(iter(tried.values()))
    held_out = HeldOut.of(data, judge_of(data), max_new_tokens)
    if not held_out.before:
        raise DataError(f"{len(tried)} settings to choose from, and no example of the dev split to choose on")
    prompts, sampling = [o.prompt for o in held_out.before], Sampling(max_new_tokens=max_new_tokens)
    scores = {}
    for name in shortlist(lm, data, prompts, tried, most):
        what = tried[name]
        answers = what.around(Decoded(lm=lm))(prompts, sampling) if isinstance(what, Wrapped) else None
        scores[name] = held_out.score(lm, what) if answers is None else held_out.rates(answers)
    name, why = held_out.best(scores)
    if data.out is not None:
        data.out.mkdir(parents=True, exist_ok=True)
        write_json(data.out / FILE, {"chosen": name, "why": why, "tried": scores, "screened": list(tried)})
    return tried[name]


def shortlist(lm: LM, data: FitData, prompts: Sequence[Prompt], tried: Mapping[str, What], most: int) -> list[str]:
    """Return the names of the `most` best by the first answer token of each prompt.

    Those whose loss of held prompts (attacked or not, the larger of the two) is within the floor's margin come first,
    by what they answer; then the rest, by how little they lose. All names where there are no more than `most`, or
    where they act on the prompt's text, or the openers of a refusal cannot be found in the answers.
    """
    openers = openers_of(lm, data)
    if len(tried) <= most or openers is None or any(isinstance(w, Wrapped) for w in tried.values()):
        return list(tried)
    seen = Screen(lm, prompts)
    attacked = torch.tensor([p.category.startswith(ATTACK) for p in prompts])
    harmful = torch.tensor([p.expected == "refuse" for p in prompts])
    groups = [g for g in (harmful & ~attacked, harmful & attacked) if g.any()]
    benign = torch.tensor([p.expected == "comply" for p in prompts])
    before = p_refuse(seen.logits(), openers) > 0.5

    def order(name: str) -> tuple[float, float]:
        after = p_refuse(seen.logits(tried[name]), openers) > 0.5
        loss = max((float((before[g].float() - after[g].float()).mean()) for g in groups), default=0.0)
        return round(loss, 2) if loss > MARGIN else 0.0, float(after[benign].float().mean())

    ranked = {name: order(name) for name in tried}
    return sorted(ranked, key=ranked.__getitem__)[:most]


def openers_of(lm: LM, data: FitData) -> Openers | None:
    """Return the tokens that open a refusal in the answers of the examples; None where these do not tell."""
    rows = [e for e in data.examples if e.label and e.answer]
    responses = [Response(prompt_id=e.prompt.id, text=e.answer, finish="stop") for e in rows]
    verdicts = [Verdict(prompt_id=e.prompt.id, judge="fit", question="refusal", label=e.label) for e in rows]
    try:
        found = find_openers(lm, responses, verdicts)
    except DataError:
        return None
    return found if found.ids else None


def judge_of(data: FitData) -> Judge:
    """Return the judge of the fit, else the usual default."""
    if data.judge is not None:
        return data.judge
    from demur.settings import build, parse_part

    return cast(Judge, build("judges", parse_part(DEFAULT_JUDGE)))
