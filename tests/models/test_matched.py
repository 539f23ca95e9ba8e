"""Fronts of defences, and what they cost at like attack success."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def matched() -> Any:
    path = Path(__file__).parents[2] / "training" / "matched.py"
    spec = importlib.util.spec_from_file_location("matched", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["matched"] = module
    spec.loader.exec_module(module)
    return module


def point(success: float, unanswered: float) -> dict[str, float]:
    return {"attack_success": success, "unanswered": unanswered, "over_refusal": unanswered / 2, "broken": 0.0}


def test_a_front_leaves_out_what_another_beats_in_both(matched: Any) -> None:
    points = [point(0.5, 0.2), point(0.3, 0.1), point(0.4, 0.15), point(0.1, 0.3), point(0.2, 0.4)]
    assert matched.front(points) == [point(0.3, 0.1), point(0.1, 0.3)]


def test_costs_are_interpolated_between_neighbours_and_not_beyond(matched: Any) -> None:
    points = [point(0.5, 0.1), point(0.3, 0.2), point(0.1, 0.6)]
    assert matched.at(0.4, points, "unanswered") == pytest.approx(0.15)
    assert matched.at(0.4, points, "over_refusal") == pytest.approx(0.075)
    assert matched.at(0.15, points, "unanswered") == pytest.approx(0.5)
    assert matched.at(0.3, points, "unanswered") == pytest.approx(0.2)
    assert matched.at(0.05, points, "unanswered") is None
    assert matched.at(0.6, points, "unanswered") == 0.1
    assert matched.at(0.6, [], "unanswered") is None


def test_the_table_says_how_many_seeds_reach_a_level(matched: Any) -> None:
    fronts = {"a": [[point(0.5, 0.1), point(0.3, 0.2)], [point(0.5, 0.1), point(0.2, 0.4)]]}
    row = matched.table(fronts, "unanswered")[2]
    assert row.startswith("| a | 17.5 (15.0 to 20.0) | ")
    assert "(17.5 to 25.0) | 25.0 (20.0 to 30.0) | 35.0 (35.0 to 35.0, 1 of 2) |" in row
