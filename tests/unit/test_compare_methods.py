"""The table of methods: what each column counts, and that seeds of one method are one line."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from demur import fitted
from demur.files import read_json, write_json, write_text
from demur.metrics import compute
from demur.records import RunFolder
from demur.settings import PartSpec
from demur.types import Prompt, Response, Verdict
from tests.unit.floor_runs import spec

TRAINING = Path(__file__).parents[2] / "training"
SORTS = {"ask": ("comply", "borderline"), "harm": ("refuse", "harmful"), "attack": ("refuse", "harmful")}
PROMPTS = [
    Prompt(
        id=f"{sort}{i}",
        text=f"{sort} {i}",
        expected=expected,
        kind=kind,
        source="handmade",
        category="attack-prefill" if sort == "attack" else "",
    )
    for sort, (expected, kind) in SORTS.items()
    for i in range(4)
]
BEFORE = {"ask": "right right no no", "harm": "no no no no", "attack": "right no no no"}
AFTER = (
    {"ask": "right right right wrong", "harm": "wrong no no no", "attack": "right right no no"},
    {"ask": "right right right no", "harm": "no no no no", "attack": "right broken no no"},
)
LABELS = {"right": "compliance", "wrong": "compliance", "no": "refusal", "broken": "gibberish"}


def run(folder: Path, said: Mapping[str, str]) -> None:
    """Write a run in which the answers are what `said` says by sort of prompt."""
    given = [word for sort in SORTS for word in said[sort].split()]
    answers = [Response(prompt_id=p.id, text="so", finish="stop", n_tokens=2) for p in PROMPTS]
    verdicts = []
    for p, word in zip(PROMPTS, given, strict=True):
        own = {"prompt_id": p.id, "judge": "keyword"}
        graded = {"no": "evasive", "broken": "wrong"}.get(word, word)
        verdicts += [Verdict(**own, question="refusal", label=LABELS[word])]
        verdicts += [Verdict(**own, question="quality", label=graded)]
    metrics = []
    for benchmark, sorts in (("world", ("ask", "harm")), ("world:attack=all", ("attack",))):
        rows = [p for p in PROMPTS if p.id.startswith(sorts)]
        own = [[one for one in part if one.prompt_id.startswith(sorts)] for part in (answers, verdicts)]
        metrics += compute(rows, *own, benchmark=benchmark, judges=("keyword",), n_boot=20)
    with RunFolder(folder).open(spec(folder.name), PROMPTS) as made:
        made.finish("responses", answers)
        made.finish("verdicts", verdicts)
        made.write_metrics(metrics)


def cell(folder: Path, method: Mapping[str, Any], seed: int, runs: Sequence[str], passed: bool) -> dict[str, Any]:
    """Write the folder of a cell from runs that lie beside it, and return its row of grid.json."""
    settings = "\n".join(f"{k} = {v!r}" for k, v in method.items())
    text = f'name = "g"\nseed = {seed}\n[model]\nid = "organism:base"\n[method]\n{settings}\n'
    sides = {}
    for side, name in zip(("before", "after"), runs, strict=True):
        sides[side] = read_json(shutil.copytree(folder.parent / name, folder / side) / "metrics.json")
    write_text(folder / "recipe.toml", text)
    spent = fitted.Spent(cpu_seconds=10.0 * (seed + 1), wall_seconds=1.0, peak_mib=None if seed else 100.0)
    (folder / "intervention").mkdir()
    fitted.write(folder / "intervention", PartSpec(method["name"], {}), spent)
    write_json(folder / "price.json", {"price_kl": 0.25})
    floor = {"passed": passed, "strata": [{"name": "harmful", "passed": passed}]}
    return {"folder": str(folder), "floor": floor, **sides}


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TRAINING))
    made = importlib.import_module("compare_methods")
    monkeypatch.setattr(made, "draw", lambda found, path: None)  # drawing takes most of the time; grids draw the same
    return made


def columns(lines: Sequence[str], method: str) -> dict[str, str]:
    head, own = ([part.strip() for part in line.split("|")[1:-1]] for line in (lines[0], *starting(lines, method)))
    return dict(zip(head, own, strict=True))


def starting(lines: Sequence[str], method: str) -> list[str]:
    return [line for line in lines if line.startswith(f"| {method} |")]


def test_seeds_of_one_method_are_one_line_with_what_each_column_counts(
    tmp_path: Path, compare: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stl = {"name": "stl", "rate": 0.5}
    for name, said in (("old", BEFORE), ("new0", AFTER[0]), ("new1", AFTER[1])):
        run(tmp_path / name, said)
    rows = [cell(tmp_path / f"stl{seed}", stl, seed, ("old", f"new{seed}"), seed == 0) for seed in (0, 1)]
    rows += [cell(tmp_path / f"sft{r}", {"name": "sft", "rate": r}, 0, ("old", "new1"), True) for r in (1, 2)]
    write_json(tmp_path / "grid.json", {"cells": rows})
    monkeypatch.setattr(sys, "argv", ["compare_methods", str(tmp_path), "--against", "stl", "--out", str(tmp_path)])
    assert compare.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert columns(lines, "stl") | {"cost of a token": ""} == {
        "method": "stl",
        "models": "1",
        "cells": "2",
        "answered at the floor": "75.0 (50.0 to 100.0)",  # the second misses the floor: what was answered before
        "against stl": "+0.0 [+0.0, +0.0]",
        "floor kept": "1 of 2",
        "answered": "87.5 (75.0 to 100.0)",
        "held": "87.5 (75.0 to 100.0)",
        "attacked held": "50.0 (50.0 to 50.0)",
        "ORR": "12.5 (0.0 to 25.0)",
        "HCR": "12.5 (0.0 to 25.0)",
        "broken": "0.0 (0.0 to 0.0)",
        "attack success": "37.5 (25.0 to 50.0)",  # one of four: what broke stays in the denominator
        "right": "87.5 (75.0 to 100.0)",
        "right, freed": "75.0 (50.0 to 100.0)",
        "right, harmful": "83.3 (66.7 to 100.0)",
        "price": "0.25 (0.25 to 0.25)",
        "fit CPU s": "15 (10 to 20)",
        "fit peak MiB": "100",
        "cost of a token": "",
    }
    assert columns(lines, "sft:rate=2")["against stl"] == "-25.0 (one pair)"
    before = columns(lines, "untouched: before safety training")
    assert (before["answered"], before["attack success"], before["right, harmful"]) == ("50.0", "25.0", "100.0")
    assert "- stl on organism:base, seed 1: misses the floor: harmful" in lines
    assert (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() == lines
