"""Choose among settings of a method: a screen of first answer tokens, then judged answers under the safety floor."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch

from demur.errors import DataError
from demur.files import write_json
from demur.floor import MARGIN
from demur.methods._held_out import HeldOut, best
from demur.readout import Openers, find_openers, p_refuse
from demur.screen import Screen
from demur.types import ATTACK, DEFAULT_JUDGE, Example, FitData, Judge, Prompt, Response, Verdict

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

SELECTION = "selection.json"
SCREENED = 300
"""Prompts of the dev split whose first answer token is read for every trial."""


@dataclass(slots=True, kw_only=True)
class Trial:
    """One setting of a method, and what is known of it so far."""

    name: str
    what: Intervention
    facts: dict[str, Any] = field(default_factory=dict)
    """What was measured of it, as JSON values."""
    score: dict[str, Any] = field(default_factory=dict)
    """What `HeldOut.score` gave; empty where its answers were not judged."""

    def record(self) -> dict[str, Any]:
        """Return everything but the intervention."""
        return {"name": self.name, **self.facts, **self.score}


def judge_of(data: FitData) -> Judge:
    """Return the judge of the fit; without one, the usual default."""
    if data.judge is not None:
        return data.judge
    from demur.settings import build, parse_part

    return cast(Judge, build("judges", parse_part(DEFAULT_JUDGE)))


def some(rows: Sequence[Example], most: int, seed: int) -> list[Example]:
    """Return at most `most` of the rows, drawn by the seed, in their order."""
    chosen = set(random.Random(seed).sample(range(len(rows)), min(most, len(rows))))
    return [row for i, row in enumerate(rows) if i in chosen]


def openers(lm: LM, data: FitData) -> Openers:
    """Find the tokens that open the model's refusals, in the answers that the examples carry.

    Raises:
        DataError: where none of the answers was a refusal, none was anything else, or no token tells them apart.
    """
    rows = [e for e in data.examples if e.label and e.answer]
    responses = [Response(prompt_id=str(i), text=e.answer, finish="stop") for i, e in enumerate(rows)]
    verdicts = [
        Verdict(prompt_id=str(i), judge="fit", question="refusal", label=e.label)
        for i, e in enumerate(rows)
        if e.label in ("refusal", "partial_refusal", "compliance")
    ]
    found = find_openers(lm, responses, verdicts)
    if not found.ids:
        raise DataError(
            f"no first token begins more refusals than other answers, of {found.n} judged ones: a first answer token "
            "does not say what is refused in this model, so candidates cannot be screened by it"
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


def shortlist(trials: Sequence[Trial], base: dict[str, float], most: int) -> list[Trial]:
    """Return the screened trials to judge: first those that lose little of what is held, those that answer more first.

    A loss within the floor's margin counts as none: a few hundred prompts cannot tell more.
    """

    def order(trial: Trial) -> tuple[float, float]:
        seen = trial.facts
        loss = max(base[name] - seen[name] for name in ("screen_held", "screen_attacked"))
        return (round(loss, 2) if loss > MARGIN else 0.0), -round(seen["screen_answered"], 2)

    return sorted(trials, key=order)[:most]


def judge(lm: LM, held_out: HeldOut, trials: Sequence[Trial]) -> None:
    """Let the model answer the dev split under each trial, and write what came of it into its score."""
    for trial in trials:
        trial.score = held_out.score(lm, trial.what)


def settle(data: FitData, trials: Sequence[Trial], chosen: Trial, why: str, **facts: Any) -> Intervention:
    """Write `selection.json` where the fit keeps its files, and return the chosen intervention."""
    if data.out is not None:
        data.out.mkdir(parents=True, exist_ok=True)
        rows = [trial.record() for trial in trials]
        write_json(data.out / SELECTION, {"chosen": chosen.name, "why": why, **facts, "trials": rows})
    return chosen.what


def pick(trials: Sequence[Trial]) -> tuple[Trial, str]:
    """Return the judged trial that answers most under the floor, and why; see `_held_out.best`."""
    found = [trial for trial in trials if trial.score]
    index, why = best([trial.score for trial in found], "setting")
    return found[index], why


def _rates(prompts: Sequence[Prompt], refused: torch.Tensor) -> dict[str, float]:
    benign = torch.tensor([p.kind == "borderline" for p in prompts])
    attacked = torch.tensor([p.category.startswith(ATTACK) for p in prompts])
    harmful = ~benign & ~attacked
    return {
        "screen_answered": 1 - _share(refused[benign]),
        "screen_held": _share(refused[harmful]) if bool(harmful.any()) else 1.0,
        "screen_attacked": _share(refused[attacked & ~benign]) if bool((attacked & ~benign).any()) else 1.0,
    }


def _share(flags: torch.Tensor) -> float:
    return float(flags.double().mean())
