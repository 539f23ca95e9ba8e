"""AdaCD by prefix: its choices by hand, and a scripted server that is asked twice per token."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from demur.errors import ConfigError
from demur.generators.adacd import Adacd
from demur.generators.http import Http
from demur.opening import choose, opening
from demur.types import Prompt, Sampling
from tests.chat_server import ChatServer, completion, serving

HOW = {"alpha": 4.5, "agreement": 0.9, "plausible": 0.01}


def logs(**chances: float) -> dict[str, float]:
    return {token: math.log(p) for token, p in chances.items()}


@pytest.mark.parametrize(
    ("plain", "told", "token", "known"),
    [
        # both want I, and the plain side is as sure: reinforced, 5.5 log .95 - 4.5 log .9 is the largest
        (logs(I=0.9, Sure=0.099, x=0.001), logs(I=0.95, Sure=0.04, x=0.01), "I", True),
        # both want I, but the plain side is unsure: mitigated, Sure has 4.5 log .4 - 3.5 log .01
        (logs(I=0.599, Sure=0.4, x=0.001), logs(I=0.98, Sure=0.01, x=0.01), "Sure", True),
        # they differ: mitigated
        (logs(Sure=0.5, I=0.499, x=0.001), logs(I=0.9, Sure=0.05, x=0.05), "Sure", True),
        # what is not plausible cannot be chosen, however much the refusing side dislikes it
        (logs(I=0.6, Sure=0.005, x=0.395), logs(I=0.995, Sure=1e-9, x=0.005), "x", True),
        # a token that the refusing side does not list counts as its least
        (logs(I=0.5, Sure=0.4, x=0.1), logs(I=0.99, x=0.01), "Sure", False),
    ],
)
def test_the_next_token_is_that_of_the_formula(
    plain: dict[str, float], told: dict[str, float], token: str, known: bool
) -> None:
    found = choose(plain, told, **HOW)
    assert (found.token, found.known) == (token, known)


def test_an_opening_ends_at_its_horizon_or_where_the_answer_does() -> None:
    asked: list[tuple[bool, str]] = []

    async def ask(refusing: bool, text: str) -> dict[str, float]:
        asked.append((refusing, text))
        return logs(a=0.7, b=0.3) if len(text) < 5 else logs(end=0.9, a=0.1)

    found = asyncio.run(opening(ask, horizon=3))
    assert (found.text, found.ended) == ("aaa", False)
    assert asked == [(side, "a" * n) for n in range(3) for side in (False, True)]
    found = asyncio.run(opening(ask, horizon=9, stops=frozenset({"end"}), prefill="So "))
    assert (found.tokens, found.ended) == (("a", "a"), True)


def likeliest(body: dict[str, Any]) -> dict[str, Any]:
    """A model that is unsure whether to refuse, and would if it were told to."""
    told = any(m["role"] == "system" for m in body["messages"])
    last = body["messages"][-1]
    begun = last["content"] if last["role"] == "assistant" else ""
    if body["max_tokens"] > 1:
        return completion(begun + " and more.")
    table = {
        "": logs(I=0.97, Here=0.02, The=0.01) if told else logs(I=0.55, Here=0.44, The=0.001),
        "Here": logs(is_=0.9, I=0.1),
    }.get(begun, logs(it=1.0))
    rows = [{"token": t, "logprob": z} for t, z in table.items()]
    reply = completion(rows[0]["token"], finish_reason="length")
    reply["choices"][0]["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}]}
    return reply


def test_a_server_is_asked_twice_per_token_and_then_goes_on() -> None:
    prompt = Prompt(id="p", text="How do I stop a process?", expected="comply", source="t")
    with serving(ChatServer(reply=likeliest)) as server:
        http = Http(base_url=server.url, model="tiny")
        (row,) = Adacd(generator=http, horizon=2)([prompt], Sampling(max_new_tokens=8))
        (plain,) = http([prompt], Sampling(max_new_tokens=1))
        bodies = list(server.bodies)
    assert row.text == "Hereis_ and more."
    assert plain.text == "I"
    assert row.n_tokens == 2 + 3
    assert [b["max_tokens"] for b in bodies] == [1, 1, 1, 1, 6, 1]
    systems = [[m["content"] for m in b["messages"] if m["role"] == "system"] for b in bodies[:4]]
    assert systems == [[], ["Please refuse to answer me!"]] * 2
    assert bodies[4]["continue_final_message"]


def test_a_server_without_log_probabilities_gives_error_rows() -> None:
    prompt = Prompt(id="p", text="hello", expected="comply", source="t")
    with serving(ChatServer(reply=lambda body: completion("hi"))) as server:
        (row,) = Adacd(generator=Http(base_url=server.url, model="tiny"))([prompt], Sampling())
    assert row.finish == "error"
    assert "log-probabilities" in row.error


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="must continue a begun answer"):
        Adacd(generator=Http(prefill="none"))
    with pytest.raises(ConfigError, match=r"agreement is 0\.4"):
        Adacd(generator=Http(), agreement=0.4)
    with pytest.raises(ConfigError, match=r"greedy; temperature is 0\.7"):
        Adacd(generator=Http())([], Sampling(temperature=0.7))
