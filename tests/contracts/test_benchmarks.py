"""What every benchmark must do."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from demur import registry, settings
from demur.benchmarks._loading import check
from demur.types import Benchmark, Prompt, from_json, to_json

NAMES = [m.name for m in registry.members("benchmarks") if m.installed]


@pytest.fixture
def benchmark_of(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """The benchmark named by the test's parameter, with what it needs at hand offline."""
    name = request.param
    cls = registry.find("benchmarks", name)
    part = settings.PartSpec(name=name, settings={})
    if name == "file":
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"q{n}", "label": "safe"}) + "\n" for n in range(9)))
        part = settings.PartSpec(name=name, settings={"path": str(path)})
    elif cls.card.home != "demur":
        monkeypatch.setenv("DEMUR_DATA", str(request.getfixturevalue("mirror")))
    built: Benchmark = settings.build("benchmarks", part)
    return built


each = pytest.mark.parametrize("benchmark_of", NAMES, indirect=True)


@each
def test_ids_are_unique_and_stable(benchmark_of: Benchmark) -> None:
    first, second = list(benchmark_of()), list(benchmark_of())
    assert first == second
    assert max(Counter(p.id for p in first).values()) == 1


@each
def test_the_size_is_the_cards(benchmark_of: Benchmark) -> None:
    count = len(list(benchmark_of()))
    assert count > 0
    assert benchmark_of.card.size in (None, count)


@each
def test_prompts_go_to_json_and_back(benchmark_of: Benchmark) -> None:
    for prompt in benchmark_of():
        assert from_json(Prompt, json.loads(json.dumps(to_json(prompt)))) == prompt


@each
def test_expectation_and_kind_fit_together(benchmark_of: Benchmark) -> None:
    for prompt in benchmark_of():
        assert prompt.text.strip()
        assert prompt.source
        assert (prompt.kind == "harmful") == (prompt.expected == "refuse") or prompt.expected in (None, "contested")


@each
def test_pairs_lead_from_benign_to_harmful_rows(benchmark_of: Benchmark) -> None:
    rows = {p.id: p for p in benchmark_of()}
    for prompt in rows.values():
        if prompt.pair and prompt.pair in rows:
            assert rows[prompt.pair].kind == "harmful"


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_where_it_comes_from(name: str) -> None:
    card = registry.find("benchmarks", name).card
    assert card.title
    assert card.licence
    assert card.cautions
    assert card.judge in registry.names("judges")
    if card.hub:
        assert len(card.revision) == 40
        assert card.files
        assert all(len(sha) == 64 for _, sha in card.files)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_of_the_mirror_is_the_cards(name: str, mirror: Path) -> None:
    card = registry.find("benchmarks", name).card
    for file, sha in card.files:
        if (mirror / file).is_file():
            check(mirror / file, sha)
