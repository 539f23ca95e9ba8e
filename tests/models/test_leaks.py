from __future__ import annotations

import json
from pathlib import Path

import pytest

from demur import leaks, pipeline
from demur.recipes import recipe_from

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
