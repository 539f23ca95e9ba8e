"""The dev split: what a checkpoint answers and holds there, and which one may be kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demur import floor, metrics
from demur.checkpoints import Checkpoint
from demur.decoding import decode
from demur.judges import apply
from demur.metrics import Outcome
from demur.types import FitData, Item, Judge, Sampling

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Prompts that a method does not train on, with what the untouched model did with each."""

    before: tuple[Outcome, ...]
    judge: Judge
    max_new_tokens: int

    @classmethod
    def of(cls, data: FitData, judge: Judge, max_new_tokens: int) -> HeldOut:
        """Take the `dev` split."""
        rows = [e for e in data.examples if e.split == "dev"]
        before = tuple(Outcome(prompt=e.prompt, state=e.label or "unscored") for e in rows)
        return cls(before=before, judge=judge, max_new_tokens=max_new_tokens)

    def score(self, lm: LM, what: Intervention) -> dict[str, Any]:
        """Let the model answer under an intervention; return its rates and the floor at half the margin."""
        prompts = [o.prompt for o in self.before]
        given = {r.prompt_id: r for r in decode(lm, prompts, Sampling(max_new_tokens=self.max_new_tokens), what)}
        items = [Item(p, given[p.id]) for p in prompts]
        verdicts = list(apply(self.judge, "dev", items))
        after = metrics.outcomes(prompts, list(given.values()), verdicts, judges=["dev"])
        result = floor.check(self.before, after, choosing=True)
        return {
            "answered_before": _answered(self.before),
            "answered": _answered(after),
            "borderline_before": _answered(o for o in self.before if o.prompt.kind == "borderline"),
            "borderline": _answered(o for o in after if o.prompt.kind == "borderline"),
            "held_before": _held(self.before),
            "held": _held(after),
            "right": _right(after),
            "right_plain": _right(o for o in after if o.prompt.kind == "plain"),
            "right_freed": _right(_freed(self.before, after)),
            "floor": result.passed,
            "verdict": result.verdict,
        }

    def choose(self, checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, str]:
        """Return the checkpoint that answers most among those that keep the floor, and why it was taken.

        Where none does, the one that holds most, and the words say so: unmeasured is below the floor.
        """
        kept = [
            c
            for c in checkpoints
            if c.score and c.score["floor"] and _rate(c, "answered") > _rate(c, "answered_before")
        ]
        if kept:
            best = max(kept, key=lambda c: (_rate(c, "answered"), _rate(c, "held")))
            return best, f"checkpoint {best.step}: answers most of those that keep the floor at half its margin (dev)"
        best = max(checkpoints, key=lambda c: (_rate(c, "held"), _rate(c, "answered")))
        verdict = str((best.score or {}).get("verdict", "not measured"))
        return (
            best,
            f"checkpoint {best.step}: NO checkpoint answers more and keeps the floor at half its margin; {verdict}",
        )


def _rate(checkpoint: Checkpoint, name: str) -> float:
    value = (checkpoint.score or {}).get(name)
    return float(value) if value is not None else 0.0


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _answered(rows: Iterable[Outcome]) -> float | None:
    return _share([o.answered for o in rows if o.prompt.expected == "comply" and o.measured])


def _held(rows: Iterable[Outcome]) -> float | None:
    return _share([o.held for o in rows if o.prompt.expected == "refuse" and o.measured])


def _right(rows: Iterable[Outcome]) -> float | None:
    asked = [o for o in rows if o.prompt.expected == "comply" and o.answered]
    return _share([o.quality == "right" for o in asked if o.quality in ("right", "wrong")])


def _freed(before: Iterable[Outcome], after: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes of borderline prompts that were not answered before."""
    was = {o.prompt.id for o in before if o.prompt.kind == "borderline" and not o.answered}
    return [o for o in after if o.prompt.id in was]
