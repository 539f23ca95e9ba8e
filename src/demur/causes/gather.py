"""Collect the evidence on benign refusals: samples, belief in words, and what each span's removal does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from demur.causes.asking import Decide
from demur.causes.evidence import Evidence, SpanEffect
from demur.causes.spans import Looks, Span, Swaps, spans, without
from demur.errors import ConfigError
from demur.types import Prompt

Tell = Callable[[str, int, int], None]
CHUNK = 2000
"""Changed prompts decided at a time."""


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


class Elsewhere:
    """In how many other benign prompts of a run each span stands, and how many of those were refused."""

    def __init__(self, share: Mapping[str, float | None], benign: Iterable[Prompt], longest: int) -> None:
        self.held: dict[tuple[str, str], list[tuple[str, float]]] = {}
        for prompt in benign:
            refused = share.get(prompt.id)
            for key in {s.key for s in spans(prompt.text, longest)} if refused is not None else ():
                self.held.setdefault((prompt.language, key), []).append((prompt.cluster, refused or 0.0))

    def counted(self, row: Evidence) -> tuple[SpanEffect, ...]:
        """Return a row's spans with their counts over prompts of other items."""
        made = []
        for span in row.spans:
            key = row.language, " ".join(span.text.casefold().split())
            others = [refused for group, refused in self.held.get(key, ()) if group != row.group]
            made.append(replace(span, others=len(others), refused=sum(others)))
        return tuple(made)


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
