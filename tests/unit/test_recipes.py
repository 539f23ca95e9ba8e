from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from demur import registry
from demur.errors import ConfigError, NotFound
from demur.recipes import Recipe, SelectSettings, cells, load_recipe, recipe_from, recipe_table, recipe_toml
from demur.settings import PartSpec
from demur.types import Sampling

MEMBER = '''
from dataclasses import dataclass

@dataclass(frozen=True, slots=True, kw_only=True)
class {name}:
    """A part."""
    split: str = "test"
    """Which."""
    attack: str = ""
    """Which."""
    layer: int = 0
    """Which."""
    rate: float = 0.5
    """How much."""
    limit: int = 0
    """At most."""
'''


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open folders of a package of its own, so that recipes are tested apart from demur's members."""
    members = {
        "benchmarks": ["world", "file"],
        "judges": ["keyword", "oracle"],
        "generators": ["local"],
        "methods": ["dim", "pca"],
    }
    root = tmp_path / "recipepackage"
    for kind, names in members.items():
        (root / kind).mkdir(parents=True)
        for name in names:
            (root / kind / f"{name}.py").write_text(MEMBER.format(name=name.capitalize()))
    for folder in (root, *root.iterdir()):
        (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "PACKAGE", "recipepackage")


FULL = """
name = "night"
seed = 7

[model]
id = "some/model"
dtype = "float32"

[[benchmark]]
name = "world"
split = "validation"

[[benchmark]]
name = "file"
split = 'a "quoted" \\ path'

[[judge]]
name = "keyword"

[sampling]
max_new_tokens = 64
prefill = "Sure,\\t"

[method]
name = "dim"
layer = 3

[select]
kinds = ["steer"]
margin = 0.01
layers = [1, 2]

[report]
title = "Nächte 进程"
"""


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "night.toml"
    path.write_text(text)
    return load_recipe(path, overrides)


def test_an_empty_recipe_is_the_quick_start(tmp_path: Path) -> None:
    recipe = load(tmp_path, "")
    assert recipe == Recipe(name="night")
    assert recipe.model.arguments() == {"model_id": "organism", "revision": None, "dtype": "auto", "device": "auto"}
    assert recipe.out == Path("runs/night")


def test_every_section_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path, FULL)
    assert recipe.model.id == "some/model"
    assert recipe.benchmarks == (
        PartSpec("world", {"split": "validation"}),
        PartSpec("file", {"split": 'a "quoted" \\ path'}),
    )
    assert recipe.judges == (PartSpec("keyword"),)
    assert recipe.sampling == Sampling(max_new_tokens=64, prefill="Sure,\t", seed=7)
    assert recipe.method == PartSpec("dim", {"layer": 3})
    assert recipe.select == SelectSettings(kinds=("steer",), margin=0.01, layers=(1, 2), seed=7)
    assert recipe.report.title == "Nächte 进程"


def test_parts_may_be_written_short(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        'model = "x/y"\nbenchmark = "world:split=a"\njudge = ["keyword", {name = "oracle", layer = 1}]\nmethod = "dim"',
    )
    assert recipe.model.id == "x/y"
    assert recipe.benchmarks == (PartSpec("world", {"split": "a"}),)
    assert recipe.judges == (PartSpec("keyword"), PartSpec("oracle", {"layer": 1}))
    assert recipe.method == PartSpec("dim")


def test_the_command_line_wins_over_the_file_over_defaults(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, FULL, "select.margin=0.05", "benchmark.0.split=test", "judge=[keyword,oracle]", "method.layer=9",
        "report.examples=5", "folder=elsewhere/x", 'report.title="1"',
    )  # fmt: skip
    assert recipe.select.margin == 0.05
    assert recipe.select.kinds == ("steer",)
    assert recipe.select.judged_trials == 12
    assert recipe.benchmarks[0].settings == {"split": "test"}
    assert [j.name for j in recipe.judges] == ["keyword", "oracle"]
    assert recipe.method == PartSpec("dim", {"layer": 9})
    assert (recipe.report.examples, recipe.report.title) == (5, "1")
    assert recipe.out == Path("elsewhere/x")


def test_overrides_reach_sections_that_the_file_leaves_out(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, 'method = "dim"', "select.margin=0.01", "method.layer=2", "model=other", "sampling.seed=3", "seed=1"
    )
    assert (recipe.select.margin, recipe.select.seed, recipe.sampling.seed) == (0.01, 1, 3)
    assert recipe.method == PartSpec("dim", {"layer": 2})
    assert recipe.model.id == "other"


def test_all_errors_are_shown_together(tmp_path: Path) -> None:
    text = """
    sede = 1
    [model]
    idd = "x"
    [[benchmark]]
    name = "wrold"
    [[benchmark]]
    name = "world"
    rate = "fast"
    [[judge]]
    limit = 3
    [sampling]
    samples = 0
    [method]
    name = "dim"
    layr = 2
    [select]
    margn = 0.1
    kinds = ["stear"]
    [grid]
    "select.margin" = 0.1
    """
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    said = str(caught.value)
    for part in (
        "no section named 'sede'", "did you mean 'seed'", "no setting named 'idd'", "did you mean 'id'",
        "no benchmark named 'wrold'", "did you mean 'world'", "setting 'rate' of benchmark world",
        "has no name", "sampling.samples is 0", "'layr' in method dim", "did you mean 'layer'",
        "did you mean 'margin'", "'stear' is not one of steer, ablate, gated", "write a list of the values",
    ):  # fmt: skip
        assert part in said
    assert f"problems in {tmp_path / 'night.toml'}:" in said
    assert said.count("\n  - ") == int(said.split()[0])


@pytest.mark.parametrize(
    ("text", "overrides", "kind", "said"),
    [
        ("[select", [], ConfigError, r"night\.toml is not valid TOML"),
        ("seed = true", [], ConfigError, "seed in .* is True; expected a whole number"),
        ("select = 3", [], ConfigError, r"write it as a table \[select\]"),
        ("benchmark = []", [], ConfigError, "names no benchmark"),
        ("", ["margin"], ConfigError, "override 'margin' is not key=value"),
        ("", ["selct.margin=1"], NotFound, "no section named 'selct'.*did you mean 'select'"),
        ("", ["select.margin=2"], ConfigError, "select.margin is 2.0; it is a share between 0 and 1"),
        ("", ["benchmark.x=2"], ConfigError, r"\[benchmark\] of .* has no name"),
        ("[select]\nquantiles=[1.5]", [], ConfigError, "select.quantiles holds 1.5"),
        ('[grid]\n"selct.margin"=[1]', [], NotFound, r"'selct.margin' in \[grid\]"),
        ("[grid]\nseed=[1,1]", [], ConfigError, "holds a value twice"),
        ("[grid.select]\nmargin=[0.1, 3.0]", [], ConfigError, "select.margin is 3.0"),
        ('[grid]\nmethod=["dim", "pcb"]', [], NotFound, "no method named 'pcb'"),
    ],
)
def test_single_errors_keep_their_type(tmp_path: Path, text: str, overrides: list[str], kind: type, said: str) -> None:
    with pytest.raises(kind, match=said):
        load(tmp_path, text, *overrides)


def test_a_missing_recipe_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_text("")
    with pytest.raises(ConfigError, match=r"no recipe .*nigth\.toml; that folder holds night\.toml"):
        load_recipe(tmp_path / "nigth.toml")


@pytest.mark.parametrize(
    "text", ["", FULL, FULL + '[grid]\nseed = [0, 1]\nmethod = ["dim", {name = "pca", rate = 0.1}]']
)
def test_the_written_recipe_reads_back_as_the_recipe(tmp_path: Path, text: str) -> None:
    recipe = load(tmp_path, text)
    written = recipe_toml(recipe)
    assert load(tmp_path, written) == recipe
    assert recipe_toml(load(tmp_path, written)) == written


@pytest.mark.parametrize(
    "value",
    ["a\nb", '"', "\\", "\x7f\x01", "进", "", 1e300, 1e-7, float("inf"), True, -3, [1, ["a"]], {"a b": {"c": 1}}],
)
def test_toml_values_round_trip(value: Any) -> None:
    recipe = Recipe(method=PartSpec("dim", {"value": value}))
    assert tomllib.loads(recipe_toml(recipe))["method"]["value"] == value


def test_recipes_made_in_python_read_back(tmp_path: Path) -> None:
    recipe = Recipe(name="x", method=PartSpec("dim"), grid=(("seed", (1, 2)), ("method.layer", (0, 3))))
    assert load(tmp_path, recipe_toml(recipe)) == recipe
    assert [c.recipe.method for c in cells(recipe)] == [PartSpec("dim", {"layer": n}) for n in (0, 3, 0, 3)]
    assert recipe_table(recipe)["grid"] == {"seed": [1, 2], "method.layer": [0, 3]}


# --- the grid

GRID = FULL + '\n[grid]\nseed = [0, 1, 2]\nselect.margin = [0.01, 0.02]\n"method.layer" = [4]\n'


def test_the_grid_is_the_product_of_its_lists(tmp_path: Path) -> None:
    found = cells(load(tmp_path, GRID))
    assert [(c.recipe.seed, c.recipe.select.margin) for c in found] == [(s, m) for s in (0, 1, 2) for m in (0.01, 0.02)]
    assert all(c.recipe.method == PartSpec("dim", {"layer": 4}) for c in found)
    assert found[0].overrides == (("seed", 0), ("select.margin", 0.01), ("method.layer", 4))
    assert all(c.recipe.sampling.seed == c.recipe.select.seed == c.recipe.seed for c in found)
    assert all(c.recipe.grid == () for c in found)
    assert all(c.recipe.out == Path("runs/night") / c.folder for c in found)


def test_cell_folders_are_stable_distinct_and_plain(tmp_path: Path) -> None:
    folders = [c.folder for c in cells(load(tmp_path, GRID))]
    assert len(set(folders)) == 6
    assert all(set(folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for folder in folders)
    assert folders[0].startswith("layer-4_seed-0_margin-0.01-")
    swapped = FULL + '\n[grid]\n"method.layer" = [4]\nselect.margin = [0.02, 0.01, 0.03]\nseed = [2, 1, 0]\n'
    assert set(folders) < {c.folder for c in cells(load(tmp_path, swapped))}


def test_without_a_grid_the_one_cell_is_the_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path, FULL)
    (cell,) = cells(recipe)
    assert (cell.folder, cell.overrides, cell.recipe) == ("", (), recipe)


def test_a_whole_part_may_vary(tmp_path: Path) -> None:
    recipe = load(tmp_path, '[grid]\nmethod = ["dim", {name = "pca", layer = 2}]')
    found = cells(recipe)
    assert [c.recipe.method for c in found] == [PartSpec("dim"), PartSpec("pca", {"layer": 2})]
    assert [c.folder.rpartition("-")[0] for c in found] == ["method-dim", "method-pca"]


def test_an_override_takes_its_setting_out_of_the_grid(tmp_path: Path) -> None:
    found = cells(load(tmp_path, GRID, "seed=5", "grid.select.margin=[0.03]"))
    assert [(c.recipe.seed, c.recipe.select.margin) for c in found] == [(5, 0.03)]


def test_tables_are_left_as_they_were() -> None:
    table = {"select": {"margin": 0.02}, "grid": {"select": {"margin": [0.01]}}}
    found = cells(recipe_from(table))
    assert found[0].recipe.select.margin == 0.01
    assert table == {"select": {"margin": 0.02}, "grid": {"select": {"margin": [0.01]}}}
