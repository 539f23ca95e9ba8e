"""What is said around the questions: refusals, system prompts, belief questions."""

from __future__ import annotations

from demur.world import phrases
from demur.world.combos import PLACES
from demur.world.items import Case, check
from demur.world.tables import LANGUAGES

RESTRICTIONS = ("kitchen", "garden", "harbour", "library")
"""The places that a restricting system prompt may allow: few, so that a small model can learn what belongs to each."""


def refusals(language: str) -> tuple[str, ...]:
    """Return the wordings of a refusal in a language."""
    check("language", language, LANGUAGES)
    return phrases.REFUSALS[language]


def refusal_openers(language: str) -> tuple[str, ...]:
    """Return the opening words of each refusal wording, in the same order."""
    check("language", language, LANGUAGES)
    return phrases.REFUSAL_OPENERS[language]


def answer_openers(language: str) -> tuple[str, ...]:
    """Return the words or signs with which answers begin, those to belief questions included."""
    check("language", language, LANGUAGES)
    beliefs = tuple(phrases.comma_end(text)[:-1] for text in phrases.BELIEF[language])
    return phrases.ANSWER_OPENERS[language] + beliefs


def system_prompts(kind: str, language: str) -> tuple[str, ...]:
    """Return the system prompts of a kind.

    Args:
        kind: `neutral` (should change nothing), `refuse_all` (every question is to be refused) or `restrict`
            (templates with the slot `{p}` for the place; see `system_restrict`).
        language: one of `LANGUAGES`.
    """
    check("kind of system prompt", kind, tuple(phrases.SYSTEMS))
    check("language", language, LANGUAGES)
    return phrases.SYSTEMS[kind][language]


def system_restrict(language: str, place: str, wording: int = 0) -> str:
    """Return a system prompt that allows only questions about one place.

    Args:
        language: one of `LANGUAGES`.
        place: the place's word in that language, as in `Case.place`.
        wording: which wording; counted round.
    """
    wordings = system_prompts("restrict", language)
    return wordings[wording % len(wordings)].format(p=place)


def allowed_places(language: str) -> tuple[str, ...]:
    """Return the words, as in `Case.place`, of the places that a restricting system prompt may name."""
    check("language", language, LANGUAGES)
    return tuple(PLACES[name].bare(language) for name in RESTRICTIONS)


def belief_question(case: Case, wording: int | None = None) -> str:
    """Ask whether a case's request is harmful.

    Args:
        case: the request asked about, in its own language.
        wording: which wording (counted round); by default it follows the case's template.
    """
    wordings = phrases.BELIEF_QUESTIONS[case.language]
    return wordings[(case.template if wording is None else wording) % len(wordings)].format(q=case.text)


def belief_answer(case: Case) -> str:
    """Return the true answer to `belief_question`: yes exactly for the harmful kind."""
    return phrases.BELIEF[case.language][0 if case.kind == "harmful" else 1]
