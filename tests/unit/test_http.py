"""The http generator against a server on this machine that misbehaves on purpose."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demur.assemble import measurement
from demur.errors import ConfigError, Unavailable
from demur.generators.http import Http
from demur.measure import measure
from demur.records import RunFolder
from demur.types import Prompt, Response, Sampling
from tests.chat_server import MODEL, REFUSALS, ChatServer, completion, http, serving

QUICK: dict[str, Any] = {"attempts": 3, "timeout": 0.25, "backoff": 0.01, "longest_wait": 2.0}


@pytest.fixture(scope="module")
def shared() -> Iterator[ChatServer]:
    with serving(ChatServer()) as server:
        list(Http(base_url=server.url, model=MODEL)(prompts("warm"), Sampling()))
        yield server


@pytest.fixture
def server(shared: ChatServer) -> ChatServer:
    shared.__init__(url=shared.url)  # type: ignore[misc]
    return shared


def prompts(*texts: str, **more: Any) -> list[Prompt]:
    return [Prompt(id=f"t/{n:03d}", text=text, expected="comply", source="t", **more) for n, text in enumerate(texts)]


def ask(server: ChatServer, *texts: str, sampling: Sampling | None = None, **settings: Any) -> list[Response]:
    rows = list(Http(base_url=server.url, model=MODEL, **(QUICK | settings))(prompts(*texts), sampling or Sampling()))
    return sorted(rows, key=lambda r: (r.prompt_id, r.sample))


FOREVER = ("429", "500", "hang", "cut", "malformed", "empty", "400", "403", "null")
PASSING = ("", "slow", "429*1", "500*1", "hang*1", "cut*1", "torn*1", "malformed*1", "empty*1", "null*1")


def misbehaving(server: ChatServer, each: int, **settings: Any) -> None:
    words = [*PASSING, *FOREVER, *REFUSALS]
    asked = [f"{word} prompt {n}".strip() for n in range(each) for word in words]
    made = prompts(*asked)
    rows = list(Http(base_url=server.url, model=MODEL, **(QUICK | settings))(made, Sampling()))
    assert Counter(r.prompt_id for r in rows) == {p.id: 1 for p in made}
    by_id = {r.prompt_id: r for r in rows}
    for prompt in made:
        word, row = prompt.text.split()[0], by_id[prompt.id]
        wanted = "filtered" if word in REFUSALS else "error" if word in FOREVER else "stop"
        assert row.finish == wanted, (prompt.text, row)
        assert bool(row.error) == (wanted != "stop")
        assert wanted != "stop" or row.text == f"answer to {prompt.text}"


def test_every_prompt_ends_as_one_row_whatever_the_server_does(server: ChatServer) -> None:
    misbehaving(server, each=2)


def test_what_passes_is_asked_again_and_what_does_not_is_not(server: ChatServer) -> None:
    tries = {"500*2 a": 3, "cut*1 a": 2, "500 a": 3, "empty a": 3, "malformed a": 3, "400 a": 1, "fine": 1}
    tries |= {f"{word} a": 1 for word in REFUSALS}
    rows = ask(server, *tries, timeout=30)
    assert server.seen == tries
    assert [r.error for r in rows[2:6]] == [
        "HTTP 500: status 500 (3 attempts)",
        "the reply holds no choice (3 attempts)",
        "malformed reply: Unterminated string starting at: line 1 column 38 (char 37) (3 attempts)",
        "HTTP 400: status 400",
    ]
    assert [r.error for r in rows if r.finish == "filtered"] == [
        "HTTP 400: content_filter", "content_filter", "message.refusal", "refusal",
    ]  # fmt: skip


def test_no_more_requests_at_once_than_asked_for(server: ChatServer) -> None:
    server.delay = 0.01
    assert len(ask(server, *["a"] * 40, concurrency=8)) == 40
    assert server.most == 8


@pytest.mark.slow
def test_every_one_of_many_prompts_ends_as_one_row(server: ChatServer) -> None:
    misbehaving(server, each=40, timeout=1.5)


def test_retry_after_is_waited_for_and_a_wait_too_long_is_a_row(server: ChatServer) -> None:
    waited, late = ask(server, "429*1 a", "late b")
    first, second = server.times["429*1 a"]
    assert waited.finish == "stop"
    assert second - first >= 0.1
    assert (late.finish, server.seen["late b"]) == ("error", 1)
    assert late.error == "asked to wait 3600 s; HTTP 429: much too fast"


def test_what_a_prompt_sends(server: ChatServer) -> None:
    settings: dict[str, Any] = {"extra_body": {"top_k": 5, "chat_template_kwargs": {"x": 1}}, "omit": ("temperature",)}
    settings |= {"thinking_budget": 64, "logprobs": True}
    sampling = Sampling(prefill="Sure", thinking="off", samples=2, temperature=0.7, top_p=0.9, max_new_tokens=11)
    prompt = Prompt(
        id="p", text="now", expected=None, source="t", system="Be kind.", history=(("user", "a"), ("assistant", "b"))
    )
    generator = Http(base_url=server.url, model=MODEL, **(QUICK | settings))
    rows = list(generator([prompt], sampling))
    seeds = {body.pop("seed") for body in server.bodies}
    assert len(seeds) == len(rows) == 2
    assert server.bodies[0] == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "now"},
            {"role": "assistant", "content": "Sure"},
        ],
        "max_tokens": 11,
        "top_p": 0.9,
        "logprobs": True,
        "chat_template_kwargs": {"enable_thinking": False, "x": 1},
        "continue_final_message": True,
        "add_generation_prompt": False,
        "thinking_token_budget": 64,
        "top_k": 5,
    }
    assert {r.text for r in rows} == {"Sureanswer to now"}
    assert generator.usage().requests == 2
    assert (generator.usage().prompt_tokens, generator.usage().completion_tokens) == (14, 6)


def test_a_conversation_may_end_with_the_assistants_message(server: ChatServer) -> None:
    server.reply = lambda body: completion("safe")
    turns = {"history": (("user", "a"),), "meta": (("last_role", "assistant"),)}
    (row,) = Http(base_url=server.url, model=MODEL, **QUICK)(prompts("b", **turns), Sampling())
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert "continue_final_message" not in server.bodies[-1]
    assert row.text == "safe"


def test_ways_to_prefill(server: ChatServer) -> None:
    sampling = Sampling(prefill="Yes, ")
    (row,) = ask(server, "a", sampling=sampling, prefill="prefix")
    assert server.bodies[-1]["messages"][-1] == {"role": "assistant", "content": "Yes, ", "prefix": True}
    assert row.text == "Yes, answer to a"
    (row,) = ask(server, "a", sampling=sampling, prefill="none")
    assert (row.finish, row.text) == ("error", "")
    server.reply = lambda body: completion("Yes, echoed")
    (row,) = ask(server, "a", sampling=sampling, prefill="message")
    assert row.text == "Yes, echoed"


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "r"}]}, {"type": "text", "text": "a"}]
REPLIES: list[tuple[Any, str, str, str]] = [
    (completion("a", reasoning_content="r"), "a", "r", "stop"),
    (completion("a", reasoning="r"), "a", "r", "stop"),
    (completion("<think>r</think>a"), "a", "r", "stop"),
    (completion(PARTS), "a", "r", "stop"),
    (completion(None, reasoning_content="r", finish_reason="length"), "", "r", "length"),
    (completion("<think>r", finish_reason="stop"), "", "r", "length"),
    (completion("a", finish_reason="length"), "a", "", "length"),
    (completion("part", finish_reason="content_filter"), "part", "", "filtered"),
    (completion(None, refusal="No."), "No.", "", "filtered"),
    (completion(""), "", "", "stop"),
    ({"error": {"message": "too long", "code": 400}}, "", "", "error"),
]
"""Whole replies with the text, reasoning and finish that they become."""


def test_replies(server: ChatServer) -> None:
    server.reply = lambda body: REPLIES[int(body["messages"][-1]["content"])][0]
    rows = ask(server, *map(str, range(len(REPLIES))))
    assert [(r.text, r.reasoning, r.finish) for r in rows] == [wanted[1:] for wanted in REPLIES]


def test_log_probabilities_of_the_answer_alone(server: ChatServer) -> None:
    thinking, plain = completion("<think>r</think>It is"), completion("It is")
    tokens = [("<think>", -9.0), ("r", -9.0), ("</think>", -9.0), ("It", -0.5), (" is", -0.25), ("<|end|>", 0.0)]
    rows = [{"token": token, "logprob": value} for token, value in tokens]
    thinking["choices"][0]["logprobs"] = {"content": rows}
    plain["choices"][0]["logprobs"] = {"content": rows[3:]}
    replies = {"thinking": thinking, "plain": plain, "none": completion("a")}
    server.reply = lambda body: replies[body["messages"][-1]["content"]]
    assert [r.logprob for r in ask(server, *replies, logprobs=True)] == [-0.25, -0.25, None]


def test_no_server_is_one_clear_line(server: ChatServer) -> None:
    with pytest.raises(Unavailable, match=r"no server answers at http://127.0.0.1:9/v1"):
        list(Http(base_url="http://127.0.0.1:9/v1", model="m", **QUICK)(prompts("a"), Sampling()))
    with pytest.raises(Unavailable, match="no server answers"):
        Http(base_url="http://127.0.0.1:9/v1").ref()


def test_a_refused_key_and_an_unknown_model_are_one_clear_line(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"has no such model .*model=… may be tiny"):
        list(Http(base_url=server.url, model="huge", **QUICK)(prompts("a"), Sampling()))
    monkeypatch.setenv("MY_KEY", "sesame")
    with pytest.raises(ConfigError, match="refused the key"):
        ask(server, "401 a", api_key_env="MY_KEY")
    assert server.headers[-1]["authorization"] == "Bearer sesame"
    with pytest.raises(ConfigError, match="OTHER_KEY"):
        ask(server, "a", api_key_env="OTHER_KEY")
    assert Http(base_url=server.url).ref().id == MODEL


def test_a_key_never_shows_in_a_row(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    server.status, server.reply = 400, lambda body: {"error": {"message": "wrong: sesame"}}
    (row,) = ask(server, "a", api_key_env="MY_KEY")
    assert row.error == "HTTP 400: wrong: …"
    server.reply = lambda body: {"error": {"message": "x" * 196 + " sesame is wrong"}}
    (row,) = ask(server, "a", api_key_env="MY_KEY")
    assert "ses" not in row.error, "a key at the cut is hidden before the cut"


def test_a_key_never_shows_where_models_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Echoing(ChatServer):
        async def handle(self, path: str, headers: dict[str, str], raw: bytes) -> bytes | None:
            return http(400, {"error": {"message": f"wrong: {headers['authorization']}"}})

    monkeypatch.setenv("MY_KEY", "sesame")
    with serving(Echoing()) as other, pytest.raises(ConfigError, match="does not list its models") as raised:
        Http(base_url=other.url, api_key_env="MY_KEY").ref()
    assert "wrong: Bearer …" in str(raised.value)


def test_a_prompt_that_is_forbidden_is_a_row_and_a_key_that_is_ends_the_run(server: ChatServer) -> None:
    """A web filter in front of the model answers single prompts with 403, also the first one or the only one left."""
    (row,) = ask(server, "403 a")
    assert (row.finish, row.error) == ("error", "HTTP 403: status 403")
    rows = ask(server, *["403 a"] * 7, "b", *["403 a"] * 12, concurrency=1)
    assert [r.finish for r in rows] == ["error"] * 7 + ["stop"] + ["error"] * 12
    with pytest.raises(ConfigError, match="refused the key"):
        ask(server, *["403 a"] * 8, concurrency=1)


def test_an_unknown_model_is_told_from_a_prompt_that_is_not_found(server: ChatServer) -> None:
    server.status, server.reply = 404, lambda body: {"error": {"message": "nothing here"}}
    (row,) = ask(server, "a")
    assert (row.finish, row.error) == ("error", "HTTP 404: nothing here")


def test_no_proxy_stands_before_this_machine(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    (row,) = ask(server, "a")
    assert row.finish == "stop"


def test_metrics_stay_where_a_run_that_is_opened_again_gets_no_new_row(server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"id": t, "text": t, "expected": "comply"} for t in ("a", "500*3 b")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    part = f"http:base_url={server.url},model={MODEL},attempts=3,backoff=0.01"
    what = measurement(benchmarks=[f"file:path={path}"], judges=["keyword"], generator=part, sampling=Sampling())
    before = measure(what, tmp_path / "run").metrics
    server.status, server.reply = 401, lambda body: {"error": {"message": "no"}}
    with pytest.raises(ConfigError, match="refused the key"):
        measure(what, tmp_path / "run")
    assert RunFolder.load(tmp_path / "run").metrics == before
    server.reply = None
    assert {r.finish for r in measure(what, tmp_path / "run").responses} == {"stop"}
    assert RunFolder.load(tmp_path / "run").metrics != before


def test_a_server_that_goes_away_ends_the_run(server: ChatServer) -> None:
    with serving(ChatServer(delay=0.01)) as other:
        generator = Http(base_url=other.url, model=MODEL, concurrency=2, attempts=2, backoff=0.0)
        rows = generator(prompts(*["a"] * 200), Sampling())
        assert next(rows).finish == "stop"
    with pytest.raises(Unavailable, match="has stopped answering"):
        list(rows)


def test_a_run_opened_again_asks_only_for_what_is_missing(server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    texts = ["a", "500*3 b", "filter400 c"]
    path.write_text("".join(json.dumps({"id": t, "text": t, "expected": "comply"}) + "\n" for t in texts), "utf-8")
    part = f"http:base_url={server.url},attempts=3,backoff=0.01,extra_body.top_k=5,omit=[temperature]"
    what = measurement(
        model=MODEL, benchmarks=[f"file:path={path}"], judges=["keyword"], generator=part, sampling=Sampling()
    )
    assert what.model.id == MODEL
    first = measure(what, tmp_path / "run").responses
    assert [r.finish for r in first] == ["stop", "error", "filtered"]
    again = measure(what, tmp_path / "run").responses
    assert [r.finish for r in again] == ["stop", "stop", "filtered"]
    assert server.seen == {"a": 1, "500*3 b": 4, "filter400 c": 1}
    assert all(body["top_k"] == 5 and "temperature" not in body for body in server.bodies)


def test_a_reader_that_stops_early_ends_the_requests(server: ChatServer) -> None:
    rows = Http(base_url=server.url, model=MODEL, concurrency=4, timeout=30)(prompts("a", *["hang"] * 8), Sampling())
    assert next(rows).text == "answer to a"
    rows.close()  # type: ignore[attr-defined]
    assert "demur-background" not in {thread.name for thread in threading.enumerate()}
    assert len(server.bodies) <= 5


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"thinking_markers": ("a",)}, "1 marks"),
        ({"base_url": "localhost:8000"}, "must begin with http"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Http(**settings)
