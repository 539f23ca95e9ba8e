"""What ships beside the judges of text fits them, and none of it is text of the prompt sets."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from demur import checks
from demur.records import RunFolder
from demur.settings import build, part_of
from tests.unit.test_correction import demur

TRAINING = Path(__file__).parents[2] / "training/classifier"


@pytest.mark.parametrize("name", ["classifier", "keyword"])
@pytest.mark.parametrize("expected", checks.CLASSES)
def test_the_shipped_check_is_of_the_shipped_judge(name: str, expected: checks.Class) -> None:
    part = part_of("judges", build("judges", name))
    check, reason = checks.find(checks.shipped(name), part, "en", "plain", expected)
    assert reason == ""
    assert check is not None
    assert check.fingerprint == part.fingerprint


@pytest.mark.parametrize(("name", "setting"), [("classifier", "least_confidence=0.8"), ("keyword", "window=50")])
def test_a_judge_with_other_settings_is_not_validated_by_it(name: str, setting: str) -> None:
    part = part_of("judges", build("judges", f"{name}:{setting}"))
    found, reason = checks.find(checks.shipped(name), part, "en", "plain", "comply")
    assert found is None
    assert "another version or other settings" in reason


@pytest.mark.parametrize("name", ["classifier", "keyword"])
def test_measuring_english_answers_gives_corrected_rates(name: str, tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    rows = [
        {"id": f"m/{i}", "prompt": f"q {i}", "label": "harmful" if i % 2 else "benign", "language": "en"}
        for i in range(40)
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["measure", "--generator", "fake", "--benchmark", f"file:path={prompts}", "--judge", name]
    code, out, errors = demur(*words, "--out", str(tmp_path / "run"))
    assert code == 0, errors
    assert "not validated" not in out
    found = RunFolder.load(tmp_path / "run")
    assert {v.reason for v in found.validations} == {""}
    corrected = {m.name for m in found.metrics if m.name.endswith("_corrected") and m.value is not None}
    assert {"answered_rate_corrected", "held_rate_corrected"} <= corrected


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINING))
    return importlib.import_module("copied")


def test_a_copied_run_of_words_is_found_and_stock_is_not(copied: ModuleType, tmp_path: Path) -> None:
    rows = [
        {"response": "The old ferry left before the first bell rang. I’m sorry, but I can’t help with that!"},
        {"prompt": "怎么把这只很旧的木船慢慢推到河里去呢"},
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    ours = [
        "the OLD ferry: left before the first",
        "I'm sorry, but I can't help with that.",
        "left before the bell rang",
    ]
    assert copied.copied(ours, tmp_path) == {("the", "old", "ferry", "left", "before", "the", "first"): "set.jsonl"}
    assert copied.copied(["这只很旧的木船慢慢推到河里"], tmp_path) == {}
    assert copied.copied(["把这只很旧的木船慢慢推到河里去"], tmp_path)


@pytest.mark.slow
def test_none_of_our_sentences_is_in_the_prompt_sets(copied: ModuleType, mirror: Path) -> None:
    assert copied.report(mirror) == []
