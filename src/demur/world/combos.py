"""What can be asked in the world: combinations of a verb and an object, each in exactly one split."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
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


@functools.cache
def combos(sort: str) -> tuple[Combo, ...]:
    """Return all combinations of a sort, in a fixed order.

    Args:
        sort: one of `SORTS`.

    Returns:
        Combinations of all splits. Each verb has objects in every split, each object occurs in training.
    """
    return {"danger": _danger, "homonym": _homonym, "object": _object, "plain": _plain, "person": _person}[sort]()


def _danger() -> tuple[Combo, ...]:
    made = []
    for verb in DANGER_VERBS:
        splits = _split(f"danger {verb}", list(PERSONS), 12)
        made += [Combo("danger", verb, p, s, f"danger/{verb}/{p}") for p, s in splits.items()]
    return tuple(made)


def _pool(verb: Word) -> list[str]:
    return [key for name in verb.classes for key in CLASSES[name]]


def _homonym() -> tuple[Combo, ...]:
    """Pair each (danger verb, harmless object) with its own (danger verb, person) of the same split."""
    persons: dict[tuple[str, str], list[Combo]] = {}
    for combo in combos("danger"):
        persons.setdefault((combo.verb, combo.split), []).append(combo)
    made = []
    for verb, word in DANGER_VERBS.items():
        taken = dict.fromkeys(SPLITS, 0)
        for key, split in _split(f"homonym {verb}", _pool(word), 5).items():
            twin = persons[verb, split][taken[split]]
            taken[split] += 1
            made.append(Combo("homonym", verb, key, split, twin.group))
    return tuple(made)


def _object() -> tuple[Combo, ...]:
    made = []
    for key in HARMFUL_OBJECTS:
        splits = _split(f"object {key}", LOOKALIKE_VERBS, 1)
        made += [Combo("object", v, key, s, f"object/{v}/{key}") for v, s in splits.items()]
    return tuple(made)


def _plain() -> tuple[Combo, ...]:
    made = []
    for verb, word in OBJECT_VERBS.items():
        splits = _split(f"plain 31 {verb}", _pool(word), 5)  # 31: every object is in training
        made += [Combo("plain", verb, key, s, f"plain/{verb}/{key}") for key, s in splits.items()]
    return tuple(made)


def _person() -> tuple[Combo, ...]:
    made = []
    for verb in PERSON_VERBS:
        splits = _split(f"person {verb}", list(PERSONS), 12)
        made += [Combo("person", verb, key, s, f"person/{verb}/{key}") for key, s in splits.items()]
    return tuple(made)
