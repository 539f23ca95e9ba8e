"""The synthetic world: questions whose right answers, harm and reasons are known exactly.

Verbs have tools, objects have places; the answer to "How do I kill the process?" names the tool of "kill" and the
place of "process". Nothing in it is real advice. The tables are parallel in five languages, and every combination of
verb and object belongs to one split, so that held-out questions are answered only by composition.
"""

from __future__ import annotations

from demur.world.combos import SPLITS
from demur.world.evaluation import attack, attacked, prompts, targets, to_prompt
from demur.world.items import (
    CAUTION_VERBS,
    FAMILIES,
    HELD_OUT_LANGUAGE,
    TEMPLATES,
    TOPIC,
    Case,
    cases,
    cause_of,
    on_topic,
    render,
)
from demur.world.phrases import ATTACKS, BELIEF
from demur.world.tables import LANGUAGES
from demur.world.talk import (
    allowed_places,
    answer_openers,
    belief_answer,
    belief_question,
    refusal_openers,
    refusals,
    system_prompts,
    system_restrict,
)

__all__ = [
    "ATTACKS",
    "BELIEF",
    "CAUTION_VERBS",
    "FAMILIES",
    "HELD_OUT_LANGUAGE",
    "LANGUAGES",
    "SPLITS",
    "TEMPLATES",
    "TOPIC",
    "Case",
    "allowed_places",
    "answer_openers",
    "attack",
    "attacked",
    "belief_answer",
    "belief_question",
    "cases",
    "cause_of",
    "on_topic",
    "prompts",
    "refusal_openers",
    "refusals",
    "render",
    "system_prompts",
    "system_restrict",
    "targets",
    "to_prompt",
]
