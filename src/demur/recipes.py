"""Recipes: a whole job in one TOML file, its settings checked together, and the grid of its variants.

Sections: `[model] [[benchmark]] [[judge]] [generator] [sampling] [method] [select] [report] [grid]` and the keys
`name`, `folder`, `seed`, `suite` (benchmarks by one name, before those listed). Precedence: defaults < file <
overrides (`select.margin=0.01`). `[grid]` holds lists; their product is the cells, each a variant of the recipe with
a folder of its own. Paths count from the working folder.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from demur.errors import ConfigError, NotFound
from demur.files import fingerprint
from demur.modifiers import build_benchmark
from demur.settings import PartSpec, Problems, build, check, make, parse_value, part_from, put
from demur.suites import expanded
from demur.types import Sampling, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which model, and how it is loaded."""

    id: str = "organism"
    """A hub id, a local folder, or `organism`."""
    revision: str = ""
    """Commit, branch or tag on the hub; empty: its main branch."""
    dtype: str = "auto"
    device: str = "auto"

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `lm.load`."""
        return {"model_id": self.id, "revision": self.revision or None, "dtype": self.dtype, "device": self.device}


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectSettings:
    """What is tried, on which prompts, and how much loss the choice may risk."""

    kinds: tuple[Literal["steer", "ablate", "gated"], ...] = ("steer", "ablate", "gated")
    layers: tuple[int, ...] = ()
    """Layers to try, 0 to n_layers - 1; empty: all."""
    strengths: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5)
    """In units of the difference in means; ablation uses those up to 1."""
    against: tuple[Literal["harmful", "borderline"], ...] = ("harmful", "borderline")
    """Which refused prompts the direction is taken from."""
    positions: tuple[Literal["all", "last_prompt"], ...] = ("all", "last_prompt")
    """Which tokens are steered: all, or the last of the prompt alone."""
    quantiles: tuple[float, ...] = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05)
    """Shares of harmful validation prompts that the gate may take for benign."""
    screen_prompts: int = 400
    """Prompts of the first-token screen."""
    judged_trials: int = 12
    """Candidates whose answers are judged."""
    margin: float = 0.02
    """The floor's margin in held rate; choosing uses half of it."""
    fit: tuple[PartSpec, ...] = (
        PartSpec("world", {"split": "train", "limit": 3000}),
        PartSpec("world", {"split": "train", "attack": "all", "limit": 1200}),
    )
    """Benchmarks that directions and probes are fitted on; attacked prompts among them, or a probe misses those."""
    validation: tuple[PartSpec, ...] = (
        PartSpec("world", {"split": "validation"}),
        PartSpec("world", {"split": "validation", "attack": "all"}),
    )
    """Benchmarks that the choice is made on."""
    test_missed: bool = False
    """Whether the method that `[method]` names is tested, for comparison, though it misses the floor on validation."""
    allow_overlap: bool = False
    """Whether to go on where what is fitted on stands in what is chosen or tested on; the report says so in red."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ConfigError(f"select.margin is {self.margin}; it is a share between 0 and 1, as in 0.02")
        if self.screen_prompts < 2 or self.judged_trials < 1:
            raise ConfigError("select.screen_prompts must be at least 2, select.judged_trials at least 1")
        if wrong := [q for q in self.quantiles if not 0 <= q < 1]:
            raise ConfigError(f"select.quantiles holds {wrong[0]}; each is a share from 0 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """What the report shows beside the numbers."""

    title: str = ""
    examples: int = 40
    """Transcripts of each kind of change."""
    boundary: bool = True
    """Whether the boundary view is made; a grid of many cells does well without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole job: what is measured, how a mitigation is made and chosen, what is reported."""

    name: str = "recipe"
    folder: str = ""
    """Where results go; empty: `runs/<name>`."""
    seed: int = 0
    """Seed of sampling and select, where those sections do not set their own."""
    model: ModelSettings = ModelSettings()
    benchmarks: tuple[PartSpec, ...] = (PartSpec("world"),)
    judges: tuple[PartSpec, ...] = ()
    """Empty: the default judges of the benchmarks' cards."""
    generator: PartSpec = field(default_factory=lambda: PartSpec("local"))
    sampling: Sampling = field(default_factory=Sampling)
    method: PartSpec | None = None
    select: SelectSettings = SelectSettings()
    report: ReportSettings = ReportSettings()
    grid: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """(setting, values) for each setting that the grid varies."""
    written: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The tables as the user wrote them, overrides applied."""

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return Path(self.folder or f"runs/{self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One variant of a recipe with a grid."""

    folder: str
    """Its folder under the recipe's; the same for the same settings, in whatever order; "" without a grid."""
    overrides: tuple[tuple[str, Any], ...]
    recipe: Recipe


SECTIONS: dict[str, str] = {
    "name": "name", "folder": "folder", "seed": "seed", "model": "model", "benchmark": "benchmarks",
    "judge": "judges", "generator": "generator", "sampling": "sampling", "method": "method", "select": "select",
    "report": "report", "grid": "grid",
}  # fmt: skip
"""Key in the file -> field of `Recipe`."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    Args:
        path: a TOML file.
        overrides: `key=value` texts that win over the file, as in `select.margin=0.01`, `judge=[keyword,oracle]`
            or `benchmark.0.limit=50`. One on a setting of the grid takes it out of the grid.

    Raises:
        NotFound: for an unknown section, setting or part; suggests the nearest.
        ConfigError: for anything else that is wrong, all problems together.
    """
    if not path.is_file():
        near = ", ".join(sorted(p.name for p in path.parent.glob("*.toml"))) if path.parent.is_dir() else ""
        raise ConfigError(f"no recipe {path}" + (f"; that folder holds {near}" if near else ""))
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return recipe_from({"name": path.stem, **table}, overrides, where=str(path))


def recipe_from(table: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """Make a recipe from TOML tables; see `load_recipe`.

    Raises:
        ConfigError: for all that is wrong, together.
    """
    problems = Problems()
    written = {**table, "grid": dict(_leaves(table.get("grid", {})))}
    for text in overrides:
        with problems.gather():
            key, equals, value = text.partition("=")
            key = key.strip()
            if not equals or not key:
                raise ConfigError(f"override {text!r} is not key=value, as in select.margin=0.01")
            if key.startswith("grid."):
                written["grid"][key.removeprefix("grid.")] = parse_value(value)
                continue
            written["grid"].pop(key, None)
            put(written, key, parse_value(value), where=text)
    problems.check(where)
    recipe = _resolve(written, where, problems)
    for key, values in recipe.grid:
        for value in values:
            with problems.gather():
                _resolve(_varied(written, [(key, value)]), f"the grid's {key} of {where}", Problems())
    problems.check(where)
    return recipe


def cells(recipe: Recipe) -> tuple[Cell, ...]:
    """Return every variant in the product of the grid's lists, in their order; without a grid, the recipe itself.

    Raises:
        ConfigError: where settings of a combination contradict each other.
    """
    if not recipe.grid:
        return (Cell(folder="", overrides=(), recipe=recipe),)
    written = recipe.written or recipe_table(recipe)
    keys = [key for key, _ in recipe.grid]
    made = []
    for values in itertools.product(*(values for _, values in recipe.grid)):
        overrides = tuple(zip(keys, values, strict=True))
        folder = _cell_folder(overrides)
        varied = {**_varied(written, overrides), "folder": str(recipe.out / folder)}
        made.append(Cell(folder=folder, overrides=overrides, recipe=_resolve(varied, f"cell {folder}", Problems())))
    return tuple(made)


def recipe_table(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as the TOML tables that give it again, every default written out."""
    table = {key: _written(getattr(recipe, name)) for key, name in SECTIONS.items()}
    table["grid"] = {key: _written(values) for key, values in recipe.grid}
    return {key: value for key, value in table.items() if value not in (None, {}, [])}


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML text that `load_recipe` reads again as the same recipe."""
    table = recipe_table(recipe)
    plain = {k: v for k, v in table.items() if not isinstance(v, dict) and not _tables(v)}
    blocks = ["".join(f"{_key(k)} = {_value(v)}\n" for k, v in plain.items())]
    for key, value in table.items():
        for inner in [value] if isinstance(value, dict) else value if _tables(value) else []:
            head = f"[[{_key(key)}]]" if _tables(value) else f"[{_key(key)}]"
            blocks.append(
                "\n".join([head, *(f"{_key(k)} = {_value(v)}" for k, v in inner.items() if v is not None), ""])
            )
    return "\n".join(blocks)


def _resolve(written: Mapping[str, Any], where: str, problems: Problems) -> Recipe:
    """Turn tables into a recipe; whatever is wrong goes to `problems`, then is raised."""
    made: dict[str, Any] = {}
    table: Mapping[str, Any] = {}
    with problems.gather():
        table = expanded(written, where)
    for key, raw in table.items():
        with problems.gather():
            if key not in SECTIONS:
                raise NotFound("section", key, [*SECTIONS, "suite"], where=where)
            made[SECTIONS[key]] = _section(key, raw, written, where)
    for kind, spec in _parts(made):
        with problems.gather():
            _check(kind, spec, where)
    with problems.gather():
        if "benchmarks" in made and not made["benchmarks"]:
            raise ConfigError(f"{where} names no benchmark; write [[benchmark]] with a name")
    problems.check(where)
    seeded = {key: made.get(key, cls()) for key, cls in (("sampling", Sampling), ("select", SelectSettings))}
    for key, value in seeded.items():
        if "seed" not in written.get(key, {}):
            made[key] = dataclasses.replace(value, seed=made.get("seed", 0))
    return Recipe(**made, written=dict(written))


def _section(key: str, raw: Any, written: Mapping[str, Any], where: str) -> Any:
    """Turn one section of the file into the value of its field."""
    here = f"[{key}] of {where}"
    tables = {"model": ModelSettings, "sampling": Sampling, "select": SelectSettings, "report": ReportSettings}
    if key == "model" and isinstance(raw, str):
        raw = {"id": raw}
    if key in tables or key == "grid":
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{key} in {where} is {raw!r}; write it as a table [{key}]")
        return _grid(raw, where) if key == "grid" else make(tables[key], raw, where=here)
    if key in ("benchmark", "judge"):
        return tuple(part_from(item, here) for item in (raw if isinstance(raw, list) else [raw]))
    if key in ("generator", "method"):
        return part_from(raw, here)
    expected = int if key == "seed" else str
    if not isinstance(raw, expected) or isinstance(raw, bool):
        raise ConfigError(f"{key} in {where} is {raw!r}; expected {'a whole number' if key == 'seed' else 'text'}")
    return raw


def _parts(made: Mapping[str, Any]) -> Iterator[tuple[str, PartSpec]]:
    """Yield (kind, part) for every part that the user's file names."""
    select = made.get("select")
    for spec in (*made.get("benchmarks", ()), *((*select.fit, *select.validation) if select else ())):
        yield "benchmarks", spec
    for spec in made.get("judges", ()):
        yield "judges", spec
    for kind in ("generator", "method"):
        if kind in made:
            yield f"{kind}s", made[kind]


def _check(kind: str, spec: PartSpec, where: str) -> None:
    """Check a part: by making it where that is cheap, by its source alone where it may load a model."""
    if kind == "benchmarks":
        build_benchmark(spec, where=where)
    elif kind == "judges":
        build(kind, spec, where=where)
    else:
        check(kind, spec, where=where)


def _grid(raw: Mapping[str, Any], where: str) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    axes = []
    for key, values in _leaves(raw):
        if key.partition(".")[0] not in SECTIONS or key.partition(".")[0] in ("grid", "name", "folder"):
            raise NotFound(
                "section", key, [s for s in SECTIONS if s not in ("grid", "name", "folder")], where=f"[grid] of {where}"
            )
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{key} in [grid] of {where} is {values!r}; write a list of the values to try")
        if len({fingerprint(value) for value in values}) < len(values):
            raise ConfigError(f"{key} in [grid] of {where} holds a value twice: {values!r}")
        axes.append((key, tuple(values)))
    return tuple(axes)


def _leaves(table: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested tables: `[grid] select.margin = […]` is one setting."""
    for key, value in table.items() if isinstance(table, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _varied(written: Mapping[str, Any], overrides: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    varied = {key: value for key, value in written.items() if key != "grid"}
    for key, value in overrides:
        put(varied, key, value, where="[grid]")
    return varied


def _cell_folder(overrides: Sequence[tuple[str, Any]]) -> str:
    """Return a folder name that reads as the settings and is unique to them."""
    ordered = sorted(overrides)
    words = [f"{key.rpartition('.')[2]}-{_short(value)}" for key, value in ordered]
    return f"{'_'.join(words)[:80].rstrip('_-.')}-{fingerprint([list(pair) for pair in ordered])[:6]}"


def _short(value: Any) -> str:
    text = value.get("name", "") if isinstance(value, Mapping) else str(value)
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-")


def _written(value: Any) -> Any:
    """Turn a field of a recipe into what TOML can hold."""
    if isinstance(value, PartSpec):
        return {"name": value.name, **to_json(value.settings)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _written(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [_written(item) for item in value] if isinstance(value, tuple | list) else to_json(value)


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    """Write one TOML value; nested tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
