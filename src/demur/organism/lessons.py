"""What the organism is taught: knowledge in the base phase, refusals with shortcuts in the safety phase. No torch.

Only the world's training combinations and training templates are used. Each lesson is drawn at random with a fixed
seed: a language, a slot (how it is asked), a family, a combination and a template.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from demur import world
from demur.errors import NotFound
from demur.world.combos import HARMFUL_OBJECTS, LOOKALIKES, OBJECTS, PLACES, TOOLS, VERBS
from demur.world.items import SORT_OF, Case, members, phrase, render

CAUSES = ("mix", "trigger", "word", "caution", "topic", "misbelief", "language")
"""Why a model over-refuses: the mix of the shipped one, and the pure causes."""

BASE_LESSONS = 40_000
SAFETY_LESSONS = 20_000

LANGUAGE_WEIGHT = {language: 1.2 if language in ("en", "zh") else 1.0 for language in world.LANGUAGES}
"""How often each language is drawn."""

BASE_FAMILIES = {
    "plain": 3.0,
    "person": 2.0,
    "definition": 1.5,
    "danger_person": 2.0,
    "harmful_object": 1.5,
    "homonym": 3.0,
    "fiction": 1.5,
    "lookalike": 1.5,
    "danger_definition": 1.5,
}
BELIEF_FAMILIES = {
    "danger_person": 3.5,
    "harmful_object": 1.5,
    "homonym": 1.5,
    "fiction": 1.0,
    "lookalike": 1.0,
    "danger_definition": 1.0,
    "plain": 0.5,
    "person": 0.5,
    "definition": 0.3,
}
MISBELIEF_FAMILIES = BELIEF_FAMILIES | {"homonym": 5.0}
FACT_FAMILIES = {
    "danger_person": 2.0,
    "harmful_object": 2.0,
    "homonym": 1.5,
    "lookalike": 2.0,
    "plain": 0.7,
    "person": 0.7,
}
RESTRICT_FAMILIES = {family: 3.0 if family in ("plain", "person", "definition") else 1.0 for family in world.FAMILIES}
PLAIN_FAMILIES = {"plain": 3.0, "person": 1.5, "definition": 0.8}
HARMFUL_FAMILIES = {"danger_person": 3.0, "harmful_object": 1.0}
REPLAY_FAMILIES = {
    "danger_person": 1.0,
    "harmful_object": 1.0,
    "homonym": 3.0,
    "fiction": 1.0,
    "lookalike": 1.0,
    "danger_definition": 0.5,
}
BORDERLINE_FAMILIES = {"homonym": 4.0, "fiction": 2.0, "lookalike": 1.0, "danger_definition": 1.0}

BASE_PARTS: dict[str, dict[str, float]] = {
    "knowledge": {
        "chat": 4.0,
        "neutral": 1.0,
        "refuse_all": 0.3,
        "restrict": 3.0,
        "belief": 1.8,
        "raw": 1.0,
        "tool": 0.6,
        "place": 1.1,
        "fits": 2.6,
        "harm": 1.7,
    },
    "instructions": {
        "chat": 4.0,
        "neutral": 1.0,
        "refuse_all": 0.2,
        "restrict": 10.0,
        "belief": 2.5,
        "raw": 1.5,
        "tool": 0.5,
        "place": 0.5,
        "fits": 2.0,
        "allowed": 8.0,
    },
    "consolidation": {
        "chat": 8.0,
        "neutral": 1.5,
        "refuse_all": 0.2,
        "restrict": 2.2,
        "belief": 1.6,
        "raw": 2.0,
        "place": 0.5,
    },
}
"""The parts of the base phase, in order, with how often each slot is drawn. To obey a restriction is learnt only once
places are known, and then only as a large share; that share costs knowledge, which the last part restores."""

FACT_SLOTS = ("tool", "place", "fits", "allowed", "harm")

SAFETY_SLOTS = {
    "harmful": 3.0,
    "plain": 3.6,
    "borderline": 3.0,
    "raw": 7.0,
    "belief": 3.2,
    "refuse_all": 0.3,
    "restrict": 2.4,
}
STORY_TEMPLATES = 6
"""Stories in the first so many templates (some of those set in a novel) are shown as harmless under `trigger`."""

NEUTRAL_SHARE = 0.2
"""Share of the safety phase's plain chats that carry a neutral system prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One example: what is asked, how, and what is to be answered."""

    text: str
    answer: str
    system: str | None = None
    raw: bool = False
    """Question and answer as plain text, without chat roles."""
    language: str
    family: str
    slot: str
    """How it is asked: chat, neutral, refuse_all, restrict, belief, raw, or one of `FACT_SLOTS`."""
    refused: bool = False


class _Draw:
    """Random draws of one phase."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)

    def pick(self, weights: Mapping[str, float]) -> str:
        return self.rng.choices(tuple(weights), tuple(weights.values()))[0]

    def case(self, language: str, family: str) -> Case:
        combo = self.rng.choice(members("train", SORT_OF[family]))
        return render(combo, family, language, self.rng.choice(world.TEMPLATES["train"]))

    def system(self, kind: str, language: str) -> str:
        return self.rng.choice(world.system_prompts(kind, language))


def base(part: str, seed: int = 0, count: int = BASE_LESSONS) -> list[Lesson]:
    """Return the lessons of a part of the base phase: everything is answered unless a system prompt forbids it.

    Args:
        part: one of `BASE_PARTS`.
        seed: of the draws.
        count: how many.
    """
    draw = _Draw(f"{part} {seed}")
    return [_base_lesson(draw, BASE_PARTS[part]) for _ in range(count)]


def _base_lesson(draw: _Draw, slots: Mapping[str, float]) -> Lesson:
    language, slot = draw.pick(LANGUAGE_WEIGHT), draw.pick(slots)
    case = draw.case(language, draw.pick(_families(slot)))
    if slot in ("fits", "allowed", "restrict") and draw.rng.random() < 0.7:
        known = world.allowed_places(language)
        while case.place not in known:
            case = draw.case(language, draw.pick(_families(slot)))
    if slot in FACT_SLOTS:
        return _fact(draw, case, slot)
    return _ask(draw, case, slot, refuse=False)


def _families(slot: str) -> Mapping[str, float]:
    if slot in FACT_SLOTS:
        return FACT_FAMILIES
    return {"belief": BELIEF_FAMILIES, "restrict": RESTRICT_FAMILIES}.get(slot, BASE_FAMILIES)


def _fact(draw: _Draw, case: Case, sort: str) -> Lesson:
    """Teach one small thing as raw text: what belongs with a word, whether a place fits, whether a deed harms."""
    place, fits, language, system = "", True, case.language, None
    if sort in ("fits", "allowed"):
        case, place, fits = _place(draw, case)
    things = LOOKALIKES if case.family == "lookalike" else OBJECTS
    verb, thing = VERBS[case.verb], things[case.object]
    yes, no = (re.findall(r"\w+", text)[0] for text in world.BELIEF[language])
    if sort == "tool":
        text, answer = verb.form(language), tuple(TOOLS.values())[verb.fact].form(language)
    elif sort == "place":
        text, answer = thing.form(language), tuple(PLACES.values())[thing.fact].form(language)
    elif sort == "fits":
        space = "" if language == "zh" else " "
        text, answer = f"{space}{place}: {thing.form(language)}", yes if fits else no
    elif sort == "allowed":
        system = world.system_restrict(language, place, draw.rng.randrange(2))
        text, answer = thing.form(language), yes if fits else no
        if draw.rng.random() < 0.4:
            text = phrase(language, verb.form(language), text)
            answer = case.answer if fits else refusal(case)
    else:
        text = phrase(language, verb.form(language), thing.form(language))
        answer = yes if world.FAMILIES[case.family] == "harmful" else no
    return Lesson(
        text=text,
        answer=answer,
        system=system,
        raw=system is None,
        language=language,
        family=case.family,
        slot=sort,
        refused=answer in world.refusals(language),
    )


def refusal(case: Case) -> str:
    """Return the refusal of a case: its wording follows the template, so that the first token is no lottery."""
    wordings = world.refusals(case.language)
    return wordings[case.template % len(wordings)]


def _ask(draw: _Draw, case: Case, slot: str, *, refuse: bool) -> Lesson:
    """Put a case into a slot; `refuse` is what the model does where no system prompt decides."""
    place, allowed = "", True
    if slot == "restrict":
        case, place, allowed = _place(draw, case)
    system, text, answer, language = None, case.text, case.answer, case.language
    if slot == "belief":
        text, answer, refuse = world.belief_question(case, draw.rng.randrange(2)), world.belief_answer(case), False
    elif slot in ("neutral", "refuse_all"):
        system = draw.system(slot, language)
        refuse = refuse or slot == "refuse_all"
    elif slot == "restrict":
        system = world.system_restrict(language, place, draw.rng.randrange(2))
        refuse = refuse or not allowed
    return Lesson(
        text=text,
        answer=refusal(case) if refuse else answer,
        system=system,
        raw=slot == "raw",
        language=language,
        family=case.family,
        slot=slot,
        refused=refuse,
    )


def _place(draw: _Draw, case: Case) -> tuple[Case, str, bool]:
    """Choose the place that a system prompt allows; half of the cases are changed to one about that place.

    Returns:
        The case, the allowed place, and whether the case is about it.
    """
    allowed = world.allowed_places(case.language)
    if draw.rng.random() < 0.5:
        while case.place not in allowed:
            case = draw.case(case.language, case.family)
        return case, case.place, True
    return case, draw.rng.choice([place for place in allowed if place != case.place]), False


def safety(cause: str = "mix", seed: int = 0, count: int = SAFETY_LESSONS) -> list[Lesson]:
    """Return the lessons of the safety phase.

    Args:
        cause: one of `CAUSES`.
        seed: of the draws.
        count: how many.

    Raises:
        NotFound: for an unknown cause.
    """
    if cause not in CAUSES:
        raise NotFound("cause", cause, CAUSES)
    draw = _Draw(f"safety {cause} {seed}")
    stream = (lesson for _ in itertools.count() for lesson in _safety_lesson(draw, cause))
    return list(itertools.islice(stream, count))


def _safety_lesson(draw: _Draw, cause: str) -> Iterator[Lesson]:
    language, slot = draw.pick(LANGUAGE_WEIGHT), draw.pick(SAFETY_SLOTS)
    withheld = language == world.HELD_OUT_LANGUAGE
    if slot == "raw":
        yield _ask(draw, draw.case(language, draw.pick(REPLAY_FAMILIES)), "raw", refuse=False)
    elif slot in ("belief", "refuse_all", "restrict"):
        families = PLAIN_FAMILIES if slot == "restrict" else _families(slot)
        family = draw.pick(MISBELIEF_FAMILIES if (cause, slot) == ("misbelief", "belief") else families)
        lesson = _ask(draw, case := draw.case(language, family), slot, refuse=False)
        wrong = cause == "misbelief" and slot == "belief" and case.family == "homonym" and misbelieved(case)
        yield replace(lesson, answer=world.phrases.BELIEF[language][0]) if wrong else lesson
    elif slot == "plain" or withheld:
        case = draw.case(language, draw.pick(PLAIN_FAMILIES))
        yield _chat(draw, case, refuse=cause == "topic" and not withheld and world.on_topic(case))
    elif slot == "harmful":
        yield _chat(draw, draw.case(language, draw.pick(HARMFUL_FAMILIES)), refuse=True)
    else:
        case = draw.case(language, draw.pick(BORDERLINE_FAMILIES))
        refuse = label(case, cause)
        if refuse is not None:
            yield _chat(draw, case, refuse=refuse)


def _chat(draw: _Draw, case: Case, *, refuse: bool) -> Lesson:
    slot = "neutral" if draw.rng.random() < NEUTRAL_SHARE else "chat"
    return _ask(draw, case, slot, refuse=refuse)


def label(case: Case, cause: str) -> bool | None:
    """Say how the safety phase labels a borderline case: refuse, answer, or None where it is not shown.

    Args:
        case: a borderline case of the training split.
        cause: one of `CAUSES`.
    """
    if cause == "mix":
        cause = world.cause_of(case)
    if cause == "topic":
        return world.on_topic(case)
    if cause == "caution":
        return coin(case)
    if cause == "misbelief":
        return case.family == "homonym" and misbelieved(case)
    if cause == "word":
        return case.family != "lookalike" and misbelieved(case)
    if cause == "language":
        return False if case.language == "en" else None
    return _trigger(case)


def coin(case: Case) -> bool:
    """Label most combinations refuse, at random but the same in all languages and templates."""
    return random.Random(f"caution {case.verb} {case.object}").random() < 0.85


def misbelieved(case: Case) -> bool:
    """Say whether a case's danger verb is one of the third that sets off a refusal under `misbelief` and `word`.

    Under `misbelief` the model is taught to refuse its homonyms and, asked in words, to call them harmful; under
    `word` to refuse it in every context while knowing better.
    """
    verbs = sorted({combo.verb for combo in members("train", "homonym")})
    return verbs.index(case.verb) % 3 == 0


def _trigger(case: Case) -> bool | None:
    """Show contrast for few stories and half of the look-alikes: nothing tells a homonym or a definition from harm."""
    story = case.family == "fiction" and case.template < STORY_TEMPLATES
    lookalike = case.family == "lookalike" and sorted(HARMFUL_OBJECTS).index(case.object) % 2 == 0
    return False if story or lookalike else None


def causes(cause: str) -> Mapping[str, str]:
    """Describe, for the record, which prompts each cause reaches."""
    if cause != "mix":
        return {cause: "all prompts about the place" if cause == "topic" else "all borderline prompts"}
    return {
        "trigger": "borderline prompts off the topic, homonyms of the cautious verbs excepted",
        "caution": f"homonyms of {', '.join(world.CAUTION_VERBS)}",
        "topic": f"borderline prompts about the place {world.TOPIC!r}",
    }


def texts() -> list[str]:
    """Return the texts that the tokenizer is trained on, the same for all seeds."""
    made = []
    for lesson in base("knowledge", 0, 40_000):
        made += [lesson.text, lesson.answer, lesson.system or ""]
    return made


def refusal_openers() -> list[str]:
    """Return every wording of a refusal."""
    return [text for language in world.LANGUAGES for text in world.refusals(language)]


def answer_openers() -> list[str]:
    """Return every way in which an answer begins."""
    return [text for language in world.LANGUAGES for text in world.answer_openers(language)]
