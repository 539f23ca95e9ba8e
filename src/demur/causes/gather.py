"""Collect the evidence on benign refusals: samples, belief in words, and what each span's removal does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from demur.causes.asking import Decide
from demur.causes.evidence import Evidence, SpanEffect, Thresholds
from demur.causes.spans import Looks, Span, Swaps, spans, without
from demur.errors import ConfigError
from demur.types import Prompt

Tell = Callable[[str, int, int], None]
CHUNK = 2000
"""Changed prompts decided at a time."""
ELSEWHERE = 5
"""Other benign prompts that hold a trigger, and answered ones it is put into, at most so many of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """How spans are tried."""

    longest: int = 2
    """Words of a span at most."""
    swaps: int = 2
    """Other words tried in a span's place, beside its deletion; 0: deletion only."""
    most: int = 60
    """Spans of a prompt at most, evenly spread; 0: no limit."""

    def __post_init__(self) -> None:
        if self.longest < 1 or self.swaps < 0 or self.most < 0:
            raise ConfigError(
                f"spans: longest {self.longest}, swaps {self.swaps}, most {self.most}; "
                "longest must be at least 1, the others 0 or more"
            )

    def of(self, text: str) -> list[Span]:
        """Return the spans of a text that are tried."""
        found = spans(text, self.longest)
        if not self.most or len(found) <= self.most:
            return found
        step = len(found) / self.most
        return [found[int(i * step)] for i in range(self.most)]


def start(prompt: Prompt, *, filtered: bool) -> Evidence:
    """Return the evidence of one refusal before anything was tried."""
    return Evidence(
        prompt_id=prompt.id,
        text=prompt.text,
        language=prompt.language,
        category=prompt.category,
        group=prompt.cluster,
        filtered=filtered,
    )


def span_effects(
    prompts: Sequence[Prompt],
    decide: Decide,
    *,
    swaps: Swaps | None = None,
    looks: Looks | None = None,
    cutting: Cutting | None = None,
    tell: Tell = lambda stage, done, total: None,
) -> list[tuple[SpanEffect, ...]]:
    """Take every span out of every prompt, and put other words in its place; return what that does to the refusal.

    Args:
        prompts: refused prompts.
        decide: gives P(refuse); equal texts (of one language and system prompt) are decided once.
        swaps: where other words come from; None: deletion only.
        looks: how harmful spans look; None: not said.
        cutting: which spans, how many swaps.
        tell: progress, in changed prompts.

    Returns:
        for each prompt, one effect per span.
    """
    cutting = cutting or Cutting()
    plan: list[list[tuple[Span, list[Prompt | None]]]] = []
    for prompt in prompts:
        own = []
        for span in cutting.of(prompt.text):
            other = swaps.of_span(prompt, span, cutting.swaps) if swaps and cutting.swaps else []
            own.append((span, [without(prompt, span), *(without(prompt, span, word) for word in other)]))
        plan.append(own)
    decided = _decided((p for own in plan for _, variants in own for p in variants if p), decide, "spans", tell)
    return [
        tuple(
            replace(_effect(span, variants, decided), looks=looks.of_span(prompt.language, span.key) if looks else None)
            for span, variants in own
        )
        for prompt, own in zip(prompts, plan, strict=True)
    ]


def carried(
    prompts: Sequence[Prompt],
    rows: Sequence[Evidence],
    benign: Sequence[Prompt],
    decide: Decide,
    *,
    swaps: Swaps,
    at: Thresholds,
    tell: Tell = lambda stage, done, total: None,
) -> list[float | None]:
    """Ask of each prompt's trigger, if it has one, whether the refusal goes with it into other prompts.

    Args:
        prompts: refused prompts.
        rows: their evidence, spans included.
        benign: benign prompts, in some of which the same span stands; at most `ELSEWHERE` of another item are asked.
        decide: gives P(refuse).
        swaps: answered prompts, into `ELSEWHERE` of which the span is put.
        at: says which span is a trigger.
        tell: progress, in prompts asked.

    Returns:
        for each prompt, the mean P(refuse) over both; None without a trigger, or without another prompt for it.
    """
    holding = _Holding(benign)
    others: list[list[Prompt]] = []
    for prompt, row in zip(prompts, rows, strict=True):
        found = row.trigger(at)
        span = next((s for s in spans(prompt.text, found.words) if s.text == found.text), None) if found else None
        others.append([] if span is None else [*holding.of(prompt, span.key), *swaps.hosts(prompt, span, ELSEWHERE)])
    decided = _decided((p for own in others for p in own), decide, "elsewhere", tell)
    known = [[p for p in (decided[_key(o)] for o in own) if p is not None] for own in others]
    return [sum(own) / len(own) if own else None for own in known]


class _Holding:
    """Benign prompts by the spans they hold."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = [(p, f" {' '.join(p.text.casefold().split())} ") for p in prompts]
        self.found: dict[tuple[str, str], list[Prompt]] = {}

    def of(self, prompt: Prompt, key: str) -> list[Prompt]:
        """Return at most `ELSEWHERE` prompts of the language with the span, of other items than this one."""
        at = (prompt.language, key)
        if at not in self.found:
            near = [p for p, text in self.prompts if p.language == prompt.language and key in text]
            self.found[at] = [p for p in near if key in {s.key for s in spans(p.text, len(spans(key, 1)))}]
        own = [p for p in self.found[at] if p.cluster != prompt.cluster]
        return own[:: max(1, len(own) // ELSEWHERE)][:ELSEWHERE]


def _decided(prompts: Iterable[Prompt], decide: Decide, stage: str, tell: Tell) -> dict[tuple[str, ...], float | None]:
    """Decide prompts, equal ones once."""
    asked = {_key(p): p for p in prompts}
    decided: dict[tuple[str, ...], float | None] = {}
    keys = list(asked)
    for first in range(0, len(keys), CHUNK):
        part = keys[first : first + CHUNK]
        decided |= dict(zip(part, decide([asked[k] for k in part]), strict=True))
        tell(stage, len(decided), len(keys))
    return decided


def _key(prompt: Prompt) -> tuple[str, ...]:
    """What decides a reply: language (judges read it), system prompt, earlier turns, text."""
    return (prompt.language, prompt.system or "", repr(prompt.history), prompt.text, prompt.get("prefill"))


def _effect(span: Span, variants: Sequence[Prompt | None], decided: dict[tuple[str, ...], float | None]) -> SpanEffect:
    found = [None if p is None else decided[_key(p)] for p in variants]
    return SpanEffect(text=span.text, words=len(spans(span.text, 1)), deleted=found[0], swapped=tuple(found[1:]))


def with_values(rows: Sequence[Evidence], name: str, values: Sequence[object]) -> list[Evidence]:
    """Return the rows with one field set."""
    return [replace(row, **{name: value}) for row, value in zip(rows, values, strict=True)]  # type: ignore[arg-type]
