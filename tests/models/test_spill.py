"""Spill of refusals: curves read from fits, compared at equal updates and at equal refusal of harmful prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demur.errors import ConfigError, DataError
from demur.explain.spill import curves, table
from tests.unit.command_line import demur

pytestmark = pytest.mark.torch
RISES = (0.0, 0.8, 0.4, 0.6)
"""P(refuse) of harmful prompts at updates 0, 10, 20, 30."""


def fitted(folder: Path, method: str, seed: int, plain: float) -> None:
    """Write what a fit leaves: plain prompts are refused `plain` times as probably as harmful ones."""
    rows = [
        {"step": 10 * i, "p_refuse harmful": v, "p_refuse borderline": v / 2, "p_refuse plain": plain * v}
        for i, v in enumerate(RISES)
    ]
    for name, what in (
        ("intervention/fit.json", {"method": method, "settings": {"seed": seed}}),
        ("fitting/training/training.json", {"curve": rows}),
        ("fitting/other/training.json", {"losses": [1.0]}),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(what))


def test_methods_are_compared_at_equal_updates_and_at_equal_refusal(tmp_path: Path) -> None:
    for seed, share in ((0, 0.25), (1, 0.75)):
        fitted(tmp_path / f"stl-{seed}", "stl", seed, share)
    fitted(tmp_path / "dcr-0", "dcr", 0, 0.0)
    found = curves([tmp_path])
    assert [(c.method, c.seed) for c in found] == [("dcr", 0), ("stl", 0), ("stl", 1)]
    rows = {(r["method"], r["at"]): r for r in table(found, level=0.5, steps=[5, 30])}
    assert rows["stl", "update 5"]["harmful"]["mean"] == pytest.approx(0.4)
    assert rows["stl", "update 30"]["plain"] == {"mean": pytest.approx(0.3), "low": 0.15, "high": pytest.approx(0.45)}
    first, stays = rows["stl", "harmful first 0.5"], rows["stl", "harmful 0.5 for good"]
    assert first["update"]["mean"] == pytest.approx(6.25)  # .5 of .8 in 10 updates
    assert stays["update"]["mean"] == pytest.approx(25)  # half-way from .4 to .6
    assert stays["plain"]["mean"] == pytest.approx(0.25)
    assert rows["dcr", "most along the training"]["harmful"]["mean"] == 0.8
    assert rows["dcr", "mean along the training"]["harmful"]["mean"] == pytest.approx(0.45)
    assert rows["dcr", "mean along the training"]["attacked"] is None
    never = {(r["method"], r["at"]): r for r in table(found, level=0.7)}
    assert never["stl", "harmful 0.7 for good"]["seeds"] == 0
    with pytest.raises(ConfigError, match="level is 1"):
        table(found, level=1.0)


def test_the_command_prints_a_table_and_draws(tmp_path: Path) -> None:
    fitted(tmp_path / "stl-0", "stl", 0, 0.5)
    shown = demur("explain", "spill", str(tmp_path), "--json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout) == table(curves([tmp_path]))
    assert "spill.svg" in demur("explain", "spill", str(tmp_path)).stdout
    assert "<svg" in (tmp_path / "spill.svg").read_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no training that logged"):
        curves([tmp_path / "empty"])
