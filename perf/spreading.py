"""Judging over Ray: the rate of two workers against that of one, and of one against this process alone.

A worker takes seconds to start, which says nothing of its pace: rates are of the last three quarters of the rows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from peers import say
from table import Row, ratio_row

from demur import engines
from demur.judges import apply
from demur.judges.classifier import Classifier
from demur.types import Item, Prompt, Response, Verdict

WORDS = (
    "open the lid with care then turn the small dial to its left side until a click is heard and wait for one minute "
    "while the lamp warms up since a cold lamp gives too little light to read the scale by"
)
BLOCK = 256


def items(count: int) -> list[Item]:
    """Return answers of about 200 words, one to a prompt."""
    dice, words = random.Random(0), WORDS.split()
    made = []
    for n in range(count):
        text = ". ".join(" ".join(dice.choices(words, k=14)) for _ in range(14))
        prompt = Prompt(id=f"r/{n}", text=f"How do I use lamp {n}?", expected="comply", source="r")
        made.append(Item(prompt, Response(prompt_id=prompt.id, text=text, finish="stop")))
    return made


def timed(rows: list[Item], over: Any) -> tuple[float, list[Verdict]]:
    """Judge the rows; return how many a second the last three quarters took, and the verdicts."""
    said: list[Verdict] = []
    begun = 0.0
    given: Iterator[Verdict] = apply(Classifier(), "classifier", rows, batch=BLOCK, over=over)
    for verdict in given:
        said.append(verdict)
        if len(said) == len(rows) // 4:
            begun = time.perf_counter()
    return (len(rows) - len(rows) // 4) / (time.perf_counter() - begun), said


def run(*, rounds: int, share: float) -> list[Row]:
    """Judge by turns with two workers, one worker, and none."""
    rows = items(round(24_000 * share) // BLOCK * BLOCK)
    sides = {"two": f"ray:workers=2,block={BLOCK}", "one": f"ray:workers=1,block={BLOCK}", "none": ""}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        kept: dict[str, list[Verdict]] = {}
        for side, text in sides.items():
            with engines.opened(text) as over:
                rate, kept[side] = timed(rows, over)
            rates[side].append(rate)
            say(f"round {number}: {side} {rate:,.0f} rows/s")
        if not kept["two"] == kept["one"] == kept["none"]:
            raise SystemExit("verdicts differ by engine: nothing to compare")
    what = "judging over Ray (classifier)"
    two: dict[str, Any] = {"what": what, "against": "one worker", "equal": "verdicts", "target": 1.6}
    one: dict[str, Any] = {"what": f"{what}, one worker", "against": "no engine", "equal": "verdicts"}
    return [ratio_row(rates["two"], rates["one"], **two), ratio_row(rates["one"], rates["none"], **one)]
