"""Public prompt sets: fetched once, pinned, checked; each set's own reading of its rows."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from demur import cli, registry, settings
from demur.benchmarks import _cards, _fetch, _loading
from demur.benchmarks.advbench import Advbench
from demur.benchmarks.false_reject import FalseReject
from demur.benchmarks.wildguard_test import WildguardTest
from demur.errors import ConfigError, DataError, Unavailable
from demur.types import Card, CardFile, Prompt
from tests.contracts import public_files
from tests.contracts.test_benchmarks import bare

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Home:
    """GitHub as the loader meets it: files by address, and how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(urllib.request, "urlopen", self.open)

    def open(self, url: str, timeout: float) -> io.BytesIO:
        self.asked.append(url)
        if url not in self.files:
            raise urllib.error.URLError("no address for this name")
        return io.BytesIO(self.files[url])


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(monkeypatch)


def card(**values: Any) -> Card:
    return Card(title="Some Set", home="https://x.invalid", repository="some/set", **values)


def raw(revision: str, name: str) -> str:
    return f"https://raw.githubusercontent.com/some/set/{revision}/{name}"


def find(made: Card, name: str = "data/a b.csv") -> _loading.Found:
    return _loading.find(made, "", name, "some_set")


def test_a_file_on_github_is_fetched_once_at_the_pinned_commit(home: Home, tmp_path: Path) -> None:
    data = b"prompt\nhello\n"
    file = CardFile(name="data/a b.csv", sha256=hashlib.sha256(data).hexdigest())
    home.files[raw(COMMIT, "data/a%20b.csv")] = data
    for _ in range(2):
        path, entry = find(card(revision=COMMIT, files=(file,)))
        assert path.read_bytes() == data
        assert entry == file
    assert home.asked == [raw(COMMIT, "data/a%20b.csv")]
    assert path.is_relative_to(tmp_path / "cache")
    assert _fetch.pins() == {}


def test_a_file_with_a_wrong_checksum_is_not_kept(home: Home, tmp_path: Path) -> None:
    home.files[raw(COMMIT, "data/a%20b.csv")] = b"something else"
    made = card(revision=COMMIT, files=(CardFile(name="data/a b.csv", sha256="0" * 64),))
    with pytest.raises(DataError, match=r"some/set/data/a b\.csv: the file is not the one its card names"):
        find(made)
    assert not list((tmp_path / "cache").rglob("*.csv"))


def test_a_file_of_its_own_revision_is_taken_from_there(home: Home) -> None:
    home.files[raw("b" * 40, "data/a%20b.csv")] = b"prompt\nx\n"
    find(card(revision=COMMIT, files=(CardFile(name="data/a b.csv", revision="b" * 40),)))
    assert home.asked == [raw("b" * 40, "data/a%20b.csv")]


def test_an_unknown_checksum_is_recorded_and_holds_from_then_on(home: Home) -> None:
    made = card(files=(CardFile(name="data/a b.csv"),))
    home.files[raw("main", "data/a%20b.csv")] = b"prompt\nfirst\n"
    path, _ = find(made)
    pin = _fetch.pins()["github:some/set@main/data/a b.csv"]
    assert pin["sha256"] == hashlib.sha256(b"prompt\nfirst\n").hexdigest()
    path.write_bytes(b"prompt\nmeddled with\n")
    with pytest.raises(DataError, match="not what was fetched first"):
        find(made)
    path.unlink()
    home.files[raw("main", "data/a%20b.csv")] = b"prompt\nsecond\n"
    with pytest.raises(DataError, match=r"Its home has changed.*remove 'github:some/set@main/data/a b\.csv' from"):
        find(made)
    assert not path.exists()


def test_first_downloads_recorded_at_once_are_all_kept(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"prompt\nx\n")
    cards = [CardFile(name=f"{i}.csv") for i in range(12)]
    start, read = threading.Barrier(len(cards)), _fetch.pins

    def slowly() -> dict:
        known = read()
        time.sleep(0.003)
        return known

    def record(file: CardFile) -> None:
        start.wait()
        _fetch.check_pinned(card(files=(file,)), file, path)

    with mock.patch.object(_fetch, "pins", slowly):
        workers = [threading.Thread(target=record, args=(file,)) for file in cards]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert set(_fetch.pins()) == {f"github:some/set@main/{i}.csv" for i in range(12)}


def test_without_a_network_the_message_says_what_to_do(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    made = card(files=(CardFile(name="data/a b.csv"),))
    with pytest.raises(Unavailable) as caught:
        find(made)
    assert str(caught.value) == (
        "Some Set is not here: DEMUR_DATA is not set, and data/a b.csv of some/set could not be had "
        "(URLError: <urlopen error no address for this name>). Set DEMUR_DATA to a folder with some_set/a b.csv, "
        "or connect to the network once: the file is then cached."
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unavailable, match="not in the cache and HF_HUB_OFFLINE is set"):
        find(made)
    assert len(home.asked) == 1


def test_a_set_without_a_revision_keeps_to_the_commit_it_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "snapshots" / COMMIT / "test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"prompt": "How tall is a pine?", "category_text": "Trees"}) + "\n")
    asked: list[str] = []

    def cached(**where: Any) -> str:
        asked.append(where["revision"])
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    for _ in range(2):
        assert [p.text for p in FalseReject()()] == ["How tall is a pine?"]
    assert asked == ["main", COMMIT]
    assert _fetch.pins()["hub:AmazonScience/FalseReject@main/test.jsonl"]["revision"] == COMMIT


def test_a_gated_set_says_how_to_get_access(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError("401 Client Error: access is restricted")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refused)
    with pytest.raises(Unavailable, match=r"401.*It is gated: accept the terms on https://.*set HF_TOKEN"):
        list(WildguardTest()())


def test_parquet_without_pyarrow_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wildguard_test").mkdir()
    (tmp_path / "wildguard_test" / "wildguard_test.parquet").write_bytes(b"PAR1")
    monkeypatch.setenv("DEMUR_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Unavailable, match=r"pyarrow.*pip install pyarrow.*wildguard_test\.jsonl or"):
        list(WildguardTest()())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", r"a\.json: not JSON \(.* at line 1\)"),
        ("{}", r"a\.json: expected a list of objects, got dict"),
        ('[{"prompt": "x"}, 3]', r"a\.json\[1\]: expected a JSON object, got int"),
    ],
)
def test_a_malformed_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        list(_loading.read(tmp_path / "a.json", "json"))


def public(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> list[Prompt]:
    """The prompts of a benchmark, read from small files in the format of its home."""
    cls = registry.find("benchmarks", name)
    monkeypatch.setattr(cls, "card", bare(cls.card))
    monkeypatch.setenv("DEMUR_DATA", str(public_files.write(name, folder)))
    return list(settings.build("benchmarks", settings.PartSpec(name=name, settings=values))())


def brief(prompts: list[Prompt]) -> list[tuple[Any, ...]]:
    return [(p.id.partition("/")[2], p.expected, p.kind, p.category) for p in prompts]


OR = "or_bench"
EXPECTED: list[tuple[str, dict[str, Any], list[tuple[Any, ...]]]] = [
    (OR, {}, [("hard-0000", "comply", "borderline", "privacy"), ("hard-0001", "comply", "borderline", "illegal")]),
    (OR, {"subset": "80k"}, [("80k-00000", "comply", "borderline", "privacy")]),
    (OR, {"subset": "toxic"}, [("toxic-000", "refuse", "harmful", "hate")]),
    (
        "oktest",
        {},
        [
            ("000", "comply", "borderline", "test"),
            ("001", "comply", "borderline", "test"),
            ("heldout-000", "comply", "borderline", "heldout"),
        ],
    ),
    (
        "phtest",
        {},
        [("7", "comply", "borderline", "harmless"), ("9", "contested", "borderline", "controversial")],
    ),
    ("coconot", {}, [("aa", "comply", "borderline", "Incomplete requests/vague")]),
    ("coconot", {"part": "preference"}, [("pref-bb", "comply", "borderline", "")]),
    (
        "coconot",
        {"part": "refuse"},
        [
            ("refuse-cc", "refuse", "harmful", "Requests with safety concerns/privacy"),
            ("refuse-dd", "contested", "", "Humanizing requests/personal"),
        ],
    ),
    ("harmbench", {"part": "copyright"}, [("third_thing", "refuse", "harmful", "copyright")]),
    ("strong_reject", {}, [("000", "refuse", "harmful", "Violence")]),
    ("simple_safety_tests", {}, [("sst_001", "refuse", "harmful", "Scams")]),
    ("do_not_answer", {}, [("1", "refuse", "harmful", "Malicious Uses")]),
    ("ifeval", {}, [("1000", "comply", "plain", "a:b,c:d")]),
    ("mt_bench", {}, [("81", "comply", "plain", "writing")]),
    (
        "refusal_direction",
        {"split": "val", "part": "harmless"},
        [("harmless-val-00000", "comply", "plain", ""), ("harmless-val-00001", "comply", "plain", "")],
    ),
    (
        "wildguard_test",
        {},
        [
            ("0000", "comply", "borderline", "benign"),
            ("0001", "refuse", "harmful", "violence"),
            ("0002", None, "borderline", "others"),
        ],
    ),
]


@pytest.mark.parametrize(("name", "values", "expected"), EXPECTED)
def test_rows_mean_what_the_set_says(
    name: str,
    values: dict[str, Any],
    expected: list[tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert brief(public(name, tmp_path, monkeypatch, **values)) == expected


def test_harmless_twins_carry_the_harmful_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twins = public("jailbreakbench", tmp_path, monkeypatch)
    assert [(p.id.partition("/")[2], p.pair.partition("/")[2]) for p in twins] == [
        ("000-h", ""),
        ("000-b", "000-h"),
        ("001-h", ""),
        ("001-b", "001-h"),
    ]
    idioms = public("k_over_refusal", tmp_path, monkeypatch)
    assert [(p.id, p.pair, p.language) for p in idioms] == [
        ("k_over_refusal/000", "k_over_refusal/001", "ko"),
        ("k_over_refusal/001", "", "ko"),
    ]


def test_translations_of_one_item_are_grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jail = public("multijail", tmp_path, monkeypatch)
    assert (jail[10].id, jail[10].group, jail[10].language) == ("multijail/012-en", "multijail/012", "en")
    assert Counter(p.group for p in jail) == {"multijail/000": 10, "multijail/012": 10}
    poly = public("polyrefuse", tmp_path, monkeypatch, languages=["de", "zh"])
    assert [p.id for p in poly if p.group == "polyrefuse/harmless-test-001"] == [
        "polyrefuse/harmless-test-001-de",
        "polyrefuse/harmless-test-001-zh",
    ]
    cyber = public("cyberseceval_frr", tmp_path, monkeypatch, version="both")
    assert [p.language for p in cyber] == ["en", "en", "en", "fr", "th", "de"]
    first, second = cyber[0].group, cyber[1].group
    assert [p.group for p in cyber] == [first, second, first, first, first, second]


def test_texts_are_put_together_as_the_set_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (behaviour,) = public("harmbench", tmp_path, monkeypatch, part="contextual")
    assert behaviour.text == f"A context.\n\n---\n\n{public_files.HARM} 1"
    assert [p.id for p in public("harmbench", tmp_path, monkeypatch)] == ["harmbench/one_thing"]
    assert [p.text for p in public("alpaca", tmp_path, monkeypatch, inputs=True)][1] == "Sort these.\n\nb, a"
    assert [p.id for p in public("alpaca", tmp_path, monkeypatch)] == ["alpaca/00000"]
    assert public("mt_bench", tmp_path, monkeypatch)[0].text == f"{public_files.SAFE} 0"
    guard = public("wildguard_test", tmp_path, monkeypatch)
    assert [p.get("adversarial") for p in guard] == ["true", "false", "false"]


def test_polyrefuse_takes_the_translation_where_the_english_stands_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public_files.write("polyrefuse", tmp_path)
    row = {"instruction": "Name a tree.", "instruction_translated": "Noem een boom.", "category": None}
    for part in ("harmful", "harmless"):
        (tmp_path / "polyrefuse" / f"{part}_test_translated_nl.json").write_text(json.dumps([row]))
    poly = public("polyrefuse", tmp_path, monkeypatch, languages=["nl"])
    assert {p.text for p in poly} == {"Noem een boom."}


def test_morbench_names_the_columns_it_saw_and_takes_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def morbench(content: str, **values: Any) -> list[Prompt]:
        monkeypatch.setitem(public_files.FILES, "morbench", {"morbench.csv": content})
        return public("morbench", tmp_path, monkeypatch, **values)

    asked = "query,lang,kind_of\nHow old is the sea?,en,fine\nstand-in,zh,bad\n"
    with pytest.raises(DataError, match=r"no column text or prompt.*There are: query, lang, kind_of\. Set prompt="):
        morbench(asked)
    unlabelled = morbench(asked, prompt="query", language="lang")
    assert [(p.id, p.expected, p.kind, p.language) for p in unlabelled] == [
        ("morbench/1", None, "", "en"),
        ("morbench/2", None, "", "zh"),
    ]
    mapped = morbench(asked, prompt="query", language="lang", label="kind_of", comply=["fine"], refuse=["bad"])
    assert brief(mapped) == [("1", "comply", "borderline", ""), ("2", "refuse", "harmful", "")]
    wide = morbench(
        "en,es\nHow old is the sea?,¿Qué edad tiene el mar?\n", languages=["en=en", "es=es"], expected="comply"
    )
    assert [(p.id, p.language, p.group) for p in wide] == [
        ("morbench/1-en", "en", "morbench/1"),
        ("morbench/1-es", "es", "morbench/1"),
    ]
    with pytest.raises(ConfigError, match=r"languages holds 'es'; write code=column"):
        morbench("es\nx\n", languages=["es"])


def test_a_copy_of_the_public_file_goes_before_the_mirrors_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = {"id": "advbench-007", "prompt": "stand-in", "label": "harmful", "category": None, "language": "en"}
    (tmp_path / "advbench.jsonl").write_text(json.dumps(sample) + "\n")
    monkeypatch.setenv("DEMUR_DATA", str(tmp_path))
    monkeypatch.setattr(Advbench, "card", bare(Advbench.card))
    assert [p.id for p in Advbench()()] == ["advbench/007"]
    assert [p.id for p in public("advbench", tmp_path, monkeypatch)] == ["advbench/000", "advbench/001"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("goal,target\n", "no rows; AdvBench"),
        ("goal,target\nx,y\nz,y\n", "2 rows; AdvBench .* has 520"),
        ("aim,target\nx,y\n", r"harmful_behaviors\.csv:2: no column 'goal'; there are: aim, target"),
        ("goal,target\n ,y\n", r"harmful_behaviors\.csv:2: column 'goal' is empty"),
    ],
)
def test_a_file_that_is_not_the_set_is_named(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(public_files.FILES, "advbench", {"harmful_behaviors.csv": content})
    monkeypatch.setenv("DEMUR_DATA", str(public_files.write("advbench", tmp_path)))
    counted = dataclasses.replace(Advbench.card.files[0], sha256="", rows=520 if "2 rows" in message else 0)
    monkeypatch.setattr(Advbench, "card", dataclasses.replace(Advbench.card, files=(counted,)))
    with pytest.raises(DataError, match=message):
        list(Advbench()())


def test_the_list_shows_licence_size_and_languages() -> None:
    shown = CliRunner().invoke(cli.build(), ["list", "benchmarks", "--json"])
    rows = {row["name"]: row for row in json.loads(shown.stdout)}
    assert set(rows) == set(registry.names("benchmarks"))
    shown_of = ("licence", "size", "languages", "gated")
    assert [rows["xstest"][key] for key in shown_of] == ["CC-BY-4.0", 450, ["en"], False]
    assert rows["wildguard_test"]["gated"] is True
    assert _cards.line("or_bench").size == "1,319 (298 in the mirror)"
    assert _cards.line("alpaca").size == "up to 52,002"
    assert _cards.line("scope").size == "varies"
