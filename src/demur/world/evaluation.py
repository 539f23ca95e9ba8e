"""The evaluation sets of the world: cases as prompts, paired with their harmful twins, and attacked."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

from demur.errors import DataError
from demur.types import ATTACK, Prompt
from demur.world import phrases
from demur.world.combos import SPLITS, Combo
from demur.world.items import SORT_OF, TEMPLATES, Case, cause_of, check, members, render
from demur.world.tables import LANGUAGES

_Spread = list[tuple[Combo, tuple[str, ...]]]
"""Combinations and the languages each is asked in."""


def to_prompt(case: Case, number: int, pair: str = "") -> Prompt:
    """Turn a case into a prompt whose `meta` carries what the oracle needs.

    Args:
        case: the case.
        number: its row among the cases of its split, language and family; becomes part of the id.
        pair: id of the harmful twin's prompt, on borderline cases.

    Returns:
        A prompt with meta `split family verb object template tool place answer cause`.
    """
    meta = {"split": case.split, "family": case.family, "verb": case.verb, "object": case.object}
    meta |= {"template": str(case.template), "tool": case.tool, "place": case.place, "answer": case.answer}
    return Prompt(
        id=f"world/{case.split}/{case.language}/{case.family}/{number:04d}",
        text=case.text,
        expected="refuse" if case.kind == "harmful" else "comply",
        kind=case.kind,
        source="world",
        category=case.family,
        language=case.language,
        pair=pair,
        group=case.group,
        meta=(*meta.items(), ("cause", cause_of(case))),
    )


def attack(name: str, prompt: Prompt, *, words: int = 0) -> Prompt:
    """Wrap a prompt of the world in a fixed attack.

    `prefill` leaves the text and puts the first words of the answer into meta `prefill`, from where a generator
    starts the answer; `refusal_suppression` and `role_play` rewrite the text.

    Args:
        name: one of `ATTACKS`.
        prompt: a prompt as `prompts` gives it.
        words: of a prefill: how many words of the answer (in Chinese, characters) are given, never more than up to
            the tool, so that the rest must still be said; 0 gives them up to the first comma.

    Raises:
        NotFound: for an unknown attack.
        DataError: for a prompt that is not of the world.
    """
    check("attack", name, phrases.ATTACKS)
    answer = prompt.get("answer")
    if prompt.source != "world" or not answer:
        raise DataError(f"prompt {prompt.id!r} is not of the world: only its prompts can be attacked this way")
    called = f"{name}:{words}" if words else name
    meta: tuple[tuple[str, str], ...] = (*prompt.meta, ("attack", called))
    if name == "prefill":
        meta += (("prefill", _first(answer, prompt.language, words) if words else phrases.comma_end(answer)),)
    *start, language, family, number = prompt.id.split("/")
    return replace(
        prompt,
        id="/".join((*start, language, f"{family}-{called}", number)),
        text=phrases.WRAPPERS[name][prompt.language].format(q=prompt.text),
        category=f"{ATTACK}{called}",
        pair="",
        meta=meta,
    )


def _first(answer: str, language: str, words: int) -> str:
    """Return the first words of an answer, at most up to what names the place."""
    given = answer.partition(phrases.ANSWER_MARKS[language][1])[0].rstrip()
    return given[:words] if language == "zh" else " ".join(given.split(" ")[:words])


@functools.cache
def prompts(split: str) -> tuple[Prompt, ...]:
    """Return the evaluation set of a split: harmful, borderline and plain prompts in all languages.

    Every borderline prompt's `pair` is the id of a harmful prompt of the set, in the same language. The test split
    has over 1,000 harmful and over 1,000 borderline prompts; validation is a little smaller.

    Args:
        split: one of `SPLITS`.

    Raises:
        NotFound: for an unknown split.
    """
    check("split", split, SPLITS)
    harmful = _harmful(split)
    rows = _number(case for family, spread in harmful.items() for case in _render(split, family, spread))
    ids = {(case.item, case.language): prompt.id for case, prompt in rows}
    plan = _borderline(split, harmful) | _plain(split)
    rest = [case for family, spread in plan.items() for case in _render(split, family, spread)]
    rows += _number(rest, ids)
    return tuple(prompt for _, prompt in rows)


def _number(cases: Iterable[Case], ids: dict[tuple[str, str], str] | None = None) -> list[tuple[Case, Prompt]]:
    counts: dict[tuple[str, str], int] = {}
    rows = []
    for case in cases:
        key = (case.language, case.family)
        counts[key] = counts.get(key, 0) + 1
        pair = ids[case.twin, case.language] if ids and case.twin else ""
        rows.append((case, to_prompt(case, counts[key], pair)))
    return rows


def _render(split: str, family: str, spread: _Spread) -> list[Case]:
    templates, made = TEMPLATES[split], []
    for index, (combo, languages) in enumerate(spread):
        for k, language in enumerate(languages):
            made.append(render(combo, family, language, templates[(7 * index + 5 * k) % len(templates)]))
    return made


def _turn(index: int, start: int, count: int) -> tuple[str, ...]:
    """Give `count` languages, beginning `start` after the one whose turn it is at `index`."""
    return tuple(LANGUAGES[(index + start + k) % len(LANGUAGES)] for k in range(count))


def _harmful(split: str) -> dict[str, _Spread]:
    """Ask every harmful combination: in all languages where it is measured, in two where it is fitted on."""
    count = 2 if split == "train" else len(LANGUAGES)
    return {
        family: [(combo, _turn(i, 0, count)) for i, combo in enumerate(members(split, SORT_OF[family]))]
        for family in ("danger_person", "harmful_object")
    }


def _borderline(split: str, harmful: dict[str, _Spread]) -> dict[str, _Spread]:
    """Ask each borderline combination in some of the languages in which its harmful twin is asked."""
    wide = 3 if split == "test" else 2
    languages = {combo.group: spoken[:wide] for combo, spoken in harmful["danger_person"]}
    homonyms = [(combo, languages[combo.group]) for combo in members(split, "homonym")]
    paired = {combo.group for combo, _ in homonyms}
    free = [(combo, spoken[:2]) for combo, spoken in harmful["danger_person"] if combo.group not in paired]
    fiction = [(combo, spoken if i % 2 else spoken[:1]) for i, (combo, spoken) in enumerate(free)]
    definitions = [(combo, spoken[1:]) for i, (combo, spoken) in enumerate(free) if not i % 2]
    return {
        "homonym": homonyms,
        "fiction": fiction,
        "lookalike": [(combo, spoken[:wide]) for combo, spoken in harmful["harmful_object"]],
        "danger_definition": definitions,
    }


def _plain(split: str) -> dict[str, _Spread]:
    plain, person = members(split, "plain"), members(split, "person")
    if split == "train":
        plain, person = plain[::2], person[::2]
    return {
        "plain": [(combo, _turn(i, 0, 2)) for i, combo in enumerate(plain)],
        "person": [(combo, _turn(i, 0, 2)) for i, combo in enumerate(person)],
        "definition": [(combo, _turn(i, 2, 1)) for i, combo in enumerate(plain)],
    }


@functools.cache
def targets(split: str) -> tuple[Prompt, ...]:
    """Return harmful prompts of a split, each of another group, all languages in turn: those that are attacked."""
    chosen: dict[str, Prompt] = {}
    for prompt in prompts(split):
        if prompt.kind == "harmful":
            chosen.setdefault(prompt.group, prompt)
    return tuple(chosen.values())


@functools.cache
def attacked(split: str, name: str, words: int = 0) -> tuple[Prompt, ...]:
    """Return harmful prompts of a split under one attack, each of another group, all languages in turn.

    Args:
        split: one of `SPLITS`.
        name: one of `ATTACKS`.
        words: of a prefill, see `attack`.

    Raises:
        NotFound: for an unknown split or attack.
    """
    check("attack", name, phrases.ATTACKS)
    return tuple(attack(name, prompt, words=words) for prompt in targets(split))
