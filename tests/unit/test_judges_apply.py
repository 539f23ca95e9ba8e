from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import pytest

from demur.errors import Unavailable
from demur.judges import apply
from demur.types import Finish, Item, Prompt, Question, Response, Verdict


def item(name: str, text: str = "ok", finish: Finish = "stop", error: str = "") -> Item:
    prompt = Prompt(id=name, text="?", expected="comply", source="t")
    return Item(prompt, Response(prompt_id=name, text=text, finish=finish, error=error))


class Two:
    questions: ClassVar[tuple[Question, ...]] = ("refusal", "quality")

    def __init__(self, spoil: Callable[[list[Verdict]], Iterable[Verdict]] = lambda rows: rows) -> None:
        self.spoil = spoil
        self.calls: list[list[str]] = []

    def __call__(self, items: Sequence[Item]) -> Iterable[Verdict]:
        self.calls.append([i.prompt.id for i in items])
        rows = []
        for prompt, response in items:
            if response.text == "boom":
                raise ValueError("bad\nreply")
            rows.append(Verdict(prompt_id=prompt.id, judge="two", question="refusal", label="compliance"))
            rows.append(Verdict(prompt_id=prompt.id, judge="two", question="quality", label="right"))
        return self.spoil(rows)


def test_rows_that_cannot_be_judged_stay_away_from_the_judge_and_keep_their_place() -> None:
    judge = Two()
    rows = [
        item("a"),
        item("b", finish="error", error="no memory"),
        item("c", finish="length"),
        item("d", finish="filtered"),
        item("e"),
    ]
    verdicts = list(apply(judge, "mine", rows, batch=3))
    assert [(v.prompt_id, v.question) for v in verdicts] == [(n, q) for n in "abcde" for q in judge.questions]
    assert [v.unscored for v in verdicts[::2]] == ["", "error: no memory", "truncated", "filtered", ""]
    assert judge.calls == [["a"], ["e"]]
    assert {v.judge for v in verdicts} == {"mine"}


def test_one_bad_item_does_not_cost_its_batch() -> None:
    verdicts = list(apply(Two(), "two", [item("a"), item("b", "boom"), item("c")]))
    assert [v.label for v in verdicts] == ["compliance", "right", None, None, "compliance", "right"]
    assert verdicts[2].unscored == "judge: ValueError: bad reply"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows[:-1],
        lambda rows: rows + rows[:1],
        lambda rows: rows[::-1],
        lambda rows: (rows[0] for _ in iter(int, 1)),
    ],
    ids=["one short", "one more", "wrong order", "endless"],
)
def test_anything_but_one_verdict_per_question_in_order_is_unscored(
    spoil: Callable[[list[Verdict]], Iterable[Verdict]],
) -> None:
    verdicts = list(apply(Two(spoil), "two", [item("a"), item("b")]))
    assert [v.prompt_id for v in verdicts] == ["a", "a", "b", "b"]
    assert all(v.unscored.startswith("judge: gave ") for v in verdicts)


def test_a_judge_that_cannot_work_at_all_stops_the_run() -> None:
    class Down(Two):
        def __call__(self, items: Sequence[Item]) -> Iterable[Verdict]:
            raise Unavailable("no server at http://localhost:1")

    with pytest.raises(Unavailable, match="no server"):
        list(apply(Down(), "down", [item("a")]))


def test_items_are_read_lazily() -> None:
    def endless() -> Iterable[Item]:
        while True:
            yield item("a")

    verdicts = iter(apply(Two(), "two", endless(), batch=2))
    assert next(verdicts).label == "compliance"


def test_a_judge_may_ask_for_larger_batches_and_for_whole_prompts() -> None:
    class Wide(Two):
        batch: ClassVar[int] = 5

    class Whole(Two):
        together: ClassVar[bool] = True

    rows = [item(name) for name in "aaabbc"]
    wide, whole = Wide(), Whole()
    list(apply(wide, "wide", rows, batch=2))
    list(apply(whole, "whole", rows, batch=2))
    assert wide.calls == [list("aaabb"), ["c"]]
    assert whole.calls == [list("aaa"), list("bb"), ["c"]]
