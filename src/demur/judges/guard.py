"""Verdicts of a guard model, in the prompt and reply format that its model card documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from demur.errors import ConfigError, NotFound
from demur.judges import _asking, _guards
from demur.judges._asking import Spent
from demur.types import Generator, Item, Question, Response, Sampling, Verdict

_VERSION = "2"
"""Raised when a guard would be asked or read differently."""


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Guard:
    """A guard model: WildGuard, Llama Guard 3 and 4, Qwen3Guard, PolyGuard, locally or on a server.

    `wildguard` and `polyguard` answer refusal, answer_harm and prompt_harm in one call; `qwen3guard` refusal and
    answer_harm in one call and prompt_harm in another; `llama_guard_3` and `llama_guard_4` answer_harm and
    prompt_harm, a call each. Guards know no partial refusal. A reply that is not as the model card documents it, in
    full, is unscored with the reply kept in `raw`; `reason` holds the guard's own words and hazard codes.

    Llama Guard and Qwen3Guard wrap the conversation in their own chat template, the judged message last, so the
    generator must be able to end with the assistant's message (its class says `assistant_last = True`). WildGuard
    has no template: serve it with one that passes text through. It and PolyGuard are shown the last request alone;
    where there were earlier turns, `reason` says so. Role tokens inside judged texts are broken by a space. Where
    prompt_harm is the only question asked, the answer is not shown. Deterministic as far as the generator is (greedy).
    `spent` tells requests, tokens and cost.
    """

    generator: Generator
    """The guard model: a generator part."""
    format: Literal["wildguard", "llama_guard_3", "llama_guard_4", "qwen3guard", "polyguard"]
    """Which guard it is."""
    ask: tuple[str, ...] = ()
    """The questions to ask; empty for all that the guard answers."""
    controversial: Literal["unscored", "harmful", "harmless"] = "unscored"
    """What Qwen3Guard's `Controversial` means for an answer; of a request it is `contested`."""
    max_new_tokens: int = 128
    """Longest reply."""
    limit: int = 20_000
    """Characters shown of a request and of an answer; longer ones lose their middle."""
    price_in: float = 0.0
    """Price of a million tokens sent."""
    price_out: float = 0.0
    """Price of a million tokens received."""

    neutral: ClassVar[tuple[str, ...]] = ("price_in", "price_out")
    batch: ClassVar[int] = 256
    """Items that `apply` hands over at a time, so that a server is kept busy."""

    def __post_init__(self) -> None:
        form = _guards.FORMATS[self.format]
        for question in self.ask:
            if question not in form.questions:
                raise NotFound("question", question, form.questions, where=f"judge guard with format {self.format}")
        shows = any(question != "prompt_harm" for question in self.questions)
        if form.chat and shows and not getattr(type(self.generator), "assistant_last", False):
            raise ConfigError(
                f"judge guard: format {self.format} judges a conversation that ends with the assistant's message, but "
                f"generator {type(self.generator).__name__} does not say that it can send one (assistant_last); "
                "use http or local, or ask only prompt_harm"
            )

    @property
    def questions(self) -> tuple[Question, ...]:
        """The questions asked, in the guard's own order."""
        return tuple(q for q in _guards.FORMATS[self.format].questions if not self.ask or q in self.ask)

    @property
    def fingerprint(self) -> str:
        """What decides verdicts beside the settings."""
        return hashlib.sha256(f"{_VERSION}\0{self.format}".encode()).hexdigest()[:16]

    @property
    def spent(self) -> Spent:
        """Requests, tokens and cost since this judge was made."""
        return _asking.spent(self)

    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        """Give one verdict per item and question, in order."""
        form = _guards.FORMATS[self.format]
        asked = self.questions
        calls = [tuple(q for q in call if q in asked) for call in form.calls]
        calls = [call for call in calls if call]
        requests = [
            _guards.request(form, item, answer=call != ("prompt_harm",), limit=self.limit)
            for item in items
            for call in calls
        ]
        sampling = Sampling(max_new_tokens=self.max_new_tokens)
        replies = iter(_asking.ask(self, self.generator, requests, sampling, (self.price_in, self.price_out)))
        for item in items:
            for call in calls:
                yield from self._verdicts(item, call, next(replies)[0])

    def _verdicts(self, item: Item, call: tuple[Question, ...], reply: Response) -> Iterator[Verdict]:
        why = _asking.failure(reply)
        form = _guards.FORMATS[self.format]
        labels = {} if why else form.parse(reply.text, call)
        unseen = bool(item.prompt.history) and not form.chat
        for question in call:
            label, reason = labels.get(question, ("", why))
            if label == "controversial":
                label = "" if self.controversial == "unscored" else self.controversial
                reason = reason if label else f"judge: {reason}"
            if label and unseen:
                reason += " (earlier turns not shown)"
            yield Verdict(
                prompt_id=item.prompt.id,
                sample=item.response.sample,
                judge="guard",
                question=question,
                label=label or None,
                reason=reason if label else "",
                raw=reply.text,
                unscored="" if label else reason,
            )
