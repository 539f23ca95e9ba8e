"""Settings that every benchmark takes without declaring them: language, category, attack, limit, whole, seed.

They apply in this order: the languages and categories are kept, what is left is attacked, and a sample of that is
drawn. A benchmark that declares a setting of the same name keeps its own (the world's `limit` and `attack`, the
columns of `file`).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from demur import attacks, registry
from demur.errors import ConfigError, NotFound
from demur.files import fingerprint
from demur.settings import PartSpec, Problems, build, make, part_of
from demur.source_fields import Setting
from demur.types import ATTACK, Benchmark, Card, Part, Prompt, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Modifiers:
    """What any benchmark can be asked for on top of its own settings."""

    language: tuple[str, ...] = ()
    """Languages to keep; empty: all. `zh` keeps `zh-TW` too."""
    category: tuple[str, ...] = ()
    """Categories to keep; empty: all."""
    attack: tuple[str, ...] = ()
    """`prefill:N`, `refusal_suppression`, `role_play`, `template:NAME` or `all`, in place of the plain prompts."""
    limit: int = 0
    """At most so many prompts, with the shares of kind, language and category that the set has; 0: all."""
    whole: bool = True
    """Whether `limit` keeps groups (translations, rewrites) whole; false keeps only pairs, and asks more groups."""
    seed: int = 0
    """Which sample `limit` draws."""

    def __post_init__(self) -> None:
        attacks.parse_all(self.attack)
        if self.limit < 0:
            raise ConfigError(f"limit is {self.limit}; it must be 0 (all prompts) or more")
        for name, asked in (("seed", self.seed != 0), ("whole", not self.whole)):
            if asked and not self.limit:
                raise ConfigError(f"{name} says how limit draws its sample, and no limit is set; set limit=N too")

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, as a user writes them."""
        found = {}
        for field in dataclasses.fields(self):
            value = to_json(getattr(self, field.name))
            if field.name == "attack":
                value = [text for text in value if text not in ("", "none")]
            if value != to_json(field.default):
                found[field.name] = value[0] if isinstance(value, list) and len(value) == 1 else value
        return found

    def apply(self, prompts: Iterable[Prompt], name: str) -> list[Prompt]:
        """Return what is asked for of `prompts`; `name` stands in errors.

        Raises:
            NotFound: for a language that no prompt has, or a category that none of these languages has.
            ConfigError: for an attack on prompts that are under attack already.
        """
        found = _kept(list(prompts), "language", self.language, lambda p: p.language, name)
        found = _kept(found, "category", self.category, _category, name)
        if chosen := attacks.parse_all(self.attack):
            found = attacks.attacked(found, chosen)
        return sample(found, self.limit, seed=self.seed, whole=self.whole) if self.limit else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Modified:
    """A benchmark under modifiers: itself a benchmark."""

    benchmark: Benchmark
    modifiers: Modifiers

    @property
    def card(self) -> Card:
        """The benchmark's card; its size is that of the whole set."""
        return self.benchmark.card

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts that are asked for; raises as the benchmark and `Modifiers.apply` do."""
        return iter(self.modifiers.apply(self.benchmark(), registry.name_of(type(self.benchmark))))


def settings() -> tuple[Setting, ...]:
    """Return the modifiers as a list of settings shows them: name, type, default, meaning."""
    return registry.written_fields(Path(__file__), Modifiers.__name__)


def build_benchmark(spec: PartSpec, *, where: str = "") -> Benchmark:
    """Make a benchmark from a part whose settings may hold modifiers beside its own.

    Raises:
        NotFound: for an unknown name or setting; ConfigError: for values that are wrong, all of them together.
    """
    own = {setting.name for setting in registry.fields("benchmarks", spec.name)}
    names = {field.name for field in dataclasses.fields(Modifiers)} - own
    mine = {key: value for key, value in spec.settings.items() if key in names}
    rest = {key: value for key, value in spec.settings.items() if key not in names}
    problems = Problems()
    here = f"benchmark {spec.name}{f' in {where}' if where else ''}"
    for key in [key for key in rest if key not in own]:
        with problems.gather():
            raise NotFound("setting", key, [*own, *names], where=here)
    problems.check(where)
    with problems.gather():
        made = cast(Benchmark, build("benchmarks", PartSpec(spec.name, rest), where=where))
    with problems.gather():
        modifiers = _modifiers(mine, own, here)
    problems.check(where)
    return cast(Benchmark, Modified(benchmark=made, modifiers=modifiers)) if modifiers.changed() else made


def benchmark_part(benchmark: object) -> Part:
    """Return the record of a benchmark: its own settings and the modifiers that were set."""
    if not isinstance(benchmark, Modified):
        return part_of("benchmarks", benchmark)
    part, changed = part_of("benchmarks", benchmark.benchmark), benchmark.modifiers.changed()
    mark = fingerprint([part.fingerprint, changed])
    return Part(name=part.name, settings={**part.settings, **changed}, fingerprint=mark)


def defaults(benchmark: object) -> dict[str, Any]:
    """Return the defaults of a benchmark's own settings, or of any other part's, as a record holds them."""
    inner: Any = benchmark.benchmark if isinstance(benchmark, Modified) else benchmark
    found = {f.name: f.default for f in dataclasses.fields(inner)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def sample(prompts: Sequence[Prompt], limit: int, *, seed: int = 0, whole: bool = True) -> list[Prompt]:
    """Draw at most `limit` prompts with the shares of kind, language and category that `prompts` have.

    Units are drawn: groups while they fit, else (a group is larger than the limit) pairs, else single prompts.
    Within each category units are shuffled; the i-th of m gets the place (i + u)/m with one random u for all, and
    places decide the order of the category's units among those of its language, then of languages within a kind, then
    of kinds. The first units in that order are the sample: systematic sampling at each level, so every share is right
    within one unit, and (as long as units fit exactly) a smaller sample is part of a larger one.

    Args:
        prompts: the whole set.
        limit: the largest number to draw, at least 1.
        seed: which sample.
        whole: whether groups stay whole; false begins with pairs.

    Returns:
        The drawn prompts in the order of `prompts`; the same for the same prompts and seed.
    """
    if len(prompts) <= limit:
        return list(prompts)
    levels: list[Callable[[Prompt], str]] = [lambda p: p.cluster, lambda p: p.pair or p.id, lambda p: p.id]
    for key in levels[0 if whole else 1 :]:
        chosen: set[str] = set()
        room = limit
        for unit in _order(prompts, key, seed):
            if len(unit) <= room:
                chosen.update(p.id for p in unit)
                room -= len(unit)
        if chosen:
            return [p for p in prompts if p.id in chosen]
    return []


def _order(prompts: Sequence[Prompt], key: Callable[[Prompt], str], seed: int) -> list[list[Prompt]]:
    """Return the units in the order in which they are drawn."""
    units: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        units.setdefault(key(prompt), []).append(prompt)
    strata: dict[tuple[str, ...], list[list[Prompt]]] = {}
    stratum: tuple[str, ...]
    for unit in units.values():
        kinds, languages = sorted({p.kind for p in unit}), sorted({p.language for p in unit})
        stratum = ("+".join(kinds), "+".join(languages), _category(unit[0]))
        strata.setdefault(stratum, []).append(unit)
    for stratum, inside in strata.items():
        random.Random(f"{seed}/{stratum}").shuffle(inside)
    for level in (2, 1, 0):
        parents: dict[tuple[str, ...], list[tuple[float, list[Prompt]]]] = {}
        for stratum, inside in strata.items():
            start = random.Random(f"{seed}/{stratum}/start").random()
            placed = [((i + start) / len(inside), unit) for i, unit in enumerate(inside)]
            parents.setdefault(stratum[:level], []).extend(placed)
        strata = {parent: [u for _, u in sorted(p, key=lambda x: x[0])] for parent, p in parents.items()}
    return strata[()]


def _modifiers(mine: dict[str, Any], own: set[str], where: str) -> Modifiers:
    """Make the modifiers; a seed for a limit that is the benchmark's own is refused by name."""
    for name in ("seed", "whole"):
        if name in mine and "limit" in own:
            raise ConfigError(f"{where} has a limit of its own, which takes no {name}; leave {name} out")
    return cast(Modifiers, make(Modifiers, mine, where=where))


def _kept(
    prompts: list[Prompt], what: str, wanted: Sequence[str], value: Callable[[Prompt], str], name: str
) -> list[Prompt]:
    """Keep the prompts whose language or category is wanted; each wanted one must occur."""
    if not wanted:
        return prompts
    known = {value(p): value(p).casefold() for p in prompts}
    taken: set[str] = set()
    for one in wanted:
        fits = {v for v, low in known.items() if low == one.casefold()}
        if not fits and what == "language":
            fits = {v for v, low in known.items() if low.startswith(f"{one.casefold()}-")}
        if not fits:
            raise NotFound(what, one, sorted(known), where=f"benchmark {name}")
        taken |= fits
    return [p for p in prompts if value(p) in taken]


def _category(prompt: Prompt) -> str:
    """Return a prompt's own category, also where it is under attack."""
    return prompt.get("category") or prompt.category if prompt.category.startswith(ATTACK) else prompt.category
