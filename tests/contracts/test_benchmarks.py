"""What every benchmark must do."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from demur import registry, settings
from demur.benchmarks._loading import check
from demur.errors import DataError
from demur.mining import building
from demur.types import Benchmark, Card, Prompt, from_json, to_json

from . import public_files

NAMES = [m.name for m in registry.members("benchmarks") if m.installed]
OWN = ("built", "file", "instructed", "world")
"""Those that read no public set."""


def card_of(name: str) -> Card:
    card: Card = registry.find("benchmarks", name).card
    return card


MIRRORED = [name for name in NAMES if any(file.mirror for file in card_of(name).files)]
CASES = [f"{name}:own" for name in OWN]
CASES += [f"{name}:mirror" for name in MIRRORED] + [f"{name}:public" for name in NAMES if name not in OWN]


class Case(NamedTuple):
    """A benchmark, where it was read, and what it gave."""

    name: str
    source: str
    card: Card
    prompts: list[Prompt]


def build(name: str, **values: object) -> Benchmark:
    built: Benchmark = settings.build("benchmarks", settings.PartSpec(name=name, settings=values))
    return built


def bare(card: Card) -> Card:
    """A card that fits the small files too: no checksums, no counts."""
    files = tuple(dataclasses.replace(file, sha256="", rows=0) for file in card.files)
    return dataclasses.replace(card, files=files, size=None, sample=None)


def built(folder: Path) -> Path:
    """A small benchmark made from one mined folder."""
    (folder / "card.json").write_text(json.dumps({"scorer": {"kind": "planted"}, "judges": [], "sha256": {}}))
    twin = Prompt(id="h/1", text="The harmful one.", expected="refuse", kind="harmful", source="t")
    rows = [(twin, 0.5)]
    for n in range(6):
        text = f"Question {n} about the {'old garden' * (n + 1)}"
        rows.append(
            (Prompt(id=f"b/{n}", text=text, expected="comply", kind="borderline", source="t", pair="h/1"), n - 2)
        )
    lines = [json.dumps({"prompt": to_json(p), "d": d, "refused": d > 0}) for p, d in rows]
    (folder / "scored.jsonl").write_text("\n".join(lines) + "\n")
    building.build([folder], building.Building(name="near", per_cell=4), folder / "set")
    return folder / "set"


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The benchmark named by the test's parameter, read from the mirror or from small public files."""
    name, _, source = request.param.partition(":")
    values = {}
    if name == "file":
        values = {"path": str(tmp_path / "own.jsonl")}
        rows = [json.dumps({"prompt": f"q{n}", "label": "safe"}) for n in range(9)]
        (tmp_path / "own.jsonl").write_text("\n".join(rows))
    elif name == "built":
        values = {"path": str(built(tmp_path))}
    elif source == "mirror":
        monkeypatch.setenv("DEMUR_DATA", str(request.getfixturevalue("mirror")))
    elif source == "public":
        monkeypatch.setattr(registry.find("benchmarks", name), "card", bare(card_of(name)))
        monkeypatch.setenv("DEMUR_DATA", str(public_files.write(name, tmp_path)))
    benchmark = build(name, **values)
    prompts = list(benchmark())
    assert source == "mirror" or list(benchmark()) == prompts, "the prompts differ from call to call"
    return Case(name, source, benchmark.card, prompts)


named = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_a_benchmark_keeps_its_contract(case: Case) -> None:
    ids_are_unique(case)
    the_size_is_the_cards(case)
    expectation_and_kind_fit_together(case)
    pairs_lead_from_benign_to_harmful_rows(case)
    translations_share_their_group(case)
    for prompt in case.prompts[:20]:
        assert from_json(Prompt, json.loads(json.dumps(to_json(prompt)))) == prompt


def ids_are_unique(case: Case) -> None:
    assert max(Counter(p.id for p in case.prompts).values()) == 1
    if case.name not in OWN:
        assert {p.source for p in case.prompts} == {case.name}
        assert all(p.id.startswith(f"{case.name}/") for p in case.prompts)


def the_size_is_the_cards(case: Case) -> None:
    assert case.prompts
    wanted = case.card.sample or case.card.size if case.source == "mirror" else case.card.size
    assert wanted in (None, len(case.prompts))


def expectation_and_kind_fit_together(case: Case) -> None:
    card = card_of(case.name)
    for prompt in case.prompts:
        assert prompt.text.strip()
        if case.name != "instructed":  # there it is the system prompt that wants a refusal
            assert (prompt.kind == "harmful") == (prompt.expected == "refuse") or prompt.expected in (None, "contested")
        assert not card.kinds or prompt.kind in card.kinds
        assert not card.languages or prompt.language in card.languages


def pairs_lead_from_benign_to_harmful_rows(case: Case) -> None:
    rows = {p.id: p for p in case.prompts}
    for prompt in rows.values():
        if prompt.pair and (prompt.pair in rows or case.name not in OWN):
            assert prompt.kind != "harmful"
            assert rows[prompt.pair].kind == "harmful"


def translations_share_their_group(case: Case) -> None:
    if case.name in OWN or len({p.language for p in case.prompts}) == 1:
        return
    spoken: dict[str, list[str]] = defaultdict(list)
    for prompt in case.prompts:
        spoken[prompt.group].append(prompt.language)
    assert "" not in spoken
    assert all(len(languages) == len(set(languages)) for languages in spoken.values())
    assert max(map(len, spoken.values())) > 1


@named
def test_the_card_says_where_it_comes_from(name: str) -> None:
    card = card_of(name)
    assert card.title
    assert card.licence
    assert card.cautions
    assert card.judge in registry.names("judges")
    if card.home == "demur":
        return
    assert card.citation
    assert card.kinds
    assert card.languages
    assert card.size or card.sample or card.access or card.files
    assert card.hub or card.repository or card.access
    assert not (card.hub and card.repository)
    assert len(card.revision) in (0, 40)
    public = [file for file in card.files if not file.mirror]
    assert public or card.access
    assert all(len(file.sha256) == 64 for file in card.files if file.mirror or file.sha256)
    assert all(file.rows for file in card.files if file.mirror or file.sha256)


@named
def test_the_card_owns_up_to_what_it_does_not_know(name: str) -> None:
    card = card_of(name)
    said = " ".join(card.cautions)
    if card.hub or card.repository:
        assert ("no checksum" in said) == any(not file.sha256 for file in card.files)
        assert ("no revision" in said) == (
            not card.revision and any(not f.revision for f in card.files if not f.mirror)
        )
    assert ("sample" in said) == bool(card.sample)


def test_every_file_of_the_mirror_loads_through_a_card(mirror: Path) -> None:
    known = {file.name for name in NAMES for file in card_of(name).files if file.mirror}
    there = {path.name for path in mirror.glob("*.jsonl") if not path.name.endswith(".responses.jsonl")}
    assert there <= known


@pytest.mark.parametrize("name", MIRRORED)
def test_the_files_of_the_mirror_are_the_cards(name: str, mirror: Path) -> None:
    for file in card_of(name).files:
        if file.mirror and (mirror / file.name).is_file():
            check(mirror / file.name, file.sha256)


OTHER = {
    "orbench_80k_pool.jsonl": {"subset": "80k"},
    "coconot_contrast_pref.jsonl": {"part": "preference"},
}
"""Settings by which files are read that the defaults do not read."""


@pytest.mark.parametrize("name", MIRRORED)
def test_a_corrupted_file_of_the_mirror_is_caught(
    name: str, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMUR_DATA", str(tmp_path))
    for file in card_of(name).files:
        if not file.mirror:
            continue
        for other in card_of(name).files:
            if other.mirror:
                (tmp_path / other.name).write_bytes((mirror / other.name).read_bytes())
        data = bytearray((mirror / file.name).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / file.name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{file.name}: the file is not the one its card names.*fetch it anew"):
            list(build(name, **OTHER.get(file.name, {}))())


@pytest.mark.parametrize("file", OTHER)
def test_the_other_files_of_the_mirror_load(file: str, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMUR_DATA", str(mirror))
    name = next(name for name in MIRRORED if any(f.name == file for f in card_of(name).files))
    assert len(list(build(name, **OTHER[file])())) == card_of(name).file(file).rows
