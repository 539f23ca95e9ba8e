from __future__ import annotations

import ast
import dataclasses
import os
import sys
from pathlib import Path

import pytest

from demur import registry
from demur.errors import ConfigError, NotFound, Unavailable
from demur.source_fields import Setting

TONE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Tone:
    """Judges the tone.

    More about it.
    """

    limit: int
    """How much
    is too much."""
    words: tuple[str, ...] = ("sorry",)
    questions: ClassVar[tuple[str, ...]] = ("refusal",)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own with one judge, one that needs a missing extra, and helpers that are no members."""
    folder = tmp_path / "ownpackage" / "judges"
    folder.mkdir(parents=True)
    (folder / "tone.py").write_text(TONE)
    (folder / "or_bench.py").write_text(TONE.replace("Tone", "OrBench") + '\nEXTRA = "far"\nimport not_there\n')
    (folder / "_phrases.py").write_text("raise RuntimeError('helpers are not read')")
    for init in (folder.parent, folder):
        (init / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "PACKAGE", "ownpackage")
    monkeypatch.setitem(registry.EXTRAS, "far", ("not_there",))
    for name in [name for name in sys.modules if name.startswith("ownpackage")]:
        monkeypatch.delitem(sys.modules, name)
    return folder


@pytest.mark.usefixtures("package")
def test_names_and_summaries_come_from_the_source() -> None:
    assert registry.names("judges") == ("or_bench", "tone")
    assert registry.summary("judges", "tone") == "Judges the tone."
    assert registry.documentation("judges", "tone").endswith("More about it.")
    assert "ownpackage.judges.tone" not in sys.modules


@pytest.mark.usefixtures("package")
def test_members_with_a_missing_extra_are_listed_with_the_command() -> None:
    far, tone = registry.members("judges")
    assert (far.name, far.extra, far.installed, far.hint) == ("or_bench", "far", False, "pip install 'demur[far]'")
    assert (tone.name, tone.extra, tone.installed, tone.hint) == ("tone", "", True, "")


def test_what_is_for_comparison_only_is_read_from_the_source(package: Path) -> None:
    (package / "harsh.py").write_text(TONE.replace("Tone", "Harsh") + '\nCOMPARISON_ONLY = "it is too harsh"\n')
    found = {m.name: m.comparison_only for m in registry.members("judges")}
    assert found == {"harsh": "it is too harsh", "or_bench": "", "tone": ""}
    assert registry.comparison_only("judges", "harsh") == "it is too harsh"


def test_the_direction_of_all_refusal_is_for_comparison_only() -> None:
    assert "safety floor" in registry.comparison_only("methods", "refusal_direction")
    assert not registry.comparison_only("methods", "refusal_steering")


def test_which_splits_a_method_looks_at_is_read_from_the_source() -> None:
    assert registry.reads("surgical", {}) == ("fit", "dev")
    assert registry.reads("adacd", {"horizon": 5}) == registry.reads("selfcd", {}) == ()
    assert registry.reads("rephrase", {}) == registry.reads("system_prompt", {"text": ""}) == ("dev",)
    assert registry.reads("system_prompt", {"text": "Be brief."}) == ()


@pytest.mark.usefixtures("package")
def test_using_a_member_with_a_missing_extra_names_the_command() -> None:
    with pytest.raises(Unavailable, match=r"judge 'or_bench' needs not_there.*pip install 'demur\[far\]'"):
        registry.find("judges", "or_bench")


@pytest.mark.usefixtures("package")
def test_fields_are_the_settings_with_defaults_and_docs() -> None:
    limit, words = registry.fields("judges", "tone")
    assert limit == Setting(name="limit", type="int", default=None, doc="How much is too much.")
    assert (words.name, words.type, words.default, words.doc) == ("words", "tuple[str, ...]", "('sorry',)", "")


STRICT = '''
from dataclasses import dataclass

raise RuntimeError("bases are read and not imported")


@dataclass(frozen=True, slots=True, kw_only=True)
class Strict:
    limit: int
    """How much is too much."""
    words: tuple[str, ...] = ()
    """What gives it away."""
    exact: bool = False
    """Whether case counts."""
'''
MILD = '''
from dataclasses import dataclass
from ownpackage.judges import _strict


@dataclass(frozen=True, slots=True, kw_only=True)
class Mild(_strict.Strict):
    """Judges mildly."""

    own: str = ""
    """Its own."""
    limit: int = 3
    exact: bool = True
    """Whether case counts, as it does here."""
'''


def test_fields_of_a_base_come_first_and_keep_their_place_and_doc(package: Path) -> None:
    (package / "_strict.py").write_text(STRICT)
    (package / "mild.py").write_text(MILD)
    found = registry.fields("judges", "mild")
    assert [(f.name, f.default, f.doc) for f in found] == [
        ("limit", "3", "How much is too much."),
        ("words", "()", "What gives it away."),
        ("exact", "True", "Whether case counts, as it does here."),
        ("own", "''", "Its own."),
    ]
    (package / "_strict.py").write_text(STRICT.replace("too much", "far too much"))
    os.utime(package / "_strict.py", ns=(1, 1))
    assert registry.fields("judges", "mild")[0].doc == "How much is far too much."


BASES = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from demur.source_fields import Setting as Named


@dataclass(frozen=True, kw_only=True)
class Left(Named):
    default: str | None = "left"
    left: int = 1


class Bare(Protocol):
    bare: int = 2


@dataclass(frozen=True, kw_only=True)
class Right(Bare):
    right: int = 3
    doc: str = "right"


@dataclass(frozen=True, kw_only=True)
class Tone(Right, Left):
    """Judges the tone."""

    left: int = 4
    type: str = "tone"
'''


def test_fields_of_a_file_from_outside_are_those_of_its_dataclass(tmp_path: Path) -> None:
    path = tmp_path / "tone.py"
    path.write_text(BASES)
    read = registry.fields("judges", str(path))
    made = dataclasses.fields(registry.find("judges", str(path)))
    assert [f.name for f in read] == [f.name for f in made] == ["name", "type", "default", "doc", "left", "right"]
    defaults = [dataclasses.MISSING if f.default is None else ast.literal_eval(f.default) for f in read]
    assert defaults == [f.default for f in made]


@pytest.mark.usefixtures("package")
def test_find_imports_the_class_and_name_of_gives_its_name() -> None:
    cls = registry.find("judges", "tone")
    assert (cls.__name__, registry.name_of(cls)) == ("Tone", "tone")
    assert cls(limit=3).limit == 3


@pytest.mark.usefixtures("package")
def test_unknown_names_suggest_the_nearest_and_list_all() -> None:
    with pytest.raises(NotFound, match=r"no judge named 'tune'; did you mean 'tone'\? There are: or_bench, tone\."):
        registry.find("judges", "tune")
    with pytest.raises(NotFound, match="did you mean 'judges'"):
        registry.names("judge")
    assert registry.names("methods") == ()


def test_a_path_loads_a_file_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tone.py").write_text(TONE)
    monkeypatch.chdir(tmp_path)
    cls = registry.find("judges", "./tone.py")
    assert dataclasses.asdict(cls(limit=1)) == {"limit": 1, "words": ("sorry",)}
    assert registry.find("judges", "./tone.py") is cls
    assert registry.name_of(cls) == "./tone.py"
    assert [f.name for f in registry.fields("judges", "./tone.py")] == ["limit", "words"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class Tune: pass", r"should define the judge class 'Tone'; it holds Tune"),
        ("class Tone: pass", "must be a dataclass"),
        ("x = 1 / 0\nclass Tone: pass", "cannot be loaded: ZeroDivisionError"),
        ("class Tone(:", "is not valid Python"),
    ],
)
def test_a_bad_file_from_outside_is_the_users_error(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "tone.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=said):
        registry.find("judges", str(path))


def test_a_missing_file_from_outside(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*tune\.py' for a judge"):
        registry.find("judges", str(tmp_path / "tune.py"))


def test_class_names() -> None:
    assert [registry.class_name(n) for n in ("keyword", "or_bench", "xstest", "a_b_c")] == [
        "Keyword",
        "OrBench",
        "Xstest",
        "ABC",
    ]


EVERY = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=[f"{kind}/{name}" for kind, name in EVERY])
def test_every_member_documents_itself(kind: str, name: str) -> None:
    summary = registry.summary(kind, name)
    assert summary.endswith((".", "?")), f"{kind}/{name}: the first docstring line is one sentence: {summary!r}"
    assert len(summary) <= 120
    undocumented = [f.name for f in registry.fields(kind, name) if not f.doc]
    assert not undocumented, f"{kind}/{name}: settings without a docstring under them: {undocumented}"
