"""Properties of the answers' text that no rate shows: length, repetition, loops, wrong language, few different words.

| name | value | over |
|---|---|---|
| `answer_tokens` | mean number of tokens, thinking included | answers whose tokens were counted |
| `repetition` | share of an answer's 4-grams that occurred in it before | answers of at least 8 units |
| `loop_rate` | answers that end in one passage over and over (3 times or more, 12 units or more) | answers |
| `off_language_rate` | answers in another language than the prompt's | answers whose language `identify` can tell |
| `distinct_1`, `distinct_2` | different n-grams over all n-grams of an answer | answers with an n-gram |

A unit is a word; in Chinese, Japanese and Thai a character. `distinct_n` (J. Li et al., NAACL 2016) is taken within
each answer and then averaged: over a whole set it would depend on how many answers there are.

Answers that ended in an error or were filtered are no text and count nowhere. In `n_unscored` stand those that a row
cannot speak of: too short, of a language that cannot be told, or without a token count. Intervals (95 %): `wilson` for
rates where every group has one row, else `group-bootstrap`, and `wilson-groups` where that has no width.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur import stats
from demur.counted import Number, codes, nothing, slices
from demur.languages import LANGUAGES, identify
from demur.types import Metric, Prompt, Response

NAMES = ("answer_tokens", "repetition", "loop_rate", "off_language_rate", "distinct_1", "distinct_2")
"""The rows that `compute` gives for each slice."""
RATES = ("loop_rate", "off_language_rate")
"""Those of them that are shares of answers."""
GRAM = 4
SHORTEST = 8
"""Units from which repetition is looked for."""
TIMES, SPAN = 3, 12
"""A loop: a passage at least so many times in a row, over at least so many units."""
PERIOD = 40
"""Units in the longest passage whose repetition is looked for."""
LIMIT = 20_000
"""Characters of an answer that are read, from its end for loops and from its beginning for the rest."""

_SINGLE = "\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f"
_UNIT = re.compile(f"[{_SINGLE}]|[\u0900-\u097f]+|[\u0600-\u06ff]+|[^\\W_{_SINGLE}]+")
_Z = NormalDist().inv_cdf(0.975)


class Shape(NamedTuple):
    """The properties of one answer, in the order of `NAMES`; None where one cannot be said."""

    answer_tokens: float | None
    repetition: float | None
    loop: float | None
    off_language: float | None
    distinct_1: float | None
    distinct_2: float | None


def units(text: str) -> list[str]:
    """Return the words of a text in lower case, single characters in Chinese, Japanese and Thai."""
    return _UNIT.findall(unicodedata.normalize("NFC", text).lower())


def distinct(parts: Sequence[str], n: int) -> float | None:
    """Return different n-grams over all n-grams, None where there is no n-gram."""
    total = len(parts) - n + 1
    return len(set(zip(*(parts[i:] for i in range(n)), strict=False))) / total if total > 0 else None


def looped(parts: Sequence[str]) -> bool:
    """Tell whether a text ends in one passage over and over; the last time may be cut short."""
    for period in range(1, min(PERIOD, len(parts) // TIMES) + 1):
        need = max(TIMES * period, SPAN)
        if len(parts) >= need and all(parts[-i] == parts[-i - period] for i in range(1, need - period + 1)):
            return True
    return False


def shape(prompt: Prompt, response: Response) -> Shape | None:
    """Return the properties of one answer; None where there is none (an error, a filter)."""
    if response.finish in ("error", "filtered"):
        return None
    text = response.text
    parts = units(text[:LIMIT])
    tail = parts if len(text) <= LIMIT else units(text[-LIMIT:])
    grams = distinct(parts, GRAM) if len(parts) >= SHORTEST else None
    language = prompt.language.split("-")[0].lower()
    told = identify(text) if language in LANGUAGES else ""
    return Shape(
        answer_tokens=float(response.n_tokens) if response.n_tokens or not text else None,
        repetition=None if grams is None else 1 - grams,
        loop=float(looped(tail)),
        off_language=float(told != language) if told else None,
        distinct_1=distinct(parts, 1),
        distinct_2=distinct(parts, 2),
    )


def compute(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    *,
    benchmark: str,
    judge: str = "",
    n_boot: int = 400,
) -> list[Metric]:
    """Compute the properties of the answers on every slice.

    Args:
        prompts: with unique ids.
        responses: to these prompts.
        benchmark: the name written into each row.
        judge: written into each row, to show it beside a judge's; no judge has a say in it.
        n_boot: resamples.
    """
    by_id = {p.id: p for p in prompts}
    found = [(by_id[r.prompt_id], shape(by_id[r.prompt_id], r)) for r in responses]
    kept = [(prompt, made) for prompt, made in found if made is not None]
    rows = [prompt for prompt, _ in kept]
    values = np.array([made for _, made in kept], dtype=np.float64).reshape(len(kept), len(NAMES))
    groups = codes(rows)
    metrics = []
    for label, mask in slices(rows):
        numbers = _numbers(values[mask], groups[mask], n_boot)
        metrics += [number.metric(name, label, judge, benchmark) for name, number in zip(NAMES, numbers, strict=True)]
    return metrics


def _numbers(values: stats.Floats, groups: NDArray[np.intp], n_boot: int) -> list[Number]:
    """Return the mean of each column over the rows that have a value; all columns share their resamples."""
    known = np.isfinite(values)
    columns = np.concatenate([np.where(known, values, 0.0), known], axis=1)
    totals = stats.group_totals(columns, groups)
    drawn = stats.resample_totals(totals, n_boot=n_boot) if len(totals) else totals
    size = values.shape[1]
    found = []
    for at, name in enumerate(NAMES):
        own = totals[:, [at, at + size]]
        own = own[own[:, 1] > 0]
        n = int(own[:, 1].sum())
        if not n:
            found.append(nothing(len(values)))
            continue
        value = float(own[:, 0].sum() / n)
        bounds, made = _bounds(own, value, name in RATES, stats.ratio(drawn[:, [at, at + size]]))
        found.append(Number(value, *bounds, n, len(own), len(values) - n, made))
    return found


def _bounds(
    totals: stats.Floats, value: float, rate: bool, resampled: stats.Floats
) -> tuple[tuple[float | None, float | None], str]:
    groups = len(totals)
    if rate and groups == int(totals[:, 1].sum()):
        return stats.wilson(value * groups, groups), "wilson"
    if np.ptp(totals[:, 0] / totals[:, 1]) == 0:
        return (stats.wilson(value * groups, groups), "wilson-groups") if rate else ((None, None), "")
    tail = stats.expanded_tail(_Z, groups)
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return (float(low), float(high)), "group-bootstrap"
