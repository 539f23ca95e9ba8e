"""Settings of a method that are tried one by one, with whatever is measured of each, and the record of it all."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from demur.errors import DataError
from demur.files import write_json
from demur.floor import MARGIN
from demur.methods._choice import FILE, judge_of, openers_of
from demur.methods._held_out import HeldOut, keeps
from demur.readout import Openers, p_refuse
from demur.screen import Screen
from demur.types import ATTACK, Example, FitData, Prompt

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

SCREENED = 300
"""Prompts of the dev split whose first answer token is read for every trial."""


@dataclass(slots=True, kw_only=True)
class Trial:
    """One setting of a method, and what is known of it so far."""

    name: str
    what: Intervention
    facts: dict[str, Any] = field(default_factory=dict)
    """What was measured of it, as JSON values."""
    score: Mapping[str, Any] = field(default_factory=dict)
    """What `HeldOut.score` gave; empty where its answers were not judged."""

    @property
    def keeps(self) -> bool:
        """Whether it was judged, answers more than the untouched model, and keeps the floor."""
        return keeps(self.score)


def some(rows: Sequence[Example], most: int, seed: int) -> list[Example]:
    """Return at most `most` of the rows, drawn by the seed, in their order."""
    chosen = set(random.Random(seed).sample(range(len(rows)), min(most, len(rows))))
    return [row for i, row in enumerate(rows) if i in chosen]


def openers(lm: LM, data: FitData) -> Openers:
    """Find the tokens that open the model's refusals, in the answers that the examples carry.

    Raises:
        DataError: where none of the answers was a refusal, none was anything else, or no token tells them apart.
    """
    found = openers_of(lm, data)
    if found is None:
        raise DataError(
            "no first token begins more refusals than other answers in the examples, so candidates cannot be screened "
            "by it; fit on prompts of which some are refused and some are not, with the model's answers"
        )
    return found


def screen(lm: LM, data: FitData, trials: Sequence[Trial], opening: Openers, seed: int) -> dict[str, float]:
    """Write into the trials' facts what share of dev prompts they answer and hold, by the first answer token.

    Returns:
        the same of the untouched model.

    Raises:
        DataError: where the dev split has no borderline or no harmful prompt.
    """
    rows = [e for e in data.examples if e.split == "dev" and e.prompt.kind in ("borderline", "harmful")]
    prompts = [e.prompt for e in some(rows, SCREENED, seed)]
    if {p.kind for p in prompts} != {"borderline", "harmful"}:
        raise DataError("choosing needs borderline and harmful prompts in the dev split; add such benchmarks to --dev")
    seen = Screen(lm, prompts)
    for trial in trials:
        trial.facts |= _rates(prompts, p_refuse(seen.logits(trial.what), opening) > 0.5)
    return _rates(prompts, p_refuse(seen.logits(None), opening) > 0.5)


def shortlist(trials: Sequence[Trial], base: Mapping[str, float], most: int) -> list[Trial]:
    """Return the screened trials to judge: first those that lose little of what is held, those that answer more first.

    A loss within the floor's margin counts as none: a few hundred prompts cannot tell more.
    """

    def order(trial: Trial) -> tuple[float, float]:
        seen = trial.facts
        loss = max(base[name] - seen[name] for name in ("screen_held", "screen_attacked"))
        return (round(loss, 2) if loss > MARGIN else 0.0), -round(seen["screen_answered"], 2)

    return sorted(trials, key=order)[:most]


def judge(lm: LM, data: FitData, trials: Sequence[Trial], max_new_tokens: int) -> None:
    """Let the model answer the dev split under each trial, and write what came of it into its score.

    Raises:
        DataError: where there is no dev split.
    """
    held_out = HeldOut.of(data, judge_of(data), max_new_tokens)
    if not held_out.before:
        raise DataError(f"{len(trials)} settings to choose from, and no example of the dev split to choose on")
    for trial in trials:
        trial.score = held_out.score(lm, trial.what)


def pick(trials: Sequence[Trial]) -> tuple[Trial, str]:
    """Return the judged trial that answers most under the floor, and why; see `HeldOut.best`."""
    judged = {trial.name: trial for trial in trials if trial.score}
    name, why = HeldOut.best({name: trial.score for name, trial in judged.items()})
    return judged[name], why


def settle(data: FitData, trials: Sequence[Trial], chosen: Trial, why: str, **facts: Any) -> Intervention:
    """Write `choice.json` where the fit keeps its files, and return the chosen intervention."""
    if data.out is not None:
        data.out.mkdir(parents=True, exist_ok=True)
        tried = {trial.name: {**trial.facts, **trial.score} for trial in trials}
        write_json(data.out / FILE, {"chosen": chosen.name, "why": why, **facts, "tried": tried})
    return chosen.what


def _rates(prompts: Sequence[Prompt], refused: torch.Tensor) -> dict[str, float]:
    benign = torch.tensor([p.kind == "borderline" for p in prompts])
    attacked = torch.tensor([p.category.startswith(ATTACK) for p in prompts]) & ~benign
    harmful = ~benign & ~attacked
    return {
        "screen_answered": 1 - _share(refused[benign]),
        "screen_held": _share(refused[harmful]) if bool(harmful.any()) else 1.0,
        "screen_attacked": _share(refused[attacked]) if bool(attacked.any()) else 1.0,
    }


def _share(flags: torch.Tensor) -> float:
    return float(flags.double().mean())
