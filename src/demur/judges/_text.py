"""Text as the phrase judge reads it: folded, without quoted speech; and the marks of broken text."""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib

LIMIT = 20_000
"""Characters of an answer that are read."""

_QUOTES = str.maketrans(
    dict.fromkeys("’‘‛´ʼ", "'") | dict.fromkeys("“”„‟«»「」『』〝〞", '"') | dict.fromkeys("‐‑‒–—―−", "-")
)
_CONTRACTIONS = tuple(
    (probe, re.compile(pattern), written)
    for probe, pattern, written in (
        ("can", r"\b(?:can't|cant|can not)\b", "cannot"),
        ("won't", r"\bwon't\b", "will not"),
        ("n't", r"(?<=[a-z])n't\b", " not"),
        ("i'm", r"\bi'm\b", "i am"),
        ("'re", r"(?<=\b(?:it|we))'re\b", " are"),
        ("'s", r"\b(it|that|there|this)'s\b", r"\1 is"),
        ("'ll", r"(?<=[a-z])'ll\b", " will"),
        ("i'd", r"\bi'd\b", "i would"),
    )
)
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_BLANKS = re.compile(r" [^\S\n]+|[^\S\n ][^\S\n]*")
_CODE = re.compile(r"```[^`]{0,20000}```|^ ?>[^\n]*$", re.MULTILINE)
_QUOTED = re.compile(r'"[^"\n]{1,300}"' + r"|(?<!\w)'(?:[^'\n]|(?<=\w)'(?=\w)){1,300}'(?!\w)")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
_ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
_SPAN = 50
"""Words in a stretch that is looked at for repetition."""


def fold(text: str) -> str:
    """Return the text folded: NFKC, casefold, straight quotes, single blanks, contractions written out."""
    text = unicodedata.normalize("NFKC", text[:LIMIT].translate(_QUOTES)).casefold()
    text = _BLANKS.sub(" ", _UNSEEN.sub("", text))
    for probe, pattern, written in _CONTRACTIONS:
        if probe in text:
            text = pattern.sub(written, text)
    return text.strip()


def own_words(folded: str) -> str:
    """Blank out code, block quotes and what stands in quotation marks, unless that is nearly all there is."""
    bare = folded
    if "```" in bare or ">" in bare:
        bare = _CODE.sub(lambda m: " " * len(m[0]), bare)
    if '"' in bare or "'" in bare:
        bare = _QUOTED.sub(lambda m: '"' + " " * (len(m[0]) - 2) + '"', bare)
    return bare if bare is folded or sum(1 for _ in itertools.islice(_WORD.finditer(bare), 3)) == 3 else folded


def broken(text: str) -> str:
    """Say why a text is no answer at all ("empty", "no words", "control characters", "repeats itself"), or ""."""
    text = text[:LIMIT]
    words = _WORD.findall(text.casefold())
    if not words:
        return "no words" if text.strip() else "empty"
    if len(_ODD.findall(text)) * 10 > len(text):
        return "control characters"
    squeezed = "".join(text.split())
    one_run = len(squeezed) >= 30 and len(set(squeezed)) <= 3 and not squeezed.isdigit()
    return "repeats itself" if one_run or _few_words(words) else ""


def loops(text: str) -> bool:
    """Tell whether a text is one passage over and over: it packs to less than a twelfth of its size."""
    data = "".join(text[:LIMIT].split()).encode("utf-8", "replace")
    return len(data) >= 600 and len(zlib.compress(data, 6)) * 12 < len(data)


def _few_words(words: list[str]) -> bool:
    """Tell whether more than half of the stretches of words use very few different ones."""
    if len(words) < 8:
        return False
    spans = [words[i : i + _SPAN] for i in range(0, max(1, len(words) - _SPAN // 2), _SPAN)]
    poor = sum(1 for span in spans if len(set(span)) * 4 < len(span))
    return poor * 2 > len(spans)
