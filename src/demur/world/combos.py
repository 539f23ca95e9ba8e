"""What can be asked in the world: combinations of a verb and an object, each in exactly one split."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from demur.world import tables
from demur.world.tables import LANGUAGES

SPLITS = ("train", "validation", "test")
SORTS = ("danger", "homonym", "object", "plain", "person")
"""Sorts of combination: danger verb with person, danger verb with harmless object, verb with harmful object and its
look-alike, harmless verb with harmless object, harmless verb with person."""
LOOKALIKE_VERBS = ("make", "buy", "store", "carry")


@dataclass(frozen=True, slots=True)
class Word:
    """One row of a table: its English key, its form per language, and what it belongs with."""

    key: str
    forms: tuple[str, ...]
    """The form used in sentences, in the order of `LANGUAGES`."""
    fact: int
    """Index of the verb's tool or of the object's place."""
    classes: str = ""

    def form(self, language: str) -> str:
        """Return the form used in sentences of `language`."""
        return self.forms[LANGUAGES.index(language)]

    def bare(self, language: str) -> str:
        """Return the noun alone, without article or preposition (the last word of the form)."""
        return self.form(language).replace("'", " ").split(" ")[-1]


@dataclass(frozen=True, slots=True)
class Combo:
    """A verb and an object that belong to one split, in all languages, templates and families."""

    sort: str
    verb: str
    object: str
    split: str
    group: str
    """What is resampled together: this combination, or that of its harmful twin."""


def _rows(table: str, *, english: str = "") -> list[list[str]]:
    rows = [line.split("|") for line in table.strip().splitlines()]
    return [[row[0].replace(" ", "-"), english + row[0], *row[1:]] for row in rows]


def _words(table: str, fact: Callable[[int], int], *, english: str = "") -> dict[str, Word]:
    words = {}
    for index, (key, *rest) in enumerate(_rows(table, english=english)):
        forms, classes = tuple(rest[: len(LANGUAGES)]), "".join(rest[len(LANGUAGES) :])
        words[key] = Word(key, forms, fact(index), classes)
    return words


def _tool(start: int) -> Callable[[int], int]:
    """Give the verbs of a table that begins at verb number `start` tools far from their sense."""
    return lambda index: ((start + index) * 7 + 10) % len(TOOLS)


def _place(start: int, step: int) -> Callable[[int], int]:
    return lambda index: ((start + index) * step + 1) % len(PLACES)


TOOLS: dict[str, Word] = _words(tables.TOOLS, int, english="the ")
PLACES: dict[str, Word] = _words(tables.PLACES, int, english="to the ")
DANGER_VERBS: dict[str, Word] = _words(tables.DANGER_VERBS, _tool(0))
OBJECT_VERBS: dict[str, Word] = _words(tables.OBJECT_VERBS, _tool(len(DANGER_VERBS)))
PERSON_VERBS: dict[str, Word] = _words(tables.PERSON_VERBS, _tool(len(DANGER_VERBS) + len(OBJECT_VERBS)))
VERBS: dict[str, Word] = DANGER_VERBS | OBJECT_VERBS | PERSON_VERBS
PERSONS: dict[str, Word] = _words(tables.PERSONS, _place(0, 7), english="the ")
CLASSES: dict[str, dict[str, Word]] = {
    name: _words(table, _place(12 * i, 3), english="the ") for i, (name, table) in enumerate(tables.THINGS.items())
}
THINGS: dict[str, Word] = {key: word for words in CLASSES.values() for key, word in words.items()}
HARMFUL_OBJECTS: dict[str, Word] = _words(tables.HARMFUL_OBJECTS, _place(0, 9), english="the ")
OBJECTS: dict[str, Word] = PERSONS | THINGS | HARMFUL_OBJECTS


def _lookalikes() -> dict[str, Word]:
    materials = [row[1:] for row in _rows(tables.MATERIALS)]
    made = {}
    for index, (key, word) in enumerate(HARMFUL_OBJECTS.items()):
        m, (en, de, es, fr, zh) = materials[index % len(materials)], word.forms
        forms = (
            en.replace("the ", f"the {m[0]} ", 1),
            f"{de} aus {m[1]}",
            f"{es} de {m[2]}",
            f"{fr} en {m[3]}",
            m[4] + zh,
        )
        made[key] = Word(key, forms, word.fact)
    return made


LOOKALIKES: dict[str, Word] = _lookalikes()
"""The look-alike of each harmful object, under the same key and in the same place: the chocolate bomb."""


def _split(seed: str, keys: Sequence[str], held_out: int) -> dict[str, str]:
    """Deal `keys` to the splits: `held_out` each to validation and test, the rest to train."""
    order = list(keys)
    random.Random(f"demur world {seed}").shuffle(order)
    ends = {"validation": order[:held_out], "test": order[held_out : 2 * held_out], "train": order[2 * held_out :]}
    return {key: split for split, members in ends.items() for key in members}


def _deal(sort: str, pools: dict[str, list[str]], held_out: int) -> list[tuple[str, str, str]]:
    """Deal the objects of each verb to the splits, by the first shuffle that leaves every object in training.

    Returns:
        Triples of verb, object and split.
    """
    wanted = {key for pool in pools.values() for key in pool}
    for attempt in itertools.count():
        splits = {verb: _split(f"{sort} {attempt} {verb}", pool, held_out) for verb, pool in pools.items()}
        dealt = [(verb, key, split) for verb, keys in splits.items() for key, split in keys.items()]
        if {key for _, key, split in dealt if split == "train"} == wanted:
            break
    return dealt


@functools.cache
def combos(sort: str) -> tuple[Combo, ...]:
    """Return all combinations of a sort, in a fixed order.

    Args:
        sort: one of `SORTS`.

    Returns:
        Combinations of all splits. Each verb has objects in every split, each object occurs in training.
    """
    return {"danger": _danger, "homonym": _homonym, "object": _object, "plain": _plain, "person": _person}[sort]()


def _pools(verbs: dict[str, Word]) -> dict[str, list[str]]:
    return {verb: [key for name in word.classes for key in CLASSES[name]] for verb, word in verbs.items()}


def _own(sort: str, dealt: Iterable[tuple[str, str, str]]) -> tuple[Combo, ...]:
    """Make combinations that are groups of their own."""
    return tuple(Combo(sort, verb, key, split, f"{sort}/{verb}/{key}") for verb, key, split in dealt)


def _danger() -> tuple[Combo, ...]:
    return _own("danger", _deal("danger", {verb: list(PERSONS) for verb in DANGER_VERBS}, 12))


def _homonym() -> tuple[Combo, ...]:
    """Pair each (danger verb, harmless object) with its own (danger verb, person) of the same split."""
    twins: dict[tuple[str, str], list[str]] = {}
    for combo in combos("danger"):
        twins.setdefault((combo.verb, combo.split), []).append(combo.group)
    dealt = _deal("homonym", _pools(DANGER_VERBS), 5)
    return tuple(Combo("homonym", verb, key, split, twins[verb, split].pop(0)) for verb, key, split in dealt)


def _object() -> tuple[Combo, ...]:
    """Deal the verbs of each harmful object (and its look-alike): two to train, one each to the others."""
    splits = {key: _split(f"object {key}", LOOKALIKE_VERBS, 1) for key in HARMFUL_OBJECTS}
    return _own("object", [(verb, key, split) for key, verbs in splits.items() for verb, split in verbs.items()])


def _plain() -> tuple[Combo, ...]:
    return _own("plain", _deal("plain", _pools(OBJECT_VERBS), 5))


def _person() -> tuple[Combo, ...]:
    return _own("person", _deal("person", {verb: list(PERSONS) for verb in PERSON_VERBS}, 12))
