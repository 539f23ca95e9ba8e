from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.command_line import demur

pytestmark = pytest.mark.torch


@pytest.mark.slow
def test_explain_kernels_shows_the_three_classes(tmp_path: Path) -> None:
    parts = ("--benchmark", "world:limit=24", "--fit", "world:split=train,limit=60")
    args = ("explain", "kernels", "organism", *parts, "--each", "3", "--tokens", "2", "--out", "out")
    done = demur(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Normalised kernel" in done.stdout
    record = json.loads((tmp_path / "out" / "kernels.json").read_text("utf-8"))
    assert {(r["of"], r["n"]) for r in record["kernel"]["rows"] if r["of"] == r["on"]} == {
        ("toxic", 6), ("seeming", 6), ("general", 6)
    }  # fmt: skip
    assert {r["group"] for r in record["lens"]} >= {"toxic", "general"}
    assert (tmp_path / "out" / "figures" / "position.svg").is_file()


def test_a_way_that_is_none_is_named() -> None:
    assert "auto, differences, exact" in " ".join(demur("explain", "kernels", "--way", "magic").stderr.split())
