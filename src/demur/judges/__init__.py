"""Judges: read a prompt and an answer, say what the answer did. One file each; the file name is the name.

A judge is called with a list of items and gives, for each item in order, one verdict per question it
answers. `apply` is the only way the rest of demur calls one: it keeps rows that cannot be judged away from
the judge, checks what comes back, and turns every failure of a single row into an unscored verdict.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from demur.errors import ConfigError, Unavailable, one_line
from demur.types import Item, Judge, Response, Verdict

if TYPE_CHECKING:
    from demur.engines import Mapper

__all__ = ["Judging", "apply", "screen"]


def apply(
    judge: Judge, name: str, items: Iterable[Item], batch: int = 64, over: Mapper | None = None
) -> Iterator[Verdict]:
    """Judge every item, in order, whatever happens to single ones.

    Rows that `screen` rejects never reach the judge. A batch on which the judge raises, or for which it
    does not give exactly one verdict per (item, question) in order, is judged again item by item; an item
    that still fails is unscored with a reason that begins with "judge: ".

    Args:
        judge: what to call.
        name: written into each verdict as its `judge`.
        items: the prompts with their answers, read lazily.
        batch: how many items are read, and at most handed to the judge, at a time. A judge's class may ask for more
            (`batch`), or for all consecutive items of a prompt in one call (`together = True`).
        over: an engine to judge batches on, in its blocks where these are larger; None: here.

    Yields:
        For each item in order, one verdict per question in `judge.questions`.

    Raises:
        ConfigError, Unavailable: when the judge itself cannot work (a missing key or server); this is not
            a property of one row.
    """
    size = max(1, batch, getattr(judge, "batch", 1), over.block if over else 1)
    chunks = _chunks(items, size, getattr(judge, "together", False))
    work = Judging(judge, name)
    for verdicts in over(work, chunks) if over else map(work, chunks):
        yield from verdicts


@dataclasses.dataclass(frozen=True, slots=True)
class Judging:
    """A judge's verdicts on a batch, failures of single rows among them; see `apply`."""

    judge: Judge
    name: str

    @property
    def spent(self) -> Any:
        """What the judge has asked for in this process, None where it asks nothing."""
        return getattr(self.judge, "spent", None)

    def __call__(self, chunk: list[Item]) -> list[Verdict]:
        """Give one verdict per (item, question), in order."""
        reasons = [screen(item.response) for item in chunk]
        asked = [i for i, reason in zip(chunk, reasons, strict=True) if not reason]
        judged = iter(_judged(self.judge, self.name, asked))
        made: list[Verdict] = []
        for item, reason in zip(chunk, reasons, strict=True):
            made += _unscored(self.judge, self.name, item, reason) if reason else next(judged)
        return made


def screen(response: Response) -> str:
    """Say why a response cannot be judged ("error: …", "truncated", "filtered"), or "" if it can."""
    if response.finish == "error":
        return f"error: {response.error or 'no reason given'}"
    return {"length": "truncated", "filtered": "filtered"}.get(response.finish, "")


def _chunks(items: Iterable[Item], batch: int, together: bool) -> Iterator[list[Item]]:
    """Cut the items into batches, read lazily; with `together` never between two items of one prompt."""
    same = itertools.groupby(items, key=lambda item: item.prompt.id)
    groups = (list(group) for _, group in same) if together else ([item] for item in items)
    chunk: list[Item] = []
    for group in groups:
        chunk += group
        if len(chunk) >= batch:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _judged(judge: Judge, name: str, items: Sequence[Item]) -> list[list[Verdict]]:
    """Return the verdicts of each item: by one call, or by one call each where that fails."""
    if not items:
        return []
    try:
        return _call(judge, name, items)
    except (ConfigError, Unavailable):
        raise
    except Exception as error:
        if len(items) == 1:
            said = str(error) if isinstance(error, _BadReplyError) else one_line(error)
            return [_unscored(judge, name, items[0], f"judge: {said}")]
    return [verdicts for item in items for verdicts in _judged(judge, name, [item])]


def _call(judge: Judge, name: str, items: Sequence[Item]) -> list[list[Verdict]]:
    """Call the judge once and check that it gave one verdict per (item, question), in order."""
    questions = judge.questions
    per = len(questions)
    due = [(i.prompt.id, i.response.sample, question) for i in items for question in questions]
    given = list(itertools.islice(judge(items), len(due) + 1))
    if len(given) != len(due):
        more = "more than " if len(given) > len(due) else ""
        raise _BadReplyError(f"gave {more}{min(len(given), len(due))} verdicts where {len(due)} were due")
    for verdict, key in zip(given, due, strict=True):
        if (verdict.prompt_id, verdict.sample, verdict.question) != key:
            got = (verdict.prompt_id, verdict.sample, verdict.question)
            raise _BadReplyError(f"gave a verdict on {got} where {key} was due")
    named = [v if v.judge == name else dataclasses.replace(v, judge=name) for v in given]
    return [named[start : start + per] for start in range(0, len(named), per)]


def _unscored(judge: Judge, name: str, item: Item, reason: str) -> list[Verdict]:
    prompt_id, sample = item.prompt.id, item.response.sample
    return [
        Verdict(prompt_id=prompt_id, sample=sample, judge=name, question=question, unscored=reason)
        for question in judge.questions
    ]


class _BadReplyError(Exception):
    """The judge did not give one verdict per (item, question)."""
