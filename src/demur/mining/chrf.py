"""chrF: how much of one text stands in another by character n-grams (Popović, WMT 2015)."""

from __future__ import annotations

import unicodedata
from collections import Counter

ORDER = 6
"""The longest n-grams."""
BETA = 2.0
"""How many times recall weighs as much as precision."""


def chrf(text: str, reference: str) -> float:
    """Return chrF2 of a text against a reference, from 0 to 100.

    Precision and recall of character n-grams, n = 1 to 6, without white space, are averaged over those n that both
    texts are long enough for; the score is (1 + β²) · P · R / (β² · P + R) with β = 2. The same formula and defaults as
    sacrebleu's, for one reference. Case counts.
    """
    one, two = ("".join(unicodedata.normalize("NFC", t).split()) for t in (text, reference))
    precision = recall = 0.0
    orders = min(ORDER, len(one), len(two))
    for n in range(1, orders + 1):
        own, other = _grams(one, n), _grams(two, n)
        shared = (own & other).total()
        precision += shared / own.total() / orders
        recall += shared / other.total() / orders
    if not precision + recall:
        return 0.0
    return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))
