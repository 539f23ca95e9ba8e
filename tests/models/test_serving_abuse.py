"""What no client should send, beside one that behaves: it is refused or dropped, and the other's answer stands."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest

from demur.lm import LM
from tests.models.families import build, tokenizer
from tests.models.families import lm as shared
from tests.models.serving import Running, chat, served
from tests.models.test_serving import settled

pytestmark = pytest.mark.torch

BIG = 10_000_000
HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    "Content-Length: {}\r\n\r\n"
)
BODY = json.dumps(chat("hello", max_tokens=300, stream=True)).encode()


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(LM(build("llama"), tokenizer(), shared("llama").ref), tmp_path_factory.mktemp("served")) as running:
        yield running


def sent(at: Running, raw: bytes, *, read: int = 0) -> bytes:
    """Send bytes over a connection of their own, read some of what comes, and leave."""
    host, _, port = at.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(raw)
        return link.recv(read) if read else b""


def abuse(at: Running) -> list[int]:
    """Send everything that is wrong; return the statuses of what is answered."""
    sent(at, b"POST /v1/chat/comple")
    sent(at, HEAD.format(len(BODY)).encode()[:-2])
    sent(at, HEAD.format(len(BODY)).encode() + BODY[:20])
    sent(at, HEAD.format(len(BODY)).encode() + BODY)  # gone before the first word
    for _ in range(4):
        assert sent(at, HEAD.format(len(BODY)).encode() + BODY, read=200).startswith(b"HTTP/1.1 200")  # and after it
    statuses = [int(sent(at, raw, read=50).split()[1]) for raw in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n")]
    declared = HEAD.format(BIG).encode() + b'{"model": "tiny'
    statuses.append(int(sent(at, declared, read=50).split()[1]))

    def parts() -> Iterator[bytes]:
        yield from (b" " * 100_000 for _ in range(BIG // 100_000))

    for body in (json.dumps(chat("x" * BIG)).encode(), parts()):
        try:
            statuses.append(httpx.post(f"{at.url}/v1/chat/completions", content=body, timeout=30).status_code)
        except httpx.TransportError:  # the answer was sent and the connection closed while more was being written
            statuses.append(413)
    return statuses


def test_what_is_sent_wrongly_harms_nobody_else(at: Running) -> None:
    alone = at.say("hello", max_tokens=200)
    with ThreadPoolExecutor(2) as pool:
        beside = [pool.submit(at.say, "hello", max_tokens=200) for _ in range(2)]
        statuses = abuse(at)
        assert [one.result() for one in beside] == [alone] * 2
    assert statuses == [400, 400, 413, 413, 413]
    settled(at)
    assert at.say("hello", max_tokens=200) == alone


NEGATIVE: list[dict[str, Any]] = [
    {"max_tokens": 0},
    {"max_completion_tokens": -5},
    {"n": -1},
    {"temperature": -0.5},
    {"top_p": -1},
    {"top_logprobs": -1, "logprobs": True},
    {"strength": -1},
    {"seed": -(2**70)},
    {"answer_token_ids": [-1]},
]


@pytest.mark.parametrize("change", NEGATIVE, ids=str)
def test_limits_below_zero_are_refused(at: Running, change: dict[str, Any]) -> None:
    reply = at.post(chat("hello", **change))
    assert reply.status_code == 400
    assert next(iter(change)) in reply.json()["error"]["message"]


def test_tokens_that_an_answer_begins_with_must_exist_and_fit(at: Running) -> None:
    for ids, says in (([9999], "no token 9999"), ([5] * 600, "512 together")):
        reply = at.post(chat("hello", answer_token_ids=ids))
        assert reply.status_code == 400
        assert says in reply.json()["error"]["message"]
    wide = at.post(chat("hello", logprobs=True, top_logprobs=21))
    assert (wide.status_code, "max_tokens=1" in wide.json()["error"]["message"]) == (400, True)


def test_an_answer_goes_on_from_its_own_first_tokens(at: Running) -> None:
    whole = at.post(chat("hello", return_token_ids=True)).json()["choices"][0]
    asked = chat("hello", answer_token_ids=whole["token_ids"][:5], max_tokens=7, return_token_ids=True)
    rest = at.post(asked).json()["choices"][0]
    assert rest["token_ids"] == whole["token_ids"][5:]
    assert rest["message"]["content"] == whole["message"]["content"]
    told = at.post(chat("hello", max_tokens=1, logprobs=True, top_logprobs=264, return_token_ids=True)).json()
    (row,) = told["choices"][0]["logprobs"]["content"]
    assert sorted(one["token_id"] for one in row["top_logprobs"]) == list(range(264))
