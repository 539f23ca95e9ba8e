"""One answer at a time, judged as `demur measure` judges it: what other programs' scorers are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from demur import metrics
from demur.assemble import build_benchmarks, build_judges
from demur.errors import ConfigError
from demur.judges import apply
from demur.measure import collect_prompts
from demur.settings import PartSpec
from demur.types import Item, Judge, Prompt, Response, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a judge made of one answer."""

    outcome: metrics.Outcome
    verdicts: tuple[Verdict, ...]

    def rows(self) -> dict[str, float]:
        """Return 0 or 1 for each rate in whose denominator the answer stands, by the rate's name.

        The mean of such a row over all answers is the rate of `demur measure`.
        """
        table = metrics.Table.of([self.outcome])
        counted = metrics.rates(table, quality=bool(self.outcome.quality))
        return {rate.name: float(rate.numerator[0]) for rate in counted if rate.denominator[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A judge under its name, made from a part."""

    name: str
    judge: Judge

    def __call__(self, items: Sequence[Item]) -> list[Judged]:
        """Judge answers; rows that cannot be judged are unscored, with the reason."""
        per = len(self.judge.questions)
        rows = list(apply(self.judge, self.name, items))
        found = []
        for number, item in enumerate(items):
            own = tuple(rows[number * per : (number + 1) * per])
            (outcome,) = metrics.outcomes([item.prompt], [item.response], own, judges=[self.name])
            found.append(Judged(outcome=outcome, verdicts=own))
        return found


def bench_of(judge: str | PartSpec) -> Bench:
    """Return a judge by its part.

    Raises:
        NotFound: for an unknown judge; ConfigError: for one that needs all answers to a prompt at once, or that says
            nothing of refusals.
    """
    ((part, made),) = build_judges([judge], ())
    if getattr(made, "together", False):
        raise ConfigError(f"judge {part.name} needs all answers to a prompt at once; use `demur measure --judge`")
    if "refusal" not in made.questions:
        raise ConfigError(
            f"judge {part.name} answers {', '.join(made.questions)}; choose one that answers the refusal question"
        )
    return Bench(name=part.name, judge=made)


def prompts_of(benchmark: str | PartSpec) -> tuple[list[Prompt], str]:
    """Return a benchmark's prompts as `demur measure` asks them, and the name of its default judge.

    Raises:
        NotFound, ConfigError: for a part that is not there or has wrong settings; Unavailable: for data that are not.
    """
    chosen = build_benchmarks([benchmark])
    return collect_prompts(chosen), str(chosen[0][1].card.judge)


def begun(prompt: Prompt, response: Response) -> Response:
    """Return a response whose text holds the prompt's prefill, as demur's own do."""
    prefill = prompt.get("prefill")
    if not prefill or response.text.startswith(prefill):
        return response
    return dataclasses.replace(response, text=prefill + response.text)
