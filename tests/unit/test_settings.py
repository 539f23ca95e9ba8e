from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from demur import settings
from demur.errors import ConfigError, NotFound, Unavailable
from demur.settings import PartSpec, Problems, build, make, parse_part, parse_value, part_from, part_of, put, spec_of
from demur.types import Judge


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("keyword", "keyword", {}),
        ("world:split=test,limit=50", "world", {"split": "test", "limit": 50}),
        ("a:rate=0.5,on=true,off=false", "a", {"rate": 0.5, "on": True, "off": False}),
        ("a:langs=[en,de],nums=[1, 2]", "a", {"langs": ["en", "de"], "nums": [1, 2]}),
        ('a:quoted="1",comma="x,y",single=\'p=q\'', "a", {"quoted": "1", "comma": "x,y", "single": "p=q"}),
        ("a:path=data/x y.csv,url=http://h:1/v1?q=2", "a", {"path": "data/x y.csv", "url": "http://h:1/v1?q=2"}),
        ("./tone.py:limit=3", "./tone.py", {"limit": 3}),
        ("llm:generator=http", "llm", {"generator": "http"}),
        ("llm:generator.name=http,generator.n=1", "llm", {"generator": {"name": "http", "n": 1}}),
        ("llm:generator=http,generator.n=1", "llm", {"generator": {"name": "http", "n": 1}}),
        ("llm:generator.n=1,generator=http", "llm", {"generator": {"name": "http", "n": 1}}),
        ("panel:of=[keyword,oracle],of.1.n=2", "panel", {"of": ["keyword", {"name": "oracle", "n": 2}]}),
        ("a:inner={x = 1}", "a", {"inner": {"x": 1}}),
        ("a:tone=don't,other=1", "a", {"tone": "don't", "other": 1}),
        ("a:empty=", "a", {"empty": ""}),
        ("a:day=2024-01-01", "a", {"day": "2024-01-01"}),
    ],
)  # fmt: skip
def test_grammar_of_parts(text: str, name: str, expected: dict[str, Any]) -> None:
    assert parse_part(text) == PartSpec(name, expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no name"),
        (":a=1", "has no name"),
        ("a:b", "'b' in 'a:b' is not key=value"),
        ("a:=1", "is not key=value"),
        ("a:x=[1,2", "left open"),
        ('a:x="1', "left open"),
        ("a:x=1,x.y=2", "x is 1, which has no settings"),
        ("a:x=[1],x.4=2", "x is a list of 1"),
    ],
)
def test_malformed_parts_say_where(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_part(text)


def test_a_value_cannot_smuggle_in_other_keys() -> None:
    assert parse_value("1\nother = 2") == "1\nother = 2"
    assert parse_value("1 # note") == "1 # note"


@pytest.mark.parametrize("text", ["a", "a:b=1,c=[x,y]", 'a:b="1"', "a:g=h,g.x=0.5", 'a:b="x y"', 'a:b="",c=true'])
def test_the_text_of_a_part_reads_back_as_the_part(text: str) -> None:
    assert parse_part(str(parse_part(text))) == parse_part(text)


def test_parts_from_tables() -> None:
    table = {"name": "llm", "n": 1, "generator": {"name": "http"}}
    assert part_from(table) == PartSpec("llm", {"n": 1, "generator": {"name": "http"}})
    with pytest.raises(ConfigError, match=r"\[judge\] has no name"):
        part_from({"n": 1}, "[judge]")
    with pytest.raises(ConfigError, match="is 3; write a name"):
        part_from(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    x: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """One field of each kind."""

    must: str
    count: int = 1
    rate: float = 0.5
    on: bool = False
    kind: Literal["a", "b"] = "a"
    layers: Literal["auto"] | tuple[int, ...] = "auto"
    limit: int | None = None
    either: int | str = 0
    pair: tuple[str, float] = ("x", 1.0)
    names: tuple[str, ...] = ()
    path: Path = Path()
    inner: Inner = Inner()
    counts: dict[str, int] = field(default_factory=dict)
    api_key: str = ""
    base_url: str = ""
    fixed: ClassVar[int] = 3


@pytest.mark.parametrize(
    ("key", "raw", "expected"),
    [
        ("count", 3, 3), ("rate", 2, 2.0), ("on", True, True), ("kind", "b", "b"),
        ("layers", "auto", "auto"), ("layers", [1, 2], (1, 2)), ("layers", 3, (3,)),
        ("limit", 5, 5), ("limit", None, None), ("limit", "none", None),
        ("either", 4, 4), ("either", "word", "word"), ("either", "none", "none"),
        ("pair", ["y", 2], ("y", 2.0)), ("names", ["a"], ("a",)), ("names", "a", ("a",)),
        ("path", "x/y", Path("x/y")), ("inner", {"x": 4}, Inner(x=4)), ("counts", {"a": 1}, {"a": 1}),
        ("api_key", "OPENAI_API_KEY", "OPENAI_API_KEY"), ("base_url", "http://host:8000/v1", "http://host:8000/v1"),
    ],
)  # fmt: skip
def test_values_take_the_type_of_their_field(key: str, raw: Any, expected: Any) -> None:
    made = getattr(make(Everything, {"must": "m", key: raw}), key)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("key", "raw", "said"),
    [
        ("count", 0.5, "expected a whole number, got 0.5"), ("count", True, "expected a whole number, got True"),
        ("rate", "fast", "expected a number, got 'fast'"), ("on", 1, "expected true or false, got 1"),
        ("must", 123, 'write it in quotes: "123"'), ("kind", "c", "'c' is not one of a, b"),
        ("layers", "atuo", "'atuo' is not one of auto; or expected a whole number"), ("limit", "x", "whole number"),
        ("pair", ["y"], "expected 2 values"), ("names", [1], "expected text, got 1"), ("counts", 3, "a table"),
        ("api_key", "sk-live-123", "holds the name of an environment variable"),
        ("base_url", "http://me:pass@host", "holds a password"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(key: str, raw: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"setting '{key}' of judge x.*{said}") as caught:
        make(Everything, {"must": "m", key: raw}, where="judge x")
    assert "sk-live" not in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_all_problems_of_a_part_are_shown_together() -> None:
    with pytest.raises(ConfigError) as caught:
        make(Everything, {"cuont": 1, "rate": "x", "inner": {"y": 1}, "fixed": 2}, where="judge x")
    said = str(caught.value)
    assert said.startswith("5 problems in judge x:")
    for part in (
        "'cuont'",
        "did you mean 'count'",
        "'rate'",
        "no setting named 'y'",
        "'fixed'",
        "needs the setting 'must'",
    ):
        assert part in said


def test_one_problem_keeps_its_type() -> None:
    with pytest.raises(NotFound, match=r"no setting named 'cuont' in judge x; did you mean 'count'\?"):
        make(Everything, {"must": "m", "cuont": 1}, where="judge x")


def test_problems_gather_all_but_foreign_errors() -> None:
    problems = Problems()
    with problems.gather():
        raise Unavailable("no server")
    with problems.gather():
        raise ConfigError("wrong")
    with pytest.raises(ConfigError, match=r"2 problems in here:\n  - no server\n  - wrong"):
        problems.check("here")
    with pytest.raises(ZeroDivisionError), problems.gather():
        raise ZeroDivisionError


JUDGE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from demur.types import Judge

@dataclass(frozen=True, slots=True, kw_only=True)
class {name}:
    \"\"\"A judge.\"\"\"
    limit: int = 3
    inner: Judge | None = None
    many: tuple[Judge, ...] = ()
    batch: int = 8
    token: str = ""
    questions: ClassVar[tuple[str, ...]] = ("refusal",)
    neutral: ClassVar[tuple[str, ...]] = ("batch",)

    def __post_init__(self):
        if self.limit < 0:
            raise ValueError("limit must not be negative")
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("tone", "mood"):
        (tmp_path / f"{name}.py").write_text(JUDGE.format(name=name.capitalize()))
    return tmp_path


@pytest.mark.usefixtures("files")
def test_build_with_nested_parts() -> None:
    made = build("judges", "./tone.py:limit=5,inner=./mood.py,inner.limit=1,many=[./mood.py,./mood.py]")
    assert (made.limit, made.inner.limit, [m.limit for m in made.many]) == (5, 1, [3, 3])
    assert type(made.inner).__name__ == "Mood"
    assert build("judges", "./tone.py:inner=none").inner is None


@pytest.mark.usefixtures("files")
def test_errors_in_nested_parts_name_the_way_there() -> None:
    with pytest.raises(
        NotFound, match=r"'limt' in judge ./mood.py in setting 'inner' of judge ./tone.py; did you mean 'limit'"
    ):
        build("judges", PartSpec("./tone.py", {"inner": {"name": "./mood.py", "limt": 1}}))
    with pytest.raises(ConfigError, match=r"'inner' of judge ./tone.py has no name"):
        build("judges", "./tone.py:inner.limit=1")
    with pytest.raises(ConfigError, match=r"judge ./tone.py in recipe.toml: limit must not be negative"):
        build("judges", "./tone.py:limit=-1", where="recipe.toml")


@pytest.mark.usefixtures("files")
def test_the_record_of_a_part_builds_the_part_again() -> None:
    made = build("judges", "./tone.py:limit=5,inner=./mood.py,many=[./mood.py],token=MY_TOKEN")
    part = part_of("judges", made)
    assert part.name == "./tone.py"
    assert part.settings["inner"]["name"] == "./mood.py"
    assert part.settings["token"] == "MY_TOKEN"
    assert build("judges", spec_of(part)) == made


@pytest.mark.usefixtures("files")
def test_fingerprints_follow_what_decides_results() -> None:
    def stamp(text: str) -> str:
        return part_of("judges", build("judges", text)).fingerprint

    assert stamp("./tone.py") == stamp("./tone.py:limit=3") == stamp("./tone.py:batch=99")
    others = ["./tone.py:limit=4", "./mood.py", "./tone.py:inner=./mood.py", "./tone.py:inner=./mood.py,inner.limit=9"]
    assert len({stamp(text) for text in ("./tone.py", *others)}) == 5
    assert stamp("./tone.py:inner=./mood.py") == stamp("./tone.py:inner=./mood.py,inner.batch=1")


def test_a_changed_file_from_outside_is_another_part(files: Path) -> None:
    before = part_of("judges", build("judges", "./tone.py")).fingerprint
    (files / "tone.py").write_text(JUDGE.format(name="Tone") + "\n# another rule\n")
    assert part_of("judges", build("judges", "./tone.py")).fingerprint != before


@pytest.mark.usefixtures("files")
def test_check_reads_settings_without_importing() -> None:
    settings.check("judges", parse_part("./tone.py:limit=1"))
    with pytest.raises(NotFound, match="did you mean 'limit'"):
        settings.check("judges", parse_part("./tone.py:limt=1"))


def test_put_reaches_nested_tables_without_touching_the_original() -> None:
    original = {"select": {"margin": 0.02, "kinds": ["steer"]}}
    table: dict[str, Any] = dict(original)
    put(table, "select.margin", 0.01, where="here")
    assert table == {"select": {"margin": 0.01, "kinds": ["steer"]}}
    assert original["select"]["margin"] == 0.02


def test_protocols_are_known_by_name() -> None:
    assert settings._protocol(Judge | None) == "judges"
    assert settings._protocol(tuple[Judge, ...]) == "judges"
    assert settings._protocol(str) == ""
