from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from demur.assemble import build_benchmarks
from demur.errors import ConfigError, NotFound
from demur.measure import collect_prompts, part_label
from demur.modifiers import Modifiers, build_benchmark, sample
from demur.recipes import cells, load_recipe, recipe_from, recipe_toml
from demur.records import RunFolder
from demur.settings import parse_part, spec_of
from demur.types import Prompt
from tests.unit.test_cli import demur

KINDS = ("harmful", "borderline")


def pool(groups: int = 40) -> list[Prompt]:
    """Pairs of a harmful prompt and its benign twin in two languages: four rows to a group."""
    return [
        Prompt(
            id=f"p/{g}/{language}/{kind}",
            text=f"text {g} {language} {kind}",
            expected="refuse" if kind == "harmful" else "comply",
            kind=kind,
            source="p",
            category=f"c{g % 4}",
            language=language,
            pair="" if kind == "harmful" else f"p/{g}/{language}/harmful",
            group=f"g{g}",
        )
        for g in range(groups)
        for language in ("en", "de")
        for kind in KINDS
    ]


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A benchmark in a file outside the package, without any settings of its own."""
    path = tmp_path / "mine.py"
    path.write_text(
        '"""Mine."""\n'
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from demur.types import Card\n"
        "from tests.unit.test_modifiers import pool\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Mine:\n"
        '    """Mine."""\n'
        "    def __call__(self):\n"
        "        return iter(pool())\n"
        "Mine.card = Card(title='Mine', home='demur')\n"
    )
    return str(path)


def prompts_of(text: str) -> list[Prompt]:
    return collect_prompts(build_benchmarks([text]))


def test_an_attack_with_a_colon_and_a_limit_parse_and_are_recorded(own: str) -> None:
    ((part, benchmark),) = build_benchmarks([f"{own}:attack=prefill:8,limit=50"])
    assert part.settings == {"attack": "prefill:8", "limit": 50}
    assert part_label(part, benchmark) == f"{own}:attack=prefill:8,limit=50"
    assert str(parse_part(part_label(part, benchmark))) == part_label(part, benchmark)
    prompts = list(benchmark())
    assert len(prompts) == 48
    assert {p.category for p in prompts} == {"attack-prefill:8"}
    again = build_benchmark(spec_of(part))
    assert list(again()) == prompts


def test_the_record_differs_exactly_where_the_prompts_may(own: str) -> None:
    def mark(text: str) -> str:
        return build_benchmarks([text])[0][0].fingerprint

    plain = mark(own)
    assert mark(f"{own}:attack=none,limit=0") == plain
    marks = [mark(f"{own}:{s}") for s in ("limit=8", "limit=8,seed=1", "language=en", "attack=role_play")]
    assert len({plain, *marks}) == 5


def test_languages_and_categories_are_kept(own: str) -> None:
    assert {p.language for p in prompts_of(f"{own}:language=DE")} == {"de"}
    both = prompts_of(f"{own}:category=[c1,c2],language=en")
    assert Counter((p.category, p.language) for p in both) == {("c1", "en"): 20, ("c2", "en"): 20}
    label = part_label(*build_benchmarks([f"{own}:category=[c1,c2]"])[0])
    assert {p.category for p in prompts_of(label)} == {"c1", "c2"}
    with pytest.raises(NotFound, match=r"no language named 'fr' in benchmark .*There are: de, en"):
        prompts_of(f"{own}:language=fr")
    with pytest.raises(NotFound, match="did you mean 'c1'"):
        prompts_of(f"{own}:category=c1x")


def test_categories_are_those_of_the_languages_kept() -> None:
    rows = [p for p in pool() if (p.language == "en") == (p.category == "c1")]
    with pytest.raises(NotFound, match="no category named 'c2' in benchmark mine There is: c1"):
        Modifiers(language=("en",), category=("c2",)).apply(rows, "mine")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("xstest:limt=5", "no setting named 'limt'"),
        ("xstest:limit=-1", "must be 0"),
        ("xstest:limit=five", "a whole number"),
        ("xstest:seed=3", "set limit=N too"),
        ("xstest:whole=false", "set limit=N too"),
        ("xstest:attack=prefil:8", "no attack named 'prefil:8'"),
        ("world:limit=5,seed=3", "world has a limit of its own, which takes no seed"),
    ],
)
def test_a_wrong_modifier_is_named_before_anything_is_read(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_benchmarks([text])


def test_a_benchmark_keeps_settings_of_its_own(tmp_path: Path) -> None:
    ((part, _),) = build_benchmarks(["world:limit=40,attack=role_play"])
    assert part.settings["limit"] == 40
    assert {p.category for p in prompts_of("world:limit=40,attack=role_play")} == {"attack-role_play"}
    with pytest.raises(NotFound, match="benchmark world, setting attack"):
        prompts_of("world:attack=prefil")
    path = tmp_path / "own.jsonl"
    rows = [{"text": f"q{i}", "tongue": "de" if i % 2 else "en", "expected": "comply"} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = prompts_of(f"file:path={path},language=tongue,limit=4")
    assert Counter(p.language for p in got) == {"en": 2, "de": 2}


def test_a_modifier_joins_the_worlds_own_settings() -> None:
    got = prompts_of("world:split=validation,language=de,category=homonym")
    assert {(p.language, p.category) for p in got} == {("de", "homonym")}


def test_several_wrong_benchmarks_are_named_together() -> None:
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*xtest.*limt"):
        build_benchmarks(["xtest", "xstest:limt=1"])


def test_recipes_take_modifiers(own: str, tmp_path: Path) -> None:
    table = {"benchmark": [{"name": own, "attack": ["prefill:8", "role_play"], "limit": 20}]}
    recipe = recipe_from(table, ["benchmark.0.limit=12"])
    path = tmp_path / "r.toml"
    path.write_text(recipe_toml(recipe))
    assert load_recipe(path).benchmarks == recipe.benchmarks
    got = collect_prompts(build_benchmarks(recipe.benchmarks))
    assert Counter(p.category for p in got) == {"attack-prefill:8": 4, "attack-role_play": 4}
    with pytest.raises(ConfigError, match="no attack named 'prefil'"):
        recipe_from({"benchmark": [{"name": own, "attack": "prefil"}]})


def shares(prompts: list[Prompt]) -> Counter[tuple[str, str, str]]:
    return Counter((p.kind, p.language, p.category) for p in prompts)


def test_a_limit_keeps_groups_whole_and_shares_as_they_are() -> None:
    got = sample(pool(), 32)
    assert set(Counter(p.group for p in got).values()) == {4}
    assert set(shares(got).values()) == {2}
    assert len(shares(got)) == 16
    assert len(sample(pool(), 35)) == 32
    assert [p.id for p in got] == [p.id for p in pool() if p.id in {q.id for q in got}]


def test_where_groups_need_not_stay_whole_pairs_do() -> None:
    got = sample(pool(), 32, whole=False)
    assert set(Counter(p.pair or p.id for p in got).values()) == {2}
    assert len({p.group for p in got}) > 8
    assert Counter(p.language for p in got) == {"en": 16, "de": 16}


def test_a_limit_smaller_than_a_group_takes_pairs_and_then_single_prompts() -> None:
    assert Counter(p.pair or p.id for p in sample(pool(), 3)).most_common()[0][1] == 2
    assert len(sample(pool(), 1)) == 1
    assert sample(pool(2), 100) == pool(2)


def test_samples_differ_by_seed_and_grow_with_the_limit() -> None:
    ids = [{p.id for p in sample(pool(), n, seed=3)} for n in (16, 40, 80)]
    assert ids[0] < ids[1] < ids[2]
    assert {p.id for p in sample(pool(), 40, seed=4)} != ids[1]


def test_unequal_strata_keep_their_shares_at_every_level() -> None:
    sizes = {
        ("harmful", "en", "a"): 300,
        ("harmful", "de", "b"): 60,
        ("plain", "en", "c"): 120,
        ("plain", "ko", "d"): 20,
    }
    rows = [
        Prompt(id=f"{k}{c}{i}", text="x", expected=None, kind=k, source="s", category=c, language=lang)  # type: ignore[arg-type]
        for (k, lang, c), n in sizes.items()
        for i in range(n)
    ]
    for seed in range(5):
        got = shares(sample(rows, 100, seed=seed))
        for stratum, n in sizes.items():
            assert abs(got[stratum] - n / 5) <= 1.5


def test_every_prompt_has_the_same_chance() -> None:
    rows = pool(12)
    counts = Counter(p.id for seed in range(200) for p in sample(rows, 12, seed=seed))
    expected = 200 * 12 / 48
    assert all(abs(counts[p.id] - expected) < 5 * (expected * 0.75) ** 0.5 for p in rows)


def test_an_attacked_sample_is_measured_from_the_command_line(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}?", "label": "harmful" if i % 2 else "benign"} for i in range(40)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = "file:path=own.jsonl,attack=prefill:3,limit=10,seed=2"
    done = demur("measure", "--generator", "fake", "--benchmark", part, "--out", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert {m["benchmark"] for m in metrics} == {"file:attack=prefill:3,limit=10,path=own.jsonl,seed=2"}
    assert {m["n"] for m in metrics if m["name"] == "held_rate" and m["slice"] == "all"} == {5}
    run = RunFolder.load(tmp_path / "run")
    assert run.spec.benchmarks[0].settings["attack"] == "prefill:3"
    assert all(r.text.startswith("Sure, here is") for r in run.responses)
    other = part.replace("prefill:3", "prefill:4")
    done = demur("measure", "--generator", "fake", "--benchmark", other, "--out", "run", cwd=tmp_path)
    assert (done.returncode, "benchmarks" in done.stderr) == (2, True)


def test_a_grid_varies_the_attack(own: str) -> None:
    recipe = recipe_from({"benchmark": [{"name": own}], "grid": {"benchmark.0.attack": ["none", "role_play"]}})
    ids = [{p.id for p in collect_prompts(build_benchmarks(c.recipe.benchmarks))} for c in cells(recipe)]
    assert len(ids[0]) == len(ids[1]) == 160
    assert not ids[0] & ids[1]
