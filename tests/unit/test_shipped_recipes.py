"""The recipes of the repository: each is understood, and what it names exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from demur.recipes import cells, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_cell_is_a_recipe_of_its_own(path: Path) -> None:
    recipe = load_recipe(path)
    found = cells(recipe)
    assert len({cell.folder for cell in found}) == len(found) >= 1
    assert recipe.name == ("demo" if path.stem == "quickstart" else path.stem)
