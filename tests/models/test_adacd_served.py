"""AdaCD by prefix on demur's own server writes the tokens that AdaCD inside the model writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from demur.decoding import decode
from demur.generators.adacd import Adacd as ByPrefix
from demur.generators.http import Http
from demur.lm import LM
from demur.methods.adacd import Adacd
from demur.types import Prompt, Response, Sampling
from tests.chat_server import ChatServer, serving
from tests.models.families import VOCABULARY, build, tokenizer
from tests.models.families import lm as shared
from tests.models.serving import served
from tests.unit.test_opening import likeliest  # a server that tells no tokens by number

pytestmark = pytest.mark.torch

TEXTS = ("hello", "Ж漢", "how do I kill a process", "x")
HOW = Sampling(max_new_tokens=14)
PROMPTS = [Prompt(id=str(n), text=text, expected=None, source="test") for n, text in enumerate(TEXTS)]


def model() -> LM:
    """A model whose answers soon end, on any capital letter."""
    made = LM(build("llama"), tokenizer(), shared("llama").ref)
    made.__dict__["stops"] = frozenset({257, *(made.tokenizer.convert_tokens_to_ids(c) for c in "ABCDEFGHIJKLMNOP")})
    return made


def shown(rows: list[Response]) -> dict[str, tuple[str, str, int]]:
    return {row.prompt_id: (row.text, row.finish, row.n_tokens) for row in rows}


def test_it_writes_what_the_method_writes_inside(tmp_path: Path) -> None:
    lm = model()
    inside = shown(list(decode(lm, PROMPTS, HOW, Adacd().intervention())))
    with served(model(), tmp_path) as at:
        http = Http(base_url=f"{at.url}/v1", model="tiny", prefill="continue")
        stops = tuple(lm.tokenizer.decode([i]) for i in lm.stops)
        made = ByPrefix(generator=http, tokens=True, top=VOCABULARY, stops=stops)
        assert shown(list(made(PROMPTS, HOW))) == inside
        begun = [Prompt(id="p", text="hello", expected=None, source="test", meta=(("prefill", "Well, "),))]
        assert shown(list(made(begun, HOW))) == shown(list(decode(lm, begun, HOW, Adacd().intervention())))
    assert inside != shown(list(decode(lm, PROMPTS, HOW)))
    assert {finish for _, finish, _ in inside.values()} == {"stop", "length"}


def test_another_server_is_told_apart() -> None:
    with serving(ChatServer(reply=likeliest)) as server:
        (row,) = ByPrefix(generator=Http(base_url=server.url, model="tiny"), tokens=True)(PROMPTS[:1], HOW)
    assert row.finish == "error"
    assert "tokens=false" in row.error
