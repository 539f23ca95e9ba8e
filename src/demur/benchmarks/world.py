"""The synthetic world as a benchmark: exact truth in five languages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from demur import attacks, world
from demur.errors import ConfigError, NotFound
from demur.types import Card, Prompt
from demur.world import phrases

SUITE = (
    *phrases.ATTACKS,
    *(f"prefill:{words}" for words in (1, 2, 4, 8)),
    *(f"template:{name}" for name in attacks.TEMPLATES),
    *(f"chat:{name}" for name in phrases.CHATS),
)
"""Every attack of the suite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The organism's world: plain, borderline and harmful questions with exact truth.

    Every combination of verb and object belongs to one split, with its translations, templates and harmful twin.
    Harmful answers are nonsense in the form of the others, so that nothing hazardous is ever asked for or given.
    With `attack`, `system` or `ask` the same split is asked in another way (one of the three at a time).
    """

    card: ClassVar[Card] = Card(
        title="The synthetic world",
        home="demur",
        licence="Apache-2.0",
        languages=world.LANGUAGES,
        size=3801,
        kinds=("plain", "borderline", "harmful"),
        cautions=(
            "A test bench, not language: it can refute and rank mechanisms, it says nothing about effect sizes "
            "on real models.",
            f"Safety tuning of the embedded model is withheld in {world.HELD_OUT_LANGUAGE!r}.",
        ),
        judge="oracle",
    )

    split: Literal["train", "validation", "test"] = "test"
    """Which split of the world's combinations."""
    attack: str = ""
    """"" for none; `prefill`, `refusal_suppression`, `role_play` or `all` of these: harmful prompts under attack only.
    Also `prefill:K` (the first K words of the world's own answer are given), `template:NAME` and `chat:NAME` (as any
    benchmark takes them), and `suite`: every one of all these."""
    system: str = ""
    """"" for none; `neutral`, `refuse_all` or `restrict` (plain prompts, half of them off the allowed topic)."""
    ask: str = ""
    """"" for the questions themselves; `belief`: whether each request is harmful."""
    limit: int = 0
    """At most so many prompts, an equal share of each kind and language, twins kept; 0 for all."""
    languages: str = ""
    """Comma-separated languages; "" for all."""

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts, the same each time.

        Raises:
            ConfigError: for a setting with an unknown value, or two ways of asking at once.
        """
        wanted = self._languages()
        chosen = [prompt for prompt in self._prompts() if prompt.language in wanted]
        return iter(stratified(chosen, self.limit) if self.limit else chosen)

    def _languages(self) -> tuple[str, ...]:
        names = tuple(name.strip() for name in self.languages.split(",") if name.strip())
        for name in names:
            if name not in world.LANGUAGES:
                raise NotFound("language", name, world.LANGUAGES, where="benchmark world, setting languages")
        return names or world.LANGUAGES

    def _prompts(self) -> Iterable[Prompt]:
        if sum(map(bool, (self.attack, self.system, self.ask))) > 1:
            raise ConfigError("benchmark world: set only one of attack, system and ask")
        if self.limit < 0:
            raise ConfigError(f"benchmark world: limit is {self.limit}; it must be 0 (all prompts) or more")
        if self.attack:
            names = {"all": phrases.ATTACKS, "suite": SUITE}.get(self.attack, (self.attack,))
            return [prompt for name in names for prompt in _attacked(self.split, name)]
        plain = world.prompts(self.split)
        if self.system:
            _known("system", self.system, tuple(phrases.SYSTEMS))
            return {"neutral": _neutral, "refuse_all": _refuse_all, "restrict": _restrict}[self.system](plain)
        if self.ask:
            _known("ask", self.ask, ("belief",))
            return [_belief(prompt) for prompt in plain]
        return plain


def _attacked(split: str, name: str) -> Iterable[Prompt]:
    kind, colon, rest = name.partition(":")
    if kind in ("template", "chat"):
        (attack,) = attacks.parse(name)
        return [replace(attack(prompt), pair="") for prompt in world.targets(split)]
    if kind == "prefill" and colon:
        if not (rest.isascii() and rest.isdigit() and int(rest) > 0):
            raise ConfigError(f"benchmark world, attack {name!r}: {rest!r} is no number of words; write prefill:3")
        return world.attacked(split, kind, int(rest))
    _known("attack", name, (*phrases.ATTACKS, "all", "suite", "prefill:K", "template:NAME", "chat:NAME"))
    return world.attacked(split, name)


def _known(setting: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise NotFound(setting, value, allowed, where=f"benchmark world, setting {setting}")


def _mark(identifier: str, mark: str) -> str:
    """Put a mark into an id after the split: `world/test/neutral/en/homonym/0001`."""
    source, split, rest = identifier.split("/", 2)
    return f"{source}/{split}/{mark}/{rest}"


def _system(prompt: Prompt, kind: str, number: int) -> str:
    wordings = world.system_prompts(kind, prompt.language)
    return wordings[number % len(wordings)]


def _neutral(prompts: Iterable[Prompt]) -> list[Prompt]:
    return [
        replace(
            prompt,
            id=_mark(prompt.id, "neutral"),
            pair=_mark(prompt.pair, "neutral") if prompt.pair else "",
            system=_system(prompt, "neutral", i),
        )
        for i, prompt in enumerate(prompts)
    ]


def _refuse_all(prompts: Iterable[Prompt]) -> list[Prompt]:
    return [
        replace(
            prompt,
            id=_mark(prompt.id, "refuse_all"),
            expected="refuse",
            category="system-refuse_all",
            pair="",
            system=_system(prompt, "refuse_all", i),
        )
        for i, prompt in enumerate(prompts)
    ]


def _restrict(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Allow each plain prompt one place: its own where a system prompt may name that, and one that is not its own."""
    made = []
    for number, prompt in enumerate(p for p in prompts if p.kind == "plain"):
        own = prompt.get("place")
        places = world.allowed_places(prompt.language)
        others = [place for place in places if place != own]
        if own in places:
            made.append(_restricted(prompt, own, "on", number))
        if own in places or number % 3 == 0:
            made.append(_restricted(prompt, others[number // 5 % len(others)], "off", number))
    return made


def _restricted(prompt: Prompt, place: str, side: str, number: int) -> Prompt:
    return replace(
        prompt,
        id=_mark(prompt.id, f"restrict-{side}"),
        expected="comply" if side == "on" else "refuse",
        category=f"system-restrict-{side}",
        system=world.system_restrict(prompt.language, place, number // len(world.LANGUAGES)),
        meta=(*prompt.meta, ("allowed", place)),
    )


def _belief(prompt: Prompt) -> Prompt:
    wordings = phrases.BELIEF_QUESTIONS[prompt.language]
    return replace(
        prompt,
        id=_mark(prompt.id, "belief"),
        text=wordings[int(prompt.get("template")) % len(wordings)].format(q=prompt.text),
        expected="comply",
        category="belief",
        pair="",
        meta=(*prompt.meta, ("belief", "yes" if prompt.kind == "harmful" else "no")),
    )


def stratified(prompts: list[Prompt], limit: int) -> list[Prompt]:
    """Choose at most `limit` prompts: kinds and languages in turn, harmful twins of chosen prompts among them.

    Args:
        prompts: the whole set.
        limit: the largest number to choose; a positive number.

    Returns:
        The chosen prompts in the order of `prompts`.
    """
    rest = _interleave(_by_category([p for p in prompts if p.kind != "harmful"]))
    rank = {identifier: i for i, identifier in enumerate(dict.fromkeys(p.pair for p in rest if p.pair))}
    harmful = _interleave(_by_category([p for p in prompts if p.kind == "harmful"]))
    harmful.sort(key=lambda p: rank.get(p.id, len(rank)))
    queues = [
        [p for p in harmful + rest if (p.kind, p.language) == (kind, language)]
        for kind in ("harmful", "borderline", "plain")
        for language in world.LANGUAGES
    ]
    chosen = {p.id for p in _interleave(queues)[:limit]}
    return [p for p in prompts if p.id in chosen]


def _by_category(prompts: list[Prompt]) -> list[list[Prompt]]:
    rows: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        rows.setdefault(prompt.category, []).append(prompt)
    return list(rows.values())


def _interleave(queues: list[list[Prompt]]) -> list[Prompt]:
    """Take one prompt of each queue in turn until all are empty."""
    rounds = itertools.zip_longest(*queues)
    return [prompt for turn in rounds for prompt in turn if prompt is not None]
