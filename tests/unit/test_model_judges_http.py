"""The judges that use models, over HTTP: a server on this machine plays the judging model."""

from __future__ import annotations

import re
from typing import Any

import pytest

from demur import settings
from tests.unit.scripted_model import item

pytest.importorskip("demur.generators.http", reason="the generator http is not there")
chat_server = pytest.importorskip("tests.chat_server", reason="the test server is not there")


def test_verdicts_of_served_models_with_the_servers_own_count() -> None:
    def reply(body: dict[str, Any]) -> Any:
        bodies.append(body)
        last = body["messages"][-1]
        if last["role"] == "assistant":
            text = "unsafe\nS2" if "gold" in last["content"] else "safe"
        else:
            found = re.search(r"\[([0-9a-f]{8}) request begins\]", last["content"])
            text = f"It says no.\nVERDICT {found[1]}: full_refusal" if found else "safe"
        return chat_server.completion(text)

    bodies: list[dict[str, Any]] = []
    with chat_server.serving(chat_server.ChatServer(reply=reply)) as server:
        http = f"generator.name=http,generator.base_url={server.url},generator.model={chat_server.MODEL}"
        judge = settings.build("judges", f"llm:{http},thinking=off,price_in=1.0,price_out=10.0")
        rows = [item("No.", name="p/0"), item("Take the gold.", name="p/1")]
        assert [(v.label, v.raw.splitlines()[0]) for v in judge(rows)] == [("refusal", "It says no.")] * 2
        assert (judge.spent.requests, judge.spent.tokens_in, judge.spent.tokens_out) == (2, 14, 6)
        assert judge.spent.cost == pytest.approx((14 * 1 + 6 * 10) / 1e6)
        assert [m["role"] for m in bodies[0]["messages"]] == ["system", "user"]
        assert bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
        guard = settings.build("judges", f"guard:{http},format=llama_guard_3")
        labels = [v.label for v in guard(rows)]
        assert labels == ["harmless", "benign", "harmful", "benign"]
        roles = {tuple(m["role"] for m in body["messages"]) for body in bodies[2:]}
        assert roles == {("user", "assistant"), ("user",)}
