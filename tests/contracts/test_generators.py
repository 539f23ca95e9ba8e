"""What every generator that works without a model must do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demur import registry, settings
from demur.types import Generator, Prompt, Response, Sampling
from tests.chat_server import MODEL, ChatServer, serving

NEEDS_A_MODEL = {"local", "vllm"}
NAMES = [m.name for m in registry.members("generators") if m.installed and m.name not in NEEDS_A_MODEL]
GUARD = Path(__file__).parent.parent / "parts" / "word_guard.py"
PARTS = {
    "http": f"http:model={MODEL},base_url=",
    "adacd": f"adacd:horizon=2,generator.prefill=continue,generator.model={MODEL},generator.base_url=",
    "guarded": f"guarded:generator=fake,guard={GUARD}",
    "told": "told:generator=fake,text=Be brief.",
    "ignore_words": 'ignore_words:generator=fake,words=["how"]',
    "rephrase": "rephrase:generator=fake,generator.refuse_borderline=0.6",
}
"""How a generator is written, where its name alone will not do; after `base_url=` comes the server."""
FAILING = {
    "fake": "fake:error_rate=1.0",
    "http": f"http:model={MODEL},attempts=1,timeout=0.001,base_url=",
    "adacd": "adacd:generator.prefill=continue,generator.attempts=1,generator.timeout=0.001,"
    f"generator.model={MODEL},generator.base_url=",
    "guarded": f"guarded:generator=fake,generator.error_rate=1.0,guard={GUARD}",
    "told": "told:generator=fake,generator.error_rate=1.0,text=Be brief.",
    "ignore_words": 'ignore_words:generator=fake,generator.error_rate=1.0,words=["how"]',
    "rephrase": "rephrase:generator=fake,generator.error_rate=1.0",
}
"""A setting of each generator with which every row fails."""

GREEDY = {"adacd"}
"""Generators that give the likeliest answer alone."""

PROMPTS = [
    Prompt(id=f"g/{n}", text=text, expected="comply", kind="borderline", source="g")
    for n, text in enumerate(["How?", "", "你好?", "x" * 20_000, "\ud83d", "How?"])
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ChatServer()) as server:
        yield server.url


def build(part: str, url: str) -> Generator:
    whole = part + url if part.endswith("base_url=") else part
    built: Generator = settings.build("generators", settings.parse_part(whole))
    return built


def keyed(rows: list[Response]) -> dict[tuple[str, int], Response]:
    made = {(r.prompt_id, r.sample): r for r in rows}
    assert len(made) == len(rows)
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [1, 3])
def test_one_row_per_prompt_and_sample(name: str, samples: int, url: str) -> None:
    rows = keyed(list(build(PARTS.get(name, name), url)(PROMPTS, Sampling(samples=samples))))
    assert set(rows) == {(p.id, s) for p in PROMPTS for s in range(samples)}


@pytest.mark.parametrize("name", NAMES)
def test_no_prompts_no_rows(name: str, url: str) -> None:
    assert list(build(PARTS.get(name, name), url)([], Sampling())) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_is_a_row(name: str, url: str) -> None:
    rows = list(build(FAILING[name], url)(PROMPTS, Sampling()))
    assert len(rows) == len(PROMPTS)
    assert all(r.finish == "error" and r.error for r in rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_cut_short_and_taken_up_again_gives_the_same_rows_once(name: str, url: str) -> None:
    sampling = Sampling(samples=2, temperature=0.0 if name in GREEDY else 1.0, seed=3)
    whole = keyed(list(build(PARTS.get(name, name), url)(PROMPTS, sampling)))
    done = list(build(PARTS.get(name, name), url)(PROMPTS[:3], sampling))
    left = [p for p in PROMPTS if (p.id, 0) not in {(r.prompt_id, r.sample) for r in done}]
    resumed = done + list(build(PARTS.get(name, name), url)(left[::-1], sampling))
    assert keyed(resumed) == whole
