"""The generators `http` and `adacd` against a server that speaks vLLM's dialect, as the source of 0.33.0 has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from demur.generators.adacd import Adacd
from demur.generators.http import Http
from demur.types import Prompt, Sampling
from tests.chat_server import MODEL, ChatServer, serving

KNOWN = (
    "messages model frequency_penalty logit_bias logprobs top_logprobs max_tokens max_completion_tokens n "
    "presence_penalty response_format seed stop stream temperature top_p reasoning_effort thinking_token_budget top_k "
    "min_p stop_token_ids min_tokens skip_special_tokens add_generation_prompt continue_final_message "
    "add_special_tokens chat_template chat_template_kwargs return_tokens_as_token_ids return_token_ids"
)
"""Fields of vLLM's `ChatCompletionRequest` (a part of them); what is no field is ignored there without a word."""

PROMPT = Prompt(id="p", text="How?", expected="comply", source="t", system="Be kind.")
MOST = Sampling(
    max_new_tokens=9, temperature=0.7, top_p=0.9, samples=2, seed=1, prefill="Well, ", thinking="off"
)  # fmt: skip


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """A reply with every field that vLLM's has, those of its own among them."""
    if body.get("continue_final_message") and body.get("add_generation_prompt"):
        raise ValueError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    word = {"token": "Fine", "logprob": -0.25, "bytes": [70, 105, 110, 101]}
    rows = [{**word, "top_logprobs": [word, {"token": " No", "logprob": -1.5, "bytes": [32, 78, 111]}]}]
    message = {
        "role": "assistant", "content": "Fine.", "refusal": None, "annotations": None, "audio": None,
        "function_call": None, "tool_calls": [], "reasoning": "Hm.",
    }  # fmt: skip
    choice = {
        "index": 0, "message": message, "logprobs": {"content": rows} if body.get("logprobs") else None,
        "finish_reason": "stop", "stop_reason": 257, "token_ids": None, "routed_experts": None, "weight_versions": None,
    }  # fmt: skip
    usage = {"prompt_tokens": 11, "total_tokens": 14, "completion_tokens": 3, "prompt_tokens_details": None}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice],
        "service_tier": None, "system_fingerprint": None, "usage": usage, "prompt_logprobs": None,
        "prompt_token_ids": None, "prompt_text": None, "kv_transfer_params": None, "ec_transfer_params": None,
        "metrics": None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with serving(ChatServer(reply=reply)) as made:
        yield made


def test_what_is_asked_of_a_server_are_fields_it_knows(server: ChatServer) -> None:
    http = Http(base_url=server.url, model=MODEL, logprobs=True, thinking_budget=5)
    server.bodies.clear()
    list(http([PROMPT], MOST))
    list(replace(http, limit_field="max_completion_tokens")([PROMPT], Sampling()))
    list(Adacd(generator=replace(http, thinking_budget=0), horizon=2)([PROMPT], Sampling(max_new_tokens=9)))
    assert len(server.bodies) == 2 + 1 + 2 * 2 + 1
    assert {name for body in server.bodies for name in body} <= set(KNOWN.split())
    assert {"seed", "top_p", "chat_template_kwargs", "thinking_token_budget"} <= set(server.bodies[0])
    begun = server.bodies[-1]
    assert begun["messages"][-1] == {"role": "assistant", "content": "FineFine"}
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)


def test_its_replies_are_read(server: ChatServer) -> None:
    (row,) = Http(base_url=server.url, model=MODEL, logprobs=True)([PROMPT], Sampling())
    assert (row.text, row.reasoning, row.finish, row.n_tokens, row.logprob) == ("Fine.", "Hm.", "stop", 3, -0.25)
