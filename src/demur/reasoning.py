"""Thinking text and answer, told apart in what a model wrote.

Four forms are known: a pair of marks as in `<think>…</think>`, opened by the model or by its template; the channels of
the harmony format (`<|channel|>analysis<|message|>…`), also where a server has stripped its special tokens; a pair
of marks that the user names; and fields of a server's reply, which need no splitting. What is judged is the answer: a
model that was cut off while it thought has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"

PAIRS = (
    (OPEN, CLOSE),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
)
"""Marks that chat models put around their thinking; all but the first are recognised at the start of a text alone."""

_PART = re.compile(
    r"<\|channel\|>\s*(\w+)(?:(?!<\|(?:message|channel)\|>).)*<\|message\|>"
    r"(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_ROLE = re.compile(r"<\|start\|>\s*\w*|<\|(?:end|return|call)\|>")
_STRIPPED = re.compile(r"(?:analysis|commentary)(?=\S)")
_BARE_FINAL = re.compile(r"final(?=[A-Z])")
_CUT = re.compile(r"analysis(?=[A-Z])")
_FINAL = "assistantfinal"


class Split(NamedTuple):
    """A text as thinking and answer."""

    reasoning: str
    answer: str
    finished: bool
    """False where the text ends inside a thinking block; the answer is then empty."""


def split(text: str, *, is_open: bool = False, markers: Sequence[str] = (), harmony: bool = False) -> Split:
    """Tell thinking and answer apart.

    Args:
        text: what the model wrote.
        is_open: whether the prompt left a thinking block open.
        markers: the opening and the closing mark; empty: `PAIRS` and the harmony channels are tried.
        harmony: whether the model is known to write harmony. Only then is a text that merely begins with a channel's
            name, its special tokens gone, read as that channel: others write `analysisResult = 3` too.
    """
    if len(markers) == 2:
        return _marked(text, markers[0], markers[1], is_open)
    if "<|channel|>" in text:
        return _channels(text)
    start = text.lstrip()
    for opening, closing in PAIRS[1:]:
        if start.startswith(opening):
            return _marked(text, opening, closing, is_open=False)
    return _stripped(start, harmony) or _marked(text, OPEN, CLOSE, is_open)


def split_thinking(text: str, *, is_open: bool, harmony: bool = False) -> tuple[str, str]:
    """Return (reasoning, answer) of a generated text; see `split`."""
    found = split(text, is_open=is_open, harmony=harmony)
    return found.reasoning, found.answer


def _marked(text: str, opening: str, closing: str, is_open: bool) -> Split:
    """Take out every closed block; a block that stays open takes all if it opens the text."""
    thoughts, answers, rest = [], [], text.strip()
    if is_open and not rest.startswith(opening):
        rest = opening + rest
    while closing in rest:
        inside, _, rest = rest.partition(closing)
        before, opened, thought = inside.partition(opening)
        if not opened:
            before, thought = "", inside
        answers.append(before.strip())
        thoughts.append(thought.strip())
        rest = rest.strip()
        if opening not in rest:
            break
    finished = not rest.startswith(opening)
    (answers if finished else thoughts).append(rest.removeprefix(opening).strip())
    answer = "\n\n".join(filter(None, answers)) if finished else ""
    return Split("\n\n".join(filter(None, thoughts)), answer, finished)


def _channels(text: str) -> Split:
    """Read harmony: `final` is the answer, every other channel and what stands before the first is thinking."""
    before = _ROLE.sub("", text[: text.index("<|channel|>")]).strip()
    parts = [(name, body.strip()) for name, body in _PART.findall(text)]
    thoughts = [before, *(body for name, body in parts if name != "final")]
    answers = [body for name, body in parts if name == "final"]
    return Split("\n\n".join(filter(None, thoughts)), "\n\n".join(answers), bool(answers))


def _stripped(text: str, harmony: bool) -> Split | None:
    """Read harmony whose special tokens are gone: `analysis…assistantfinal…`; None where the text is not that."""
    if _STRIPPED.match(text) and _FINAL in text:
        thought, _, answer = text.partition(_FINAL)
        return Split(_STRIPPED.sub("", thought, count=1).strip(), answer.strip(), True)
    if harmony and _CUT.match(text):
        return Split(text.removeprefix("analysis").strip(), "", False)
    if harmony and _BARE_FINAL.match(text):
        return Split("", text.removeprefix("final").strip(), True)
    return None
