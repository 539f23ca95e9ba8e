"""Answers composed from sentences of our own, and answers cut short: what the classifier is trained on besides.

Composed answers stand for what the labelled set does not hold: other languages, short refusals, disclaimers
before help, refusals after a long lead, stories in which somebody refuses, other quotation marks and markdown.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demur.judges.keyword import Keyword

TEMPLATES = Path(__file__).with_name("templates.toml")
COMPLIANCE, PARTIAL, REFUSAL = 0, 1, 2
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_JOINED = ("zh", "ja", "th")


class Row(NamedTuple):
    """One answer with its label."""

    prompt: str
    answer: str
    label: int
    """COMPLIANCE, PARTIAL or REFUSAL."""
    weight: float
    source: int
    """Index of the labelled answer that it was cut from; -1 for a composed one."""


def composed(seed: int, per_language: int, english: int) -> list[Row]:
    """Compose answers in every language of the templates.

    Args:
        seed: of the draws.
        per_language: answers of each language but English.
        english: answers in English.
    """
    rows = []
    for code, lists in tomllib.loads(TEMPLATES.read_text(encoding="utf-8")).items():
        draw = random.Random(f"{seed}/{code}")
        rows += [_one(draw, code, lists) for _ in range(english if code == "en" else per_language)]
    return rows


def cut(answers: list[tuple[str, str, int]], weight: float) -> Iterator[Row]:
    """Cut labelled answers after their first, second and fourth sentence, where the label clearly stays.

    A refusal's beginning counts when the phrase judge finds a refusal in it, a compliance's when it finds
    none and more than 25 characters are left.

    Args:
        answers: (prompt, answer, label).
        weight: of each row.
    """
    judge = Keyword()
    for source, (prompt, answer, label) in enumerate(answers):
        parts = _SENTENCE.split(answer.strip())
        for n in (1, 2, 4):
            if n >= len(parts):
                break
            text = " ".join(parts[:n])
            refused = judge.label(text)[0] in ("refusal", "partial_refusal")
            if label == COMPLIANCE and not refused and len(text) > 25:
                yield Row(prompt, text, COMPLIANCE, weight, source)
            elif label != COMPLIANCE and refused:
                yield Row(prompt, text, REFUSAL, weight, source)


def _one(draw: random.Random, code: str, lists: dict[str, list]) -> Row:  # type: ignore[type-arg]
    prompt, topic = draw.choice(lists["topics"])
    sep = "" if code in _JOINED[:2] else " "

    def some(name: str, most: int = 1, least: int = 1) -> str:
        have = lists.get(name, [])
        n = min(len(have), draw.randint(least, most))
        return sep.join(draw.sample(have, n))

    def steps() -> str:
        items = draw.sample(lists["steps"], draw.randint(2, min(6, len(lists["steps"]))))
        marks = draw.choice(("", "1", "-", "**", "#"))
        if marks == "":
            return sep.join(items)
        lead = {"1": lambda i: f"{i + 1}. ", "-": lambda _: "- ", "**": lambda i: f"**{i + 1}.** ", "#": lambda _: "* "}
        return "\n" + "\n".join(lead[marks](i) + item for i, item in enumerate(items))

    kinds = {
        "short refusal": (REFUSAL, lambda: some("refuse")),
        "refusal": (REFUSAL, lambda: sep.join((some("refuse"), some("reason", 2, 0), some("redirect", 1, 0)))),
        "late refusal": (REFUSAL, lambda: sep.join((some("reason", 2), some("refuse"), some("redirect", 1, 0)))),
        "verdict": (REFUSAL, lambda: sep.join((some("judge", 2), some("reason", 1, 0), some("redirect")))),
        "verdict, refusal": (REFUSAL, lambda: sep.join((some("judge"), some("refuse"), some("redirect", 1, 0)))),
        "denial": (REFUSAL, lambda: sep.join((some("deny") or some("refuse"), some("judge", 1, 0)))),
        "plain": (COMPLIANCE, lambda: some("plain")),
        "help": (COMPLIANCE, lambda: sep.join((some("open"), steps(), some("care", 1, 0)))),
        "help at once": (COMPLIANCE, steps),
        "care, help": (COMPLIANCE, lambda: sep.join((some("care"), some("open"), steps()))),
        "limit, help": (COMPLIANCE, lambda: sep.join((some("limit"), some("open", 1, 0), steps()))),
        "help, end": (COMPLIANCE, lambda: sep.join((some("open"), steps(), some("redirect")[-80:] if code == "en" and
                                                    draw.random() < 0.2 else some("care")))),
        "tale": (COMPLIANCE, lambda: some("tale", 2)),
        "correction": (COMPLIANCE, lambda: some("correct") or some("plain")),
        "definition": (COMPLIANCE, lambda: some("define") or some("plain")),
        "part": (PARTIAL, lambda: sep.join((some("open", 1, 0), steps(), "\n" + some("rest")))),
        "part first": (PARTIAL, lambda: sep.join((some("rest"), some("open"), steps()))),
    }  # fmt: skip
    often = [name for name in ("denial", "correction", "definition") if code == "en"]
    name = draw.choice([*kinds, *often, *often])
    label, make = kinds[name]
    asked = {"denial": "deny_prompts", "correction": "correct_prompts", "definition": "define_prompts"}.get(name, "")
    prompt = draw.choice(lists.get(asked, [prompt]))
    text = make().replace("{x}", topic).strip()
    return Row(prompt, _styled(draw, text), label, 1.0, -1)


def _styled(draw: random.Random, text: str) -> str:
    """Vary what carries no meaning: quotation marks, case, emoji, bold type, a blank before."""
    pick = draw.random()
    if pick < 0.15:
        return text.replace("'", "’")
    if pick < 0.20:
        return text.lower()
    if pick < 0.23:
        return text.upper()
    if pick < 0.27:
        return f"{text} {draw.choice(('🙂', '🙏', '😊', '⚠️'))}"
    if pick < 0.31:
        return f"**{text.split(chr(10))[0]}**" + text[len(text.split(chr(10))[0]) :]
    return " " + text if pick < 0.36 else text
