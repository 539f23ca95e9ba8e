from __future__ import annotations

import json
from pathlib import Path

import pytest

from demur import registry, suites
from demur.assemble import build_benchmarks
from demur.errors import ConfigError, NotFound
from demur.measure import collect_prompts
from demur.modifiers import build_benchmark
from demur.recipes import cells, load_recipe, recipe_from, recipe_toml
from demur.settings import PartSpec
from tests.unit.test_cli import demur

HERE = registry.names("benchmarks")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of sets that are always there."""
    suite = suites.Suite(name="small", summary="Two.", parts=("world:limit=30", "world:limit=10,attack=role_play"))
    monkeypatch.setitem(suites.SUITES, "small", suite)


@pytest.mark.parametrize("suite", suites.SUITES.values(), ids=str)
def test_every_part_of_a_suite_is_well_written(suite: suites.Suite) -> None:
    assert suite.summary.endswith(".")
    assert [str(part) for part in suite.benchmarks] == list(suite.parts)
    for part in suite.benchmarks:
        if part.name in HERE:
            build_benchmark(part)


def test_a_suite_with_missing_sets_names_them_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMUR_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*no benchmark named 'gone1'.*no benchmark named 'gone2'"):
        build_benchmarks(["gone1", "world", "gone2:limit=4"])
    parts = build_benchmarks(["xstest:limit=4", "world", "xstest:attack=prefill"])
    with pytest.raises(ConfigError, match=r"XSTest is not here: no xstest_v2\.jsonl .* Set DEMUR_DATA to a folder"):
        collect_prompts(parts)


def test_a_recipe_takes_a_suite_by_name(small: None, tmp_path: Path) -> None:
    recipe = recipe_from({"suite": "small", "benchmark": [{"name": "world", "split": "train"}]})
    assert [str(b) for b in recipe.benchmarks] == [
        "world:limit=30",
        "world:limit=10,attack=role_play",
        "world:split=train",
    ]
    assert recipe_from({"suite": {"name": "small"}}).benchmarks == recipe.benchmarks[:2]
    assert recipe_from({}, ["suite=small"]).benchmarks == recipe.benchmarks[:2]
    path = tmp_path / "again.toml"
    path.write_text(recipe_toml(recipe))
    assert load_recipe(path).benchmarks == recipe.benchmarks
    grid = recipe_from({"suite": "small", "grid": {"seed": [0, 1]}})
    assert [cell.recipe.benchmarks for cell in cells(grid)] == [recipe.benchmarks[:2]] * 2
    assert recipe_from({}).benchmarks == (PartSpec("world"),)


def test_a_wrong_suite_says_so() -> None:
    with pytest.raises(NotFound, match="no suite named 'quik' in recipe; did you mean 'quick'"):
        recipe_from({"suite": "quik"})
    with pytest.raises(ConfigError, match="holds limit; a suite has no settings"):
        recipe_from({"suite": {"name": "quick", "limit": 3}})
    with pytest.raises(NotFound, match="did you mean 'suite'"):
        recipe_from({"suit": "quick"})


def test_suites_are_measured_listed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": "Why?", "label": "benign"}\n' * 4)
    parts = ("file:path=own.jsonl", "file:path=own.jsonl,attack=role_play")
    monkeypatch.setitem(suites.SUITES, "small", suites.Suite(name="small", summary="Two.", parts=parts))
    done = demur("measure", "--suite", "small", "--generator", "fake", "--json", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    assert {m["benchmark"] for m in json.loads(done.stdout)} == {parts[0], "file:attack=role_play,path=own.jsonl"}
    assert (tmp_path / "runs/fake-small/run.json").is_file()
    assert "multijail" in demur("list", "suites").stdout
    shown = demur("show", "quick").stdout
    assert "150 prompts" in shown
    assert "xstest:limit=40" in shown
    wrong = demur("measure", "--suite", "quik", cwd=tmp_path)
    assert (wrong.returncode, "did you mean 'quick'" in wrong.stderr) == (2, True)


def test_show_tells_what_any_benchmark_takes() -> None:
    shown = demur("show", "xstest").stdout
    assert "settings of any benchmark" in shown
    assert "At most so many prompts" in shown
    assert '"modifiers": []' in demur("show", "keyword", "--json").stdout


@pytest.mark.skipif(
    not {part.name for part in suites.find("quick").benchmarks} <= set(HERE), reason="sets of `quick` are not installed"
)
def test_quick_is_150_prompts_in_several_languages_on_both_axes(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMUR_DATA", str(mirror))
    prompts = collect_prompts(build_benchmarks(suites.find("quick").benchmarks))
    assert len(prompts) == 150
    assert len({p.language for p in prompts}) == 13
    assert 60 <= sum(p.expected == "comply" for p in prompts) <= 90
