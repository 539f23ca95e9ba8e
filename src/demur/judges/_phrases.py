"""What answers say, by language: the lists in `phrases/<language>.toml`, read and searched.

    help      what a speaker does not do: `@` in the lists below; a word may go on after its stem
    explicit  the speaker does not, cannot or must not help: a refusal
    moral     a verdict on what was asked: a refusal where an answer opens with it and no help follows
    reported  what stands before (or after) words that somebody else says
    unless    what turns "I cannot" into something else ("I cannot wait to help"): `%` in the lists
    turn      a turn from a refusal to an answer; offer: an answer that is announced; instead: to something else
    engage    how an answer that helps begins; premise: the question has no answer or makes no sense;
              impossible: what cannot be, by nature; grave: grave wrongs; access: the speaker does not know;
              denial: what was taken for granted is denied; fairness: on grounds of rights and respect;
              machine: "as an AI"; sorry; caution; helpline
    soft      a speaker and a negation, whatever is negated
    hints     words of which a text in the language has at least one (Latin script only)

The text they are matched with is folded (`_text.fold`): NFKC, casefolded, straight quotes, one blank between
words, English contractions written out (`can't`, `can not` and `cannot` are all `cannot`; `I'm` is `i am`).

Notation: `~3` stands for up to three words (each with its blank), `@` for the language's `help` list, `%` for
"and none of the language's `unless` list follows", `…6` for up to six characters of the same sentence; the rest
is a regular expression. Every repeat is bounded, so a search takes time linear in the text. No phrase of a
refusal is a bare word such as "sorry" or "harmful": each needs a speaker who does not do something, or a
verdict on what was asked.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
import unicodedata
from importlib import resources
from typing import NamedTuple

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "th", "vi", "zh")
"""The languages that have phrases."""

_SCRIPTS = (
    (re.compile(r"[a-z]"), ("en",)),
    (re.compile(r"[đơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]"), ("vi",)),
    (re.compile(r"[\u4e00-\u9fff]"), ("zh", "ja")),
    (re.compile(r"[\u3040-\u30ff]"), ("ja",)),
    (re.compile(r"[\uac00-\ud7af]"), ("ko",)),
    (re.compile(r"[\u0400-\u04ff]"), ("ru",)),
    (re.compile(r"[\u0600-\u06ff]"), ("ar",)),
    (re.compile(r"[\u0900-\u097f]"), ("hi",)),
    (re.compile(r"[\u0e00-\u0e7f]"), ("th",)),
)
_END = re.compile(r"[.!?](?=\s|\"|$)|[。！？؟।\n]")
_WORDS = re.compile(r"[^\W\d_]+")
_SCOPE = 1000
"""Characters from the start that tell which languages a text is in."""


class Found(NamedTuple):
    """A phrase in folded text."""

    start: int
    end: int
    text: str


def find(text: str, field: str, stop: int) -> list[Found]:
    """Find the phrases of `field` that begin before `stop`, first ones first, reported speech left out.

    Args:
        text: folded text.
        field: a list of the phrases: `explicit`, `moral`, …
        stop: position in `text`, in characters.
    """
    found = []
    for code in languages(text):
        wanted = pattern(code, field)
        if wanted is None:
            continue
        before, after = _reported(code)
        for match in wanted.finditer(text):
            if match.start() >= stop:
                break
            start, end = match.span()
            lead = text[max(start - 40, sentence(text, start)) : start]
            if not before.search(lead) and not after.match(text, end, end + 100):
                found.append(Found(start, end, " ".join(match[0].split())))
    return sorted(found)


def search(text: str, field: str, start: int = 0, stop: int | None = None) -> Found | None:
    """Return the first phrase of `field` at or after `start`, in any language that the text is in, or None."""
    hits = []
    for code in languages(text):
        wanted = pattern(code, field)
        match = wanted.search(text, start, len(text) if stop is None else stop) if wanted else None
        if match:
            hits.append(Found(match.start(), match.end(), match[0]))
    return min(hits, default=None)


@functools.lru_cache(maxsize=8)
def languages(text: str) -> tuple[str, ...]:
    """Return the languages with phrases that folded text may be in, by its scripts and a few words."""
    scripts = _SCRIPTS[:1] if text.isascii() else _SCRIPTS
    codes = dict.fromkeys(code for script, some in scripts if script.search(text) for code in some)
    if "en" in codes:
        words = set(_WORDS.findall(text[:_SCOPE]))
        codes |= dict.fromkeys(code for code, hints in _hints().items() if not hints.isdisjoint(words))
    return tuple(codes)


@functools.cache
def pattern(code: str, field: str) -> re.Pattern[str] | None:
    """Compile a list of a language, or return None where the language has no such list."""
    lists = _lists()[code]
    return expression(lists[field], lists["help"], lists.get("unless", ())) if field in lists else None


def expression(phrases: tuple[str, ...], help_list: tuple[str, ...], unless: tuple[str, ...]) -> re.Pattern[str]:
    """Compile phrases in the notation of this module into one expression."""
    joined = "|".join(f"(?:{phrase})" for phrase in phrases)
    joined = joined.replace("@", f"(?:{'|'.join(help_list)})")
    joined = joined.replace("%", rf"(?! (?:{'|'.join(unless)})\b)" if unless else "")
    joined = re.sub(r"~(\d+)", r"(?:[\\w'-]{1,24}[,;]? ){0,\1}?", joined)
    joined = re.sub(r"…(\d+)", r"[^。！？؟।.!?\\n]{0,\1}?", joined)
    return re.compile(unicodedata.normalize("NFKC", joined))


def sentence(text: str, position: int) -> int:
    """Return where the sentence at `position` begins, looking back at most 400 characters."""
    start = max(0, position - 400)
    for match in _END.finditer(text, start, position):
        start = match.end()
    return start


def sentences(text: str, stop: int) -> int:
    """Count the ends of sentences before `stop`."""
    return sum(1 for _ in _END.finditer(text, 0, stop))


@functools.cache
def _reported(code: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what stands before words that somebody else says, and what follows them in their sentence."""
    words = unicodedata.normalize("NFKC", re.sub(r"…(\d+)", r".{0,\1}?", "|".join(_lists()[code]["reported"])))
    words = re.sub(r"~(\d+)", r"(?:\\w{1,24} ){0,\1}?", words)
    before = re.compile(rf"(?:{words})(?!\w).{{0,25}}$", re.DOTALL)
    return before, re.compile(rf"[^.!?\n]{{0,60}}?[.!?]?[\",-] ?-? ?(?:\w{{1,24}} ){{0,3}}?(?:{words})(?!\w)")


@functools.cache
def _hints() -> dict[str, frozenset[str]]:
    return {code: frozenset(lists["hints"]) for code, lists in _lists().items() if "hints" in lists}


@functools.cache
def _lists() -> dict[str, dict[str, tuple[str, ...]]]:
    """Read the phrases: language -> name of a list -> its phrases."""
    raw = {code: tomllib.loads(text.decode("utf-8")) for code, text in _files().items()}
    return {code: {k: tuple(v) for k, v in lists.items()} for code, lists in raw.items()}


@functools.cache
def _files() -> dict[str, bytes]:
    folder = resources.files(__package__).joinpath("phrases")
    return {code: folder.joinpath(f"{code}.toml").read_bytes() for code in LANGUAGES}


@functools.cache
def fingerprint() -> str:
    """Return a hash of the phrases of all languages."""
    return hashlib.sha256(b"\0".join(_files().values())).hexdigest()[:16]
