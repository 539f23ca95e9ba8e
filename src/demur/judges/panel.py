"""Several judges together: cheap ones first, or by majority."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from demur.errors import ConfigError
from demur.judges import apply
from demur.judges._asking import Spent
from demur.judges._rubrics import POSITIVE
from demur.registry import name_of
from demur.types import LABELS, Item, Judge, Question, Verdict

_BLANK: Mapping[str, Any] = {"label": None, "score": None, "reason": "", "raw": "", "unscored": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Several judges: a cascade from cheap to dear, or a majority.

    `cascade`: the first member judges every answer; each next one only those for which no member so far gave a label
    that counts, one with at least the confidence asked for and not among those passed on. What nobody was sure of
    stays unscored. A verdict's confidence is that of its label, from `score` (probability of the positive class); a
    verdict without a score counts as sure.

    `majority`: every member judges every answer; a label needs more than half of the members that answer the
    question, those that could not judge included. `score` is the share of refusals (full or partial), harm or right
    answers among the labels given.

    Each member's verdict is kept in `raw` (a JSON list; `ballots` reads it), and `reason` names who decided. Members
    are named as judges are; a second one of a name is `llm#2`. Deterministic as far as its members are.
    """

    members: tuple[Judge, ...]
    """Judge parts, cheap ones first: `members=[keyword,"llm:generator.name=http,…"]`."""
    mode: Literal["cascade", "majority"] = "cascade"
    """`cascade` or `majority`."""
    confidence: float = 0.8
    """Cascade: the least confidence with which a member's label counts."""
    pass_on: tuple[str, ...] = ()
    """Cascade: labels that never count unless the last member gives them, as in `[partial_refusal]`."""

    batch: ClassVar[int] = 256

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ConfigError(f"judge panel: {len(self.members)} members; name at least two, as in members=[keyword,…]")
        if not 0 <= self.confidence <= 1:
            raise ConfigError(f"judge panel: confidence is {self.confidence}; it must be from 0 to 1")
        if wrong := [label for label in self.pass_on if not any(label in labels for labels in LABELS.values())]:
            known = ", ".join(dict.fromkeys(label for labels in LABELS.values() for label in labels))
            raise ConfigError(f"judge panel: pass_on names {wrong[0]!r}, which is no label; there are {known}")
        if any(getattr(type(member), "together", False) for member in self.members):
            raise ConfigError("judge panel: `confidence` needs all samples of a prompt at once and cannot be a member")

    @property
    def questions(self) -> tuple[Question, ...]:
        """Every question that a member answers."""
        return tuple(dict.fromkeys(question for member in self.members for question in member.questions))

    @property
    def spent(self) -> Spent:
        """What the members have asked for, together."""
        return sum((getattr(member, "spent", Spent()) for member in self.members), Spent())

    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        """Give one verdict per item and question, in order."""
        given: list[list[Verdict]] = [[] for _ in items]
        named = self._named()
        last = {question: name for name, member in named for question in member.questions}
        for name, member in named:
            asked = member.questions
            places = [at for at, rows in enumerate(given) if self._wants(rows, asked, last)]
            verdicts = apply(member, name, [items[at] for at in places])
            for at in places:
                given[at] += [next(verdicts) for _ in asked]
        for item, rows in zip(items, given, strict=True):
            for question in last:
                own = [row for row in rows if row.question == question]
                yield Verdict(
                    prompt_id=item.prompt.id,
                    sample=item.response.sample,
                    judge="panel",
                    question=question,
                    raw=json.dumps([_ballot(row) for row in own], ensure_ascii=False),
                    **(self._cascaded(own, last) if self.mode == "cascade" else _majority(own)),
                )

    def _named(self) -> list[tuple[str, Judge]]:
        seen: Counter[str] = Counter()
        named = []
        for member in self.members:
            name = name_of(type(member))
            seen[name] += 1
            named.append((f"{name}#{seen[name]}" if seen[name] > 1 else name, member))
        return named

    def _wants(self, rows: Sequence[Verdict], asked: Sequence[Question], last: Mapping[Question, str]) -> bool:
        """Say whether a member that answers these questions is asked, after the verdicts given so far."""
        return self.mode == "majority" or any(
            not any(row.question == question and self._counts(row, last) for row in rows) for question in asked
        )

    def _counts(self, row: Verdict, last: Mapping[Question, str]) -> bool:
        sure = row.label is not None and _sureness(row) >= self.confidence
        return sure and (row.label not in self.pass_on or row.judge == last[row.question])

    def _cascaded(self, rows: Sequence[Verdict], last: Mapping[Question, str]) -> dict[str, Any]:
        decided = next((row for row in rows if self._counts(row, last)), None)
        if decided is not None:
            reason = f"{decided.judge}: {decided.reason}" if decided.reason else decided.judge
            return {"label": decided.label, "score": decided.score, "reason": reason}
        said = "; ".join(f"{row.judge}: {row.unscored or f'{row.label} at {_sureness(row):.2f}'}" for row in rows)
        return {"unscored": f"judge: no member was sure ({said})"}


def ballots(verdict: Verdict) -> tuple[Verdict, ...]:
    """Return the verdicts of a panel's members from the panel's own, first asked first."""
    rows = json.loads(verdict.raw or "[]")
    return tuple(dataclasses.replace(verdict, **{**_BLANK, **row}) for row in rows)


def _ballot(row: Verdict) -> Mapping[str, Any]:
    held = {name: getattr(row, name) for name in ("judge", *_BLANK)}
    return {name: value for name, value in held.items() if value not in (None, "")}


def _sureness(row: Verdict) -> float:
    return 1.0 if row.score is None else max(row.score, 1 - row.score)


def _majority(rows: Sequence[Verdict]) -> dict[str, Any]:
    labels = Counter(row.label for row in rows if row.label is not None)
    label, most = labels.most_common(1)[0] if labels else (None, 0)
    if 2 * most > len(rows):
        score = sum(n for name, n in labels.items() if name in POSITIVE) / labels.total()
        return {"label": label, "score": score, "reason": f"{most} of {len(rows)} members"}
    counts = ", ".join(f"{row.judge}: {row.label or row.unscored}" for row in rows)
    return {"unscored": f"judge: no label has more than half of {len(rows)} members ({counts})"}
