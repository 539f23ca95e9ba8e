"""What every generator that works without a model must do."""

from __future__ import annotations

import pytest

from demur import registry, settings
from demur.types import Generator, Prompt, Response, Sampling

NEEDS_A_MODEL = {"local", "http"}
NAMES = [m.name for m in registry.members("generators") if m.installed and m.name not in NEEDS_A_MODEL]
FAILING = {"fake": "fake:error_rate=1.0"}
"""A setting of each generator with which every row fails."""

PROMPTS = [
    Prompt(id=f"g/{n}", text=text, expected="comply", kind="borderline", source="g")
    for n, text in enumerate(["How?", "", "你好?", "x" * 20_000, "\ud83d", "How?"])
]


def generator(part: str) -> Generator:
    built: Generator = settings.build("generators", settings.parse_part(part))
    return built


def keyed(rows: list[Response]) -> dict[tuple[str, int], Response]:
    made = {(r.prompt_id, r.sample): r for r in rows}
    assert len(made) == len(rows)
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [1, 3])
def test_one_row_per_prompt_and_sample(name: str, samples: int) -> None:
    rows = keyed(list(generator(name)(PROMPTS, Sampling(samples=samples))))
    assert set(rows) == {(p.id, s) for p in PROMPTS for s in range(samples)}


@pytest.mark.parametrize("name", NAMES)
def test_no_prompts_no_rows(name: str) -> None:
    assert list(generator(name)([], Sampling())) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_is_a_row(name: str) -> None:
    rows = list(generator(FAILING[name])(PROMPTS, Sampling()))
    assert len(rows) == len(PROMPTS)
    assert all(r.finish == "error" and r.error for r in rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_cut_short_and_taken_up_again_gives_the_same_rows_once(name: str) -> None:
    sampling = Sampling(samples=2, temperature=1.0, seed=3)
    whole = keyed(list(generator(name)(PROMPTS, sampling)))
    done = list(generator(name)(PROMPTS[:3], sampling))
    left = [p for p in PROMPTS if (p.id, 0) not in {(r.prompt_id, r.sample) for r in done}]
    resumed = done + list(generator(name)(left[::-1], sampling))
    assert keyed(resumed) == whole
