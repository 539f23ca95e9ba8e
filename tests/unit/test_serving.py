"""The server's parts that need no model: text as it is written, the queue, names, requests, what a request passes."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import ValidationError

from demur.serving import page
from demur.serving.engine import Answer, Engine
from demur.serving.faults import Fault
from demur.serving.gate import Gate
from demur.serving.limits import Limits
from demur.serving.menu import BASE, Entry, Floor, Menu, Prepared
from demur.serving.spelling import byte_letters
from demur.serving.wire import ChatRequest, CompletionRequest, Message, explain
from demur.serving.writing import Drawn, Piece, Writer, first_of, overlap

END = 256


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return bytes(i for i in ids if i < END).decode("utf-8", "replace")


def written(text: str, *stops: str, most: int = 1000, before: str = "") -> list[Piece]:
    writer = Writer(Bytes(), most, stops, tuple(before.encode()))
    pieces = []
    for token in (*text.encode(), END):
        pieces.append(writer.add(Drawn(token, -1.0, ends=token == END)))
        if pieces[-1].finish:
            break
    return pieces


def test_text_comes_in_whole_characters_and_all_of_it() -> None:
    text = "naïve 漢字 🙂 ok"
    pieces = written(text)
    assert "".join(p.text for p in pieces) == text
    assert all("\ufffd" not in p.text for p in pieces)
    assert [t.token for p in pieces for t in p.tokens] == list(text.encode())
    assert pieces[-1].finish == "stop"
    # the three tokens of a character come with its text
    assert [len(p.tokens) for p in pieces if p.text == "漢"] == [3]


def test_an_answer_cut_inside_a_character_gives_what_there_is() -> None:
    pieces = written("a漢", most=3)
    assert "".join(p.text for p in pieces) == "a\ufffd"
    assert pieces[-1].finish == "length"


def test_a_text_that_is_continued_keeps_its_characters() -> None:
    assert "".join(p.text for p in written("字 ok", before="漢漢漢")) == "字 ok"


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (("lo w",), "hel"),
        (("world", "wor"), "hello "),
        (("xyz",), "hello world"),
        (("d",), "hello worl"),
        (("hello",), ""),
        (("llo world!", "o"), "hell"),
    ],
)
def test_stop_strings_end_an_answer_over_token_boundaries(stops: tuple[str, ...], expected: str) -> None:
    pieces = written("hello world", *stops)
    assert "".join(p.text for p in pieces) == expected
    assert pieces[-1].finish == "stop"
    assert bytes(t.token for p in pieces for t in p.tokens).decode() == expected


def test_text_that_may_become_a_stop_string_is_held_back_and_then_given() -> None:
    seen = [p.text for p in written("ab-c", "--")]
    assert seen == ["a", "b", "", "-c", ""]


def test_stop_strings_agree_with_a_search_of_the_whole_text() -> None:
    draw = random.Random(0)
    for _ in range(80):
        text = "".join(draw.choices("ab", k=12))
        stops = tuple("".join(draw.choices("ab", k=draw.randint(1, 4))) for _ in range(2))
        got = "".join(p.text for p in written(text, *stops))
        # one token a time: the stop that is complete first ends the text, at its earliest beginning
        for end in range(1, len(text) + 1):
            if (at := first_of(text[:end], stops)) >= 0:
                assert got == text[:at]
                break
        else:
            assert got == text
    assert overlap("xab", ("abab",)) == 2


@dataclass
class Script:
    """A session that answers a prompt with itself, byte by byte."""

    rows: dict[Answer, list[int]] = field(default_factory=dict)
    turns: list[str] = field(default_factory=list)
    most: int = 0
    fails: bool = False
    closed: bool = False
    going: threading.Event = field(default_factory=threading.Event)
    """Cleared, it holds the rows where they are; set by default."""

    def __post_init__(self) -> None:
        self.going.set()

    def join(self, answers: Sequence[Answer]) -> list[tuple[Answer, Drawn]]:
        if self.fails:
            raise RuntimeError("broken")
        self.rows |= {answer: [*answer.encoded, END] for answer in answers}
        self.most = max(self.most, sum(answer.rows for answer in self.rows))
        assert len({answer.group for answer in self.rows}) == 1
        self.turns.append("".join(answer.group for answer in answers))
        return [(answer, self.draw(answer)) for answer in answers]

    def step(self) -> list[tuple[Answer, Drawn]]:
        assert self.going.wait(10)
        return [(answer, self.draw(answer)) for answer in self.rows]

    def draw(self, answer: Answer) -> Drawn:
        token = self.rows[answer].pop(0) if len(self.rows[answer]) > 1 or answer.plan != "endless" else 65
        return Drawn(token, 0.0, ends=token == END)

    def drop(self, answers: Collection[Answer]) -> None:
        for answer in answers:
            self.rows.pop(answer, None)

    def clear(self) -> None:
        self.rows = {}

    def close(self) -> None:
        self.closed = True


def test_groups_take_turns_without_overtaking() -> None:
    async def test(engine: Engine, script: Script) -> None:
        first = [answer(text, group=text[0]) for text in ("a1", "b1", "a2", "b2", "c1", "a3")]
        engine.submit(first)
        assert [await text_of(one) for one in first] == ["a1", "b1", "a2", "b2", "c1", "a3"]
        # those of one group go together, though others stand between them
        assert script.turns == ["aaa", "bb", "c"]
        long, other, late = answer("a" * 300, group="a"), answer("b", group="b"), answer("a late", group="a")
        script.going.clear()  # else the long one may have ended before the others come
        engine.submit([long])
        while len(script.turns) < 4:
            await asyncio.sleep(0.001)
        engine.submit([other, late])
        script.going.set()
        for one in (long, other, late):
            await text_of(one)
        assert script.turns[3:] == ["a", "b", "a"]  # who comes after another group's waits for the next turn

    running(test, rows=4)


def test_an_answer_of_two_rows_waits_for_two_and_is_not_overtaken() -> None:
    async def test(engine: Engine, script: Script) -> None:
        asked = [answer(text, rows=rows) for text, rows in (("one", 1), ("two", 2), ("three", 2), ("four", 1))]
        engine.submit(asked)
        assert [await text_of(one) for one in asked] == ["one", "two", "three", "four"]

    assert running(test, rows=3).most == 3
    assert running(test, rows=1).most == 2  # alone, it takes what it needs


def answer(text: str, *, group: str = "", rows: int = 1, plan: str = "", deadline: float = math.inf) -> Answer:
    return Answer(
        encoded=list(text.encode()),
        plan=plan,
        group=group,
        rows=rows,
        draws=random.Random(0),
        writer=Writer(Bytes(), 10**9),
        deadline=deadline,
        events=asyncio.Queue(),
    )


async def text_of(one: Answer) -> str:
    text = ""
    while True:
        _, what = await asyncio.wait_for(one.events.get(), 10)
        if isinstance(what, Fault):
            return f"{what.status} {what.code}"
        text += what.text
        if what.finish:
            return text


def running(test: Callable[[Engine, Script], Awaitable[None]], **limits: Any) -> Script:
    script = Script()

    async def whole() -> None:
        engine = Engine(script, Limits(**({"rows": 2} | limits)))
        engine.start()
        try:
            await test(engine, script)
        finally:
            await engine.close(5)

    asyncio.run(whole())
    assert script.closed
    return script


def test_answers_share_the_batch_and_each_gets_its_own() -> None:
    async def test(engine: Engine, script: Script) -> None:
        asked = [answer(f"answer {n} " + "x" * n) for n in range(9)]
        engine.submit(asked)
        assert [await text_of(one) for one in asked] == [bytes(one.encoded).decode() for one in asked]

    assert running(test).most == 2


def test_a_full_queue_says_when_to_come_again() -> None:
    async def test(engine: Engine, script: Script) -> None:
        engine.submit([answer("", plan="endless") for _ in range(2)])
        while engine.waiting:
            await asyncio.sleep(0.001)
        engine.submit([answer("a"), answer("b")])
        with pytest.raises(Fault) as met:
            engine.submit([answer("c")])
        assert met.value.status == 429
        assert 1 <= int(met.value.headers["Retry-After"]) <= 60
        engine.cancel([*engine.live])

    running(test, queue=2)


def test_what_nobody_waits_for_leaves_and_what_takes_too_long_is_told() -> None:
    async def test(engine: Engine, script: Script) -> None:
        gone, late, next_ = answer("", plan="endless"), answer("", plan="endless"), answer("next")
        late.deadline = engine.clock() + 0.05
        engine.submit([gone, late, next_])
        assert await text_of(late) == "504 timeout"
        assert await text_of(next_) == "next"
        engine.cancel([gone])
        while engine.live:
            await asyncio.sleep(0.001)

    running(test)


def test_a_failing_model_is_told_and_the_next_request_is_served() -> None:
    async def test(engine: Engine, script: Script) -> None:
        script.fails = True
        first = answer("first")
        engine.submit([first])
        assert await text_of(first) == "500 model_error"
        script.fails = False
        second = answer("second")
        engine.submit([second])
        assert await text_of(second) == "second"

    running(test)


def test_closing_finishes_what_was_accepted_and_takes_no_more() -> None:
    async def test(engine: Engine, script: Script) -> None:
        asked = [answer("some words to write " * 5) for _ in range(5)]
        engine.submit(asked)
        await engine.close(5)
        assert [await text_of(one) for one in asked] == ["some words to write " * 5] * 5
        with pytest.raises(Fault, match="ending"):
            engine.submit([answer("late")])

    running(test)


def test_closing_gives_up_what_does_not_end() -> None:
    async def test(engine: Engine, script: Script) -> None:
        engine.submit([answer("", plan="endless")])
        await engine.close(0.02)
        assert not engine.live

    running(test)


def menu() -> Menu:
    kept = Floor(state="kept", verdict="shown")
    entries = {
        "": Entry(prepared=Prepared("plain")),
        "calm": Entry(name="calm", prepared=Prepared("calm"), floor=kept),
        "polite": Entry(name="polite", prepared=Prepared("polite"), fixed="it is a text"),
    }
    return Menu("m", entries, lambda entry, strength: Prepared(f"{entry.name} at {strength}"))


def test_interventions_are_named_by_the_model_or_beside_it() -> None:
    found = menu()
    assert found.ids() == ["m", "m+calm", "m+polite"]
    assert (
        found.find("m+calm", None).name == found.find("m", "calm").name == found.find("m+calm", "calm").name == "calm"
    )
    assert found.find("m", None).name == found.find("m", "").name == ""
    for model, intervention, part in (
        ("m+clam", None, "did you mean 'm+calm'"),
        ("m", "polit", "did you mean 'polite'"),
        ("m+calm", "polite", "give one"),
    ):
        with pytest.raises(Fault, match=part.replace("+", r"\+")):
            found.find(model, intervention)


def test_a_strength_is_a_factor_and_its_floor_was_not_measured() -> None:
    found = menu()
    calm = found.entries["calm"]
    assert found.prepare(calm, 1).plan == "calm"
    assert found.prepare(calm, 0).plan == "plain"
    assert found.prepare(calm, 0.5).plan == "calm at 0.5"
    assert (calm.floor_at(1).state, calm.floor_at(0.5).state, calm.floor_at(0)) == ("kept", "not measured", BASE)
    with pytest.raises(Fault, match="it is a text"):
        found.prepare(found.entries["polite"], 2)
    with pytest.raises(Fault, match="m has no intervention whose strength could be changed"):
        found.prepare(found.entries[""], 0.5)
    for step in range(80):
        found.prepare(calm, 1.5 + step / 100)
    assert len(found._kept) <= 64


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": "2"}, "n: "),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"tools": []}, "'tools' is not supported"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "content"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"stop": [""]}, "stop"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"continue_final_message": True}, "last message by the assistant"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_told_why(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as met:
        ChatRequest.model_validate(CHAT | change)
    errors = [{**e, "loc": ("body", *e["loc"])} for e in met.value.errors(include_url=False)]
    assert says in explain(errors)[0]


def test_what_clients_send_is_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = {"role": "user", "content": parts, "name": None}
    asked = ChatRequest.model_validate(
        {"model": "m", "messages": [message], "user": "u", "stop": None, "temperature": 0}
    )
    assert asked.messages[0].text == "ab"
    assert asked.stops == ()
    assert Message(role="user", content="c").text == "c"
    one = CompletionRequest.model_validate({"model": "m", "prompt": [1, 2]})
    two = CompletionRequest.model_validate({"model": "m", "prompt": [[1], [2]]})
    three = CompletionRequest.model_validate({"model": "m", "prompt": ["a", "b"]})
    assert (one.prompts, two.prompts, three.prompts) == ([[1, 2]], [[1], [2]], ["a", "b"])


def passed(
    gate_of: dict[str, Any],
    parts: Sequence[bytes] = (b"{}",),
    headers: dict[str, str] | None = None,
    path: str = "/v1/x",
) -> tuple[int, Any]:
    """Send one request through a gate; the application behind it answers with the body it was given."""
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": p, "more_body": n < len(parts) - 1} for n, p in enumerate(parts)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(message["body"].decode()).encode()})

    async def receive() -> Any:
        if not waiting:
            await asyncio.sleep(10)
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
    scope = {"type": "http", "path": path, "headers": pairs}
    asyncio.run(Gate(app, **gate_of)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_body_arrives_whole_or_not_at_all() -> None:
    small = {"limits": Limits(body=10, body_seconds=0.02)}
    assert passed(small, [b"12345", b"67890"]) == (200, "1234567890")
    assert passed(small, [b"12345", b"678901"])[0] == 413
    assert passed(small, [b"1"], {"content-length": "11"})[0] == 413
    status, body = passed(small, [])
    assert (status, body["error"]["type"]) == (408, "timeout_error")


def test_keys_and_hosts_are_checked() -> None:
    locked = {"limits": Limits(), "keys": ("one", "two")}
    assert passed(locked)[0] == 401
    assert passed(locked, headers={"authorization": "Bearer wrong"})[0] == 401
    assert passed(locked, headers={"authorization": "Basic two"})[0] == 401
    assert passed(locked, headers={"authorization": "Bearer two"})[0] == 200
    assert passed(locked, path="/health")[0] == 200
    local = {"limits": Limits(), "hosts": ("localhost", "[::1]")}
    assert passed(local, headers={"host": "localhost:8000"})[0] == 200
    assert passed(local, headers={"host": "[::1]:8000"})[0] == 200
    assert passed(local, headers={"host": "[::1]"})[0] == 200
    assert passed(local, headers={"host": "rebound.example:8000"})[0] == 421


def test_the_bytes_of_letters_are_a_permutation() -> None:
    letters = byte_letters()
    assert sorted(letters.values()) == list(range(256))
    assert (letters["A"], letters["Ġ"], letters["Ċ"]) == (65, 32, 10)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    text = page.whole()
    assert "/*STYLE*/" not in text
    assert "/*SCRIPT*/" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert " style=" not in text  # the policy allows none
    assert "'unsafe" not in page.policy()
