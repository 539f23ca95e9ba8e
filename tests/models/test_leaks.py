from __future__ import annotations

import json
from pathlib import Path

import pytest

from demur import leaks, pipeline
from demur.errors import DataError
from demur.files import write_rows
from demur.recipes import recipe_from
from demur.report.build import _leaks
from demur.types import Example, Prompt
from tests.unit.command_line import demur

pytestmark = pytest.mark.torch


def test_a_recipe_that_tests_on_what_it_fits_on_warns_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(**_: object) -> None:
        raise InterruptedError("a model was asked for")

    monkeypatch.setattr(pipeline, "load_lm", stop)
    same = {"name": "world", "split": "validation", "limit": 40}
    recipe = recipe_from({"benchmark": [same], "select": {"fit": ["world:split=train,limit=40"], "validation": [same]}})
    with (
        pytest.warns(leaks.OverlapWarning, match=r"of 40 prompts of world:.* \(test\)"),
        pytest.raises(InterruptedError),
    ):
        pipeline.run(recipe, tmp_path / "r")
    records = json.loads((tmp_path / "r" / leaks.FILE).read_text("utf-8"))
    assert [(r["earlier"], r["later"], r["exact_b"]) for r in records] == [("validation", "test", 40)]


def test_a_recipe_that_fits_on_what_it_tests_on_stops_unless_told_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(**_: object) -> None:
        raise InterruptedError("a model was asked for")

    monkeypatch.setattr(pipeline, "load_lm", stop)
    same = {"name": "world", "split": "train", "limit": 10}
    table = {"benchmark": [same], "select": {"fit": [same], "validation": ["world:split=validation,limit=10"]}}
    with pytest.raises(DataError, match=r"evaluated on.*world/train/.* and 5 more.*--allow-overlap"):
        pipeline.run(recipe_from(table), tmp_path / "r")
    told = recipe_from(table, ["select.allow_overlap=true"])
    with pytest.warns(leaks.OverlapWarning), pytest.raises(InterruptedError):
        pipeline.run(told, tmp_path / "told")
    assert "10 prompts of world" in " ".join(_leaks(tmp_path / "told"))


def test_a_training_file_that_holds_what_it_is_evaluated_on_stops_the_fit(tmp_path: Path) -> None:
    rows = [
        Example(prompt=Prompt(id=f"{s}/{i}", text=f"{t} {i}", expected="comply", source="t"), split=s, answer="so")
        for s, t in (("fit", "what is a lake"), ("dev", "what is a lake"))
        for i in range(2)
    ]
    write_rows(tmp_path / "data.jsonl", rows)
    done = demur("fit", "sft", "--data", "data.jsonl", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "dev/0, dev/1" in " ".join(done.stderr.split())
    (record,) = json.loads((tmp_path / "out" / leaks.FILE).read_text("utf-8"))
    assert (record["later"], record["exact_b"]) == ("dev", 2)
