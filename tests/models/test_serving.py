"""The server from outside: OpenAI's client and raw requests against a real one, held against the decode loop."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import torch

from demur.decoding import decode
from demur.generators.http import Http
from demur.lm import LM
from demur.plan import Plan
from demur.serving.limits import Limits
from demur.serving.loading import floor_of
from demur.serving.menu import UNMEASURED
from demur.types import Part, Prompt, Sampling
from tests.models.families import build, tokenizer
from tests.models.families import lm as shared
from tests.models.serving import Running, chat, events, interventions, served
from tests.unit import floor_runs

pytestmark = pytest.mark.torch

TEXTS = ("hello", "what is a lock", "a much longer question about nothing in particular, only longer", "Ж漢", "x")
NAMES = ("", "push", "cut", "sometimes", "polite", "mixed")


@pytest.fixture(scope="module")
def lm() -> LM:
    """The reference: a model of its own, which no server touches."""
    return shared("llama")


def same() -> LM:
    """Another model with the very same weights, for a server to own."""
    return LM(build("llama"), tokenizer(), shared("llama").ref)


@pytest.fixture(scope="module")
def at(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    own = same()
    with served(own, tmp_path_factory.mktemp("served")) as running:
        yield running
    after = dict(own.module.named_parameters())
    assert all(torch.equal(p, after[name]) for name, p in lm.module.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in own.module.modules())


@pytest.fixture(scope="module")
def client(at: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{at.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def alone(lm: LM) -> dict[tuple[str, str], str]:
    """What the decode loop answers, each prompt on its own."""
    made = {"": None, **interventions(lm)}
    found = {}
    for name in NAMES:
        for text in TEXTS:
            prompt = Prompt(id="p", text=text, expected=None, source="test")
            (row,) = decode(lm, [prompt], Sampling(max_new_tokens=12), made[name])
            found[name, text] = row.text
    return found


def model(name: str) -> str:
    return f"tiny+{name}" if name else "tiny"


def message(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_the_decode_loops(at: Running, client: openai.OpenAI, alone: Any, name: str) -> None:
    for text in TEXTS[:3]:
        reply = client.chat.completions.create(model=model(name), messages=message(text), temperature=0, max_tokens=12)
        # the loop's rows are stripped of the white space at their ends
        assert (reply.choices[0].message.content or "").strip() == alone[name, text]
    beside = client.chat.completions.create(
        model="tiny", messages=message(TEXTS[0]), temperature=0, max_tokens=12, extra_body={"intervention": name}
    )
    assert (beside.choices[0].message.content or "").strip() == alone[name, TEXTS[0]]


def test_many_at_once_get_what_each_would_get_alone(at: Running, alone: Any) -> None:
    jobs = [(NAMES[n % 6], TEXTS[(n * 7 // 6) % 5], 2 + n % 11) for n in range(64)]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda job: at.say(job[1], model=model(job[0]), max_tokens=job[2]), jobs))
    again = {job: at.say(job[1], model=model(job[0]), max_tokens=job[2]) for job in set(jobs[:8])}
    assert all(found[jobs.index(job)] == text for job, text in again.items())
    wrong = [job for job, text in zip(jobs, found, strict=True) if not alone[job[:2]].startswith(text.strip()[:-1])]
    assert not wrong
    assert at.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def test_a_stream_is_the_whole_reply_in_parts(at: Running, client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny+push", "messages": message("hello"), "max_tokens": 12, "temperature": 0.8, "seed": 5, "n": 2,
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    texts, rows, ends = ["", ""], [[], []], ["", ""]  # type: ignore[var-annotated]
    for part in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = part.usage
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
            rows[choice.index] += (choice.logprobs.content or []) if choice.logprobs else []
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert rows == [choice.logprobs.content for choice in whole.choices if choice.logprobs]
    assert usage == whole.usage


def test_a_seed_decides_whatever_else_runs(at: Running) -> None:
    asked = chat("hello", temperature=1.2, seed=11)
    first = at.post(asked).json()["choices"][0]["message"]["content"]
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(lambda n: at.say("hello", temperature=1.2, seed=11 if n % 2 else n), range(16)))
    assert {text for n, text in enumerate(crowd) if n % 2} == {first}
    assert len(set(crowd)) > 4
    assert at.say("hello", temperature=1.2, top_p=1e-6, seed=1) == at.say("hello")


def test_log_probabilities_are_the_models_own(at: Running, lm: LM) -> None:
    reply = at.post(chat("hello", logprobs=True, top_logprobs=3, return_token_ids=True)).json()
    choice, prompt = reply["choices"][0], reply["prompt_token_ids"]
    ids = choice["token_ids"]
    whole = torch.tensor([[*prompt, *ids]])
    with torch.no_grad():
        expected = lm.module(whole).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    for row, token, chances in zip(choice["logprobs"]["content"], ids, expected, strict=True):
        assert row["logprob"] == pytest.approx(float(chances[token]), abs=1e-4)
        top = [entry["logprob"] for entry in row["top_logprobs"]]
        assert top == pytest.approx(chances.topk(3).values.tolist(), abs=1e-4)
        assert row["top_logprobs"][0]["token"] == row["token"]
    raw = bytes(byte for row in choice["logprobs"]["content"] for byte in row["bytes"])
    assert raw.decode("utf-8", "replace") == choice["message"]["content"]


def test_stop_strings_reach_over_tokens(at: Running) -> None:
    whole = at.say("hello", max_tokens=12)
    assert len(whole) >= 6
    reply = at.post(chat("hello", stop=[whole[3:6], "never"], logprobs=True)).json()
    (choice,) = reply["choices"]
    cut = whole[: whole.index(whole[3:6])]
    assert (choice["message"]["content"], choice["finish_reason"]) == (cut, "stop")
    assert reply["usage"]["completion_tokens"] < 12
    parts = events(at.post(chat("hello", stop=whole[3:6], stream=True)))
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == cut


def test_texts_and_tokens_are_continued(at: Running, lm: LM, client: openai.OpenAI) -> None:
    ids = lm.chats.encode([Prompt(id="p", text="hello", expected=None, source="test")])[0].ids
    reply = client.completions.create(
        model="tiny",
        prompt=[list(ids), list(ids)],
        max_tokens=6,
        temperature=0,
        logprobs=2,  # type: ignore[list-item]
    )
    assert [choice.text for choice in reply.choices] == [at.say("hello", max_tokens=6)] * 2
    shown = reply.choices[0].logprobs
    assert shown is not None
    assert shown.text_offset is not None
    assert shown.text_offset[0] == 0
    assert len(shown.tokens or []) == len(shown.top_logprobs or []) == 6
    # six tokens, then the rest from the text or the tokens so far
    first = at.post(chat("hello", max_tokens=6, return_token_ids=True)).json()["choices"][0]["token_ids"]
    rest = at.post(
        {"model": "tiny", "prompt": [*ids, *first], "max_tokens": 6, "temperature": 0, "return_token_ids": True},
        "/v1/completions",
    ).json()["choices"][0]["token_ids"]
    twelve = at.post(chat("hello", return_token_ids=True)).json()["choices"][0]["token_ids"]
    assert first + rest == twelve


def test_an_open_last_message_is_continued(at: Running, lm: LM) -> None:
    messages = [*message("hello"), {"role": "assistant", "content": "Well, "}]
    found = at.post(chat("", messages=messages, continue_final_message=True)).json()["choices"][0]["message"]["content"]
    prompt = Prompt(id="p", text="hello", expected=None, source="test")
    (row,) = decode(lm, [prompt], Sampling(max_new_tokens=12, prefill="Well, "))
    assert ("Well, " + found).strip() == row.text


def test_demurs_own_client_measures_the_same(at: Running, lm: LM) -> None:
    prompts = [Prompt(id=str(n), text=text, expected=None, source="test") for n, text in enumerate(TEXTS)]
    how = Sampling(max_new_tokens=12)
    generator = Http(base_url=f"{at.url}/v1", model="tiny+push")
    over = {row.prompt_id: (row.text, row.finish) for row in generator(prompts, how)}
    plan = interventions(lm)["push"]
    assert over == {row.prompt_id: (row.text, row.finish) for row in decode(lm, prompts, how, plan)}


def test_an_answer_may_ask_for_more_than_there_is_room_for(at: Running) -> None:
    """As in the decode loop, which the generators ask for 512 tokens by default, the window ends it."""
    reply = at.post(chat("ab cd", model="tiny", max_tokens=100_000)).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["total_tokens"] == 512


def test_strength_is_a_factor(at: Running, lm: LM) -> None:
    push = interventions(lm)["push"].plan(lm)
    half = Plan(
        sites=tuple(
            type(s)(**{k: getattr(s, k) for k in s.__slots__} | {"strength": s.strength / 2}) for s in push.sites
        ),
        tensors=push.tensors,
    )
    prompt = Prompt(id="p", text="hello", expected=None, source="test")
    (row,) = decode(lm, [prompt], Sampling(max_new_tokens=12), half)
    assert at.say("hello", model="tiny+push", strength=0.5).strip() == row.text
    assert at.say("hello", model="tiny+push", strength=0) == at.say("hello")
    assert at.say("hello", model="tiny+cut", strength=0) == at.say("hello")
    for name in ("polite", "mixed"):
        reply = at.post(chat("hello", model=f"tiny+{name}", strength=0.5))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "strength")


def test_the_floor_is_told(at: Running) -> None:
    headers = at.post(chat("hello", model="tiny+push")).headers
    assert (headers["x-demur-floor"], headers["x-demur-intervention"]) == ("not measured", "push")
    assert at.post(chat("hello")).headers["x-demur-floor"] == "base"
    assert at.post(chat("hello", model="tiny+push", strength=0)).headers["x-demur-floor"] == "base"
    listed = at.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == [model(name) for name in NAMES]
    assert {entry["demur"]["floor"]["state"] for entry in listed[1:]} == {"not measured"}
    assert at.get("/v1/models/tiny+cut").json()["id"] == "tiny+cut"


def test_the_floor_is_that_of_the_runs_beside_the_intervention(tmp_path: Path) -> None:
    own = LM(build("llama"), tokenizer(), floor_runs.MODEL)
    what, folder = interventions(own)["push"], tmp_path / "intervention"
    what.save(folder)
    assert floor_of(own, what, folder) == UNMEASURED
    part, rows = Part(name="steer", settings={}, fingerprint=what.fingerprint()), floor_runs.prompts(134)
    floor_runs.write(tmp_path / "before", rows)
    floor_runs.write(tmp_path / "after", rows, intervention=part)
    assert floor_of(own, what, folder).state == "kept"
    assert floor_of(own, interventions(own)["cut"], folder) == UNMEASURED
    other = LM(own.module, own.tokenizer, replace(floor_runs.MODEL, revision="another"))
    assert floor_of(other, what, folder) == UNMEASURED


RAW: list[tuple[str, bytes, int]] = [
    ("no JSON", b"{", 400),
    ("invalid UTF-8", b'{"model": "\xff\xfe"}', 400),
    ("a lone surrogate", b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
    ("deep nesting", b"[" * 100_000, 400),
    ("a huge number", b'{"seed": ' + b"9" * 5000 + b"}", 400),
    ("not a number", b'{"model": "tiny", "temperature": NaN, "messages": []}', 400),
    ("an array", b"[]", 400),
    ("nothing", b"", 400),
    ("too large", b" " * 1_100_000, 413),
]


@pytest.mark.parametrize(("what", "body", "status"), RAW, ids=[what for what, _, _ in RAW])
def test_malformed_requests_are_told_so(at: Running, what: str, body: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{at.url}/v1/chat/completions", content=body, headers=headers, timeout=30)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (chat("x", model="tinny"), 404, "model_not_found", "did you mean 'tiny'"),
        (chat("x", intervention="pusch"), 404, "intervention_not_found", "did you mean 'push'"),
        (chat("x" * 600), 400, "context_length_exceeded", "512 together"),
        (chat("x", n=17), 400, None, "at most 16"),
        (chat("x", max_tokens=-1), 400, None, "max_tokens"),
        (chat("x", boundary=True), 400, None, "no boundary"),
        (chat("x", messages=[{"role": "system", "content": "y"}]), 400, None, "user's"),
    ],
)
def test_wrong_requests_are_told_why(at: Running, body: Any, status: int, code: str | None, says: str) -> None:
    reply = at.post(body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["code"] == code
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


def test_other_paths_methods_and_types_are_refused(at: Running) -> None:
    assert at.get("/v1/nothing").json()["error"]["message"] == "no such path: /v1/nothing"
    assert at.get("/v1/chat/completions").status_code == 405
    plain = httpx.post(
        f"{at.url}/v1/chat/completions", content=json.dumps(chat("x")), headers={"content-type": "text/plain"}
    )
    assert plain.status_code == 400  # so that no page elsewhere can send one without asking first
    assert at.post({"model": "tiny", "prompt": [1, 9999]}, "/v1/completions").status_code == 400
    for name in ("polite", "mixed"):
        assert at.post({"model": f"tiny+{name}", "prompt": "a"}, "/v1/completions").status_code == 400


def settled(at: Running, running: int = 0, waiting: int = 0) -> None:
    """Wait until so many answers run and wait."""
    ends = time.monotonic() + 60
    while at.get("/health").json() != {"status": "ok", "running": running, "waiting": waiting}:
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(lm: LM, tmp_path: Any, stream: bool) -> None:
    with served(same(), tmp_path, limits=Limits(rows=1, queue=4)) as at:
        held = at.service.engine.session.step
        at.service.engine.session.step = lambda: time.sleep(0.02) or held()  # type: ignore[method-assign, func-returns-value]
        body = chat("hello", max_tokens=400, stream=stream, temperature=1, n=2)

        async def leave() -> None:
            async with httpx.AsyncClient() as client:
                with pytest.raises((httpx.ReadTimeout, TimeoutError)):  # noqa: PT012
                    async with (
                        asyncio.timeout(0.5),
                        client.stream("POST", f"{at.url}/v1/chat/completions", json=body) as reply,
                    ):
                        async for _ in reply.aiter_text():
                            pass

        asyncio.run(leave())
        settled(at)
        assert at.service.engine.tokens < 400


def test_a_full_server_says_when_to_come_again(tmp_path: Any) -> None:
    with served(same(), tmp_path, limits=Limits(rows=1, queue=1)) as at, ThreadPoolExecutor(2) as pool:
        held, released = at.service.engine.session.step, threading.Event()
        at.service.engine.session.step = lambda: held() if released.wait(60) else []  # type: ignore[method-assign]
        accepted = []
        for running, waiting in ((1, 0), (1, 1)):
            accepted.append(pool.submit(at.post, chat("hello", max_tokens=3)))
            settled(at, running, waiting)
        full = at.post(chat("hello"))
        released.set()
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["type"] == "rate_limit_error"
        assert [reply.result().status_code for reply in accepted] == [200, 200]


def test_an_answer_that_takes_too_long_is_told_so(tmp_path: Any) -> None:
    with served(same(), tmp_path, limits=Limits(seconds=0.2)) as at:
        held = at.service.engine.session.step
        at.service.engine.session.step = lambda: time.sleep(0.05) or held()  # type: ignore[method-assign, func-returns-value]
        reply = at.post(chat("hello", max_tokens=300))
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
        last = events(at.post(chat("hello", max_tokens=300, stream=True)))[-1]
        assert last["error"]["code"] == "timeout"
        settled(at)


def test_a_server_that_ends_finishes_what_runs(lm: LM, tmp_path: Any, alone: Any) -> None:
    with served(same(), tmp_path) as at:
        held = at.service.engine.session.step
        at.service.engine.session.step = lambda: time.sleep(0.03) or held()  # type: ignore[method-assign, func-returns-value]
        with httpx.stream(
            "POST", f"{at.url}/v1/chat/completions", json=chat("hello", stream=True), timeout=30
        ) as reply:
            at.stop()
            text = "".join(reply.iter_text())
        assert text.endswith("data: [DONE]\n\n")
        parts = [json.loads(line[6:]) for line in text.split("\n\n")[:-2]]
        said = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
        assert said.strip() == alone["", "hello"]
        at.thread.join(20)
        with pytest.raises(httpx.ConnectError):
            at.get("/health")


def test_a_model_that_fails_is_told_and_goes_on(lm: LM, tmp_path: Any, alone: Any) -> None:
    with served(same(), tmp_path) as at:
        held = at.service.engine.session.step

        def fail() -> Any:
            at.service.engine.session.step = held  # type: ignore[method-assign]
            raise RuntimeError("out of memory")

        at.service.engine.session.step = fail  # type: ignore[method-assign]
        reply = at.post(chat("hello"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "out_of_memory")
        assert at.say("hello").strip() == alone["", "hello"]


def test_keys_and_hosts(lm: LM, tmp_path: Any) -> None:
    with served(same(), tmp_path, keys=("sesame",), hosts=("127.0.0.1",)) as at:
        assert at.post(chat("x")).status_code == 401
        wrong = openai.OpenAI(base_url=f"{at.url}/v1", api_key="sesam", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        assert at.post(chat("x"), headers={"Authorization": "Bearer sesame"}).status_code == 200
        assert at.get("/").status_code == at.get("/health").status_code == 200
        assert httpx.get(at.url + "/health", headers={"Host": "elsewhere.example"}).status_code == 421


def test_a_long_answer_beside_short_ones_and_a_row_of_plans(at: Running, lm: LM) -> None:
    """The cache grows while rows come and go, and many strengths leave no trace."""
    long = at.say("hello", max_tokens=300)
    with ThreadPoolExecutor(8) as pool:
        waiting = pool.submit(at.say, "hello", max_tokens=300)
        strengths = [0.1 + n / 20 for n in range(40)]
        list(pool.map(lambda s: at.say("x", model="tiny+push", strength=s, max_tokens=3), strengths))
        assert waiting.result() == long
    settled(at)
    assert at.service.engine.session.rows is None  # type: ignore[attr-defined]


def test_the_mean_of_log_probabilities_is_the_loops(at: Running, lm: LM) -> None:
    reply = at.post(chat("what is a lock", logprobs=True)).json()
    rows = reply["choices"][0]["logprobs"]["content"]
    (row,) = decode(
        lm, [Prompt(id="p", text="what is a lock", expected=None, source="test")], Sampling(max_new_tokens=12)
    )
    if reply["choices"][0]["finish_reason"] == "length":
        assert row.logprob == pytest.approx(math.fsum(r["logprob"] for r in rows) / len(rows), abs=1e-3)
