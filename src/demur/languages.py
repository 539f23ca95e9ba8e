"""Which of fourteen languages a text is written in, by script and stop words; "" where that cannot be told."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "th", "vi", "zh")
"""The languages that can be told apart."""
LIMIT = 1500
"""Characters of a text that are looked at."""
LEAST = 2
"""Letters (of Han, kana, Hangul), or words, below which nothing is said."""

_SCRIPTS = (
    ("latin", "A-Za-z\u00c0-\u024f\u1e00-\u1eff"),
    ("han", "\u3400-\u4dbf\u4e00-\u9fff"),
    ("kana", "\u3040-\u30ff"),
    ("hangul", "\u1100-\u11ff\uac00-\ud7af"),
    ("cyrillic", "\u0400-\u04ff"),
    ("arabic", "\u0600-\u06ff"),
    ("devanagari", "\u0900-\u097f"),
    ("thai", "\u0e00-\u0e7f"),
)
_LETTERS = tuple((name, re.compile(f"[{chars}]")) for name, chars in _SCRIPTS)
_OWN = {"hangul": "ko", "cyrillic": "ru", "arabic": "ar", "devanagari": "hi", "thai": "th"}
_FOREIGN = {"ru": re.compile("[іїєґў]", re.IGNORECASE), "ar": re.compile("[پچژگکیٹڈےہ]")}
"""Letters of other languages in the same script: where they are common, the language is none of ours."""
_CODE = re.compile(r"```.*?(?:```|$)|`[^`\n]*`|https?://\S+", re.DOTALL)
_WORD = re.compile("[a-z\u00c0-\u024f\u1e00-\u1eff]+")
_VIETNAMESE = re.compile("[ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]")

_COMMON = {
    "en": "a the of and to is that it you for with are this not be have on can from what how your an or do they but "
    "as if will would i we there which by about was when more these my me so should in at who why does without "
    "someone write give make using into their his her",
    "es": "el la los las de que y en un una es se no con por para su lo como más pero del al está son este esta "
    "puede cómo qué si hay muy también sobre entre puedo ser tu te yo mi a cuál cuáles escribe dónde alguien sin "
    "una persona hacer cuando sus le o e",
    "fr": "le la les des de du et en un une est que qui ne pas pour dans sur avec ce cette vous je il elle nous au "
    "aux sont plus par comme mais ou votre être peut si se l d j qu a à comment quelle quel sans rédigez écrivez "
    "quelqu son sa ses leur",
    "de": "der die das und ist nicht ein eine einen einem zu den dem mit von für auf sie ich es im sich auch wie "
    "wird sind oder an werden kann bei als man aus wenn nach dass zum zur nur wir du in einer ohne jemanden was "
    "schreibe schreiben am um",
    "it": "il lo la gli le di che e in un una è non per con sono del della dei delle al alla nel si come più ma "
    "questo questa può anche se da ha essere mi ti io cosa ci degli a i su qualcuno senza scrivi suo sua dal dalla "
    "o lo qual",
    "pt": "o os a as de que e em um uma é não para com por do da dos das no na se mais como mas ao ou são este esta "
    "pode você isso também sua seu eu à ser ele muito quando num nos nas sem escreva alguém qual quais",
    "vi": "và của là không có được cho một các trong với người này những bạn để khi đã từ làm như về tôi nó ra vào",
}
_MARKS = tuple(
    (code, re.compile(pattern))
    for code, pattern in (
        ("en", r"\b(?:wh|th)[a-z]+|[a-z]{2}ing\b|[a-z]'(?:s|t|re|ll|ve)\b"),
        ("es", r"[ñ¿¡]|(?:ción|ciones|miento)\b|\b\w+[aei]r(?:se|lo|la)\b"),
        ("fr", r"[êœî]|(?:eux|aux|ments?|tion)\b|\b\w+ez\b"),
        ("de", r"[äöüß]|sch|(?:ung|lich|keit|en)\b"),
        ("it", r"[òùì]|(?:zione|zioni|ità|mente|ndo)\b|\b\w+(?:tto|tta|are|ere|ire)\b"),
        ("pt", r"[ãõ]|(?:ção|ções|mente|ndo)\b|[ln]h[aeo]"),
    )
)
"""What gives a language away inside its words."""
_MARK = 0.4
"""The vote of one such mark."""

_VOTES: dict[str, tuple[tuple[str, ...], float]] = {}
for _word, _n in Counter(w for text in _COMMON.values() for w in set(text.split())).items():
    _in = tuple(code for code, text in _COMMON.items() if _word in text.split())
    _VOTES[_word] = (_in, 1.0 / _n)


def identify(text: str) -> str:
    """Return the code of the language a text is mostly written in, or "" where that cannot be told.

    Code, quoted code and addresses are left out. A script that makes up less than 60 % of the letters decides
    nothing; Latin text is told by stop words, which needs a few of them and a clear lead over the next language.
    """
    text = unicodedata.normalize("NFC", _CODE.sub(" ", text[:LIMIT]))
    if text.isascii():
        counts = {"latin": sum(map(str.isalpha, text)), "han": 0, "kana": 0}
    else:
        counts = {name: len(letters.findall(text)) for name, letters in _LETTERS}
    total = sum(counts.values())
    if not total:
        return ""
    if counts["kana"] + counts["han"] >= 0.6 * total and counts["kana"] + counts["han"] >= LEAST:
        return "ja" if counts["kana"] >= max(0.1 * counts["han"], 1) else "zh"
    script = max(counts, key=lambda name: counts[name])
    if counts[script] < max(LEAST, 0.6 * total):
        return ""
    if script == "latin":
        return _latin(text.lower(), counts["latin"])
    code = _OWN.get(script, "")
    foreign = _FOREIGN.get(code)
    return "" if foreign and len(foreign.findall(text)) > 0.04 * counts[script] else code


def _latin(text: str, letters: int) -> str:
    """Tell a text in Latin letters by its stop words; each votes for the languages it is common in."""
    words = _WORD.findall(text)
    if len(words) < LEAST:
        return ""
    if len(_VIETNAMESE.findall(text)) > 0.06 * letters:
        return "vi"
    votes = dict.fromkeys(_COMMON, 0.0)
    seen = False
    for word in words:
        codes, weight = _VOTES.get(word, ((), 0.0))
        seen = seen or bool(codes)
        for code in codes:
            votes[code] += weight
    if not seen:
        return ""
    best, lead = _lead(votes)
    if lead < 2.5 or votes[best] < max(3, 0.2 * len(words)):
        for code, marks in _MARKS:
            votes[code] += _MARK * min(len(marks.findall(text)), len(words) // 3 + 1)
        best, lead = _lead(votes)
    return best if lead >= 1.3 and votes[best] >= max(1, 0.12 * len(words)) else ""


def _lead(votes: dict[str, float]) -> tuple[str, float]:
    """Return the language with the most votes, and how many times as many as the next it has."""
    (best, most), (_, second) = sorted(votes.items(), key=lambda vote: -vote[1])[:2]
    return best, most / second if second else float("inf")
