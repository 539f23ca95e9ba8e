from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from demur.benchmarks._loading import check
from demur.benchmarks.file import File
from demur.benchmarks.xstest import Xstest
from demur.errors import ConfigError, DataError, Unavailable
from demur.types import Prompt, to_json


def write(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return str(path)


def rows(**settings: Any) -> list[Prompt]:
    return list(File(**settings)())


def test_a_file_of_prompts_is_read_back_as_it_was(tmp_path: Path) -> None:
    prompts = [
        Prompt(id="s/1", text="¿Qué?", expected="comply", kind="borderline", source="s", language="es", pair="s/2"),
        Prompt(id="s/2", text="b", expected="refuse", kind="harmful", source="s", system="be kind", group="g"),
        Prompt(id="s/3", text="c", expected=None, source="s", history=(("user", "hi"),), meta=(("k", "v"),)),
    ]
    assert rows(path=write(tmp_path / "p.jsonl", *map(to_json, prompts))) == prompts


def test_rows_of_the_mirror_shape_need_no_settings(tmp_path: Path) -> None:
    path = write(
        tmp_path / "set.jsonl",
        {"id": "a-1", "prompt": "x", "label": "benign", "category": "c", "language": "de", "source": "home"},
        {"id": "a-2", "prompt": "y", "label": "harmful", "category": "d", "language": "de", "source": "home"},
    )
    assert rows(path=path) == [
        Prompt(id="a-1", text="x", expected="comply", category="c", language="de", source="home"),
        Prompt(id="a-2", text="y", expected="refuse", kind="harmful", category="d", language="de", source="home"),
    ]


def test_columns_and_labels_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('\ufeffquestion,verdict,topic\n"a, ""b""\nc",OK,t1\n\nd,nope,t2\n', encoding="utf-8")
    got = rows(path=str(path), prompt="question", label="verdict", category="topic", comply=("OK",), refuse=("nope",))
    assert [(p.id, p.text, p.expected, p.kind, p.category, p.source) for p in got] == [
        ("mine/1", 'a, "b"\nc', "comply", "", "t1", "mine"),
        ("mine/2", "d", "refuse", "harmful", "t2", "mine"),
    ]


def test_one_expectation_for_rows_without_a_label(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"question": "a"}, {"question": "b"})
    assert [p.expected for p in rows(path=path, prompt="question", expected="comply")] == ["comply", "comply"]
    assert [p.expected for p in rows(path=path, prompt="question")] == [None, None]


def test_the_format_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("prompt\tlabel\nhi\tsafe\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"data\.txt.*format"):
        rows(path=str(path))
    assert rows(path=str(path), format="tsv")[0].expected == "comply"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"prompt": "a"}', "{oops"], r"bad\.jsonl:2: not a line of JSON"),
        (['{"prompt": "a"}', "", "[1]"], r"bad\.jsonl:3: expected a JSON object, got list"),
        (['{"promt": "a"}'], r"bad\.jsonl:1: no column text or prompt; did you mean 'promt'\?"),
        (['{"prompt": "  "}'], r"bad\.jsonl:1: the prompt is '  '"),
        (['{"prompt": 3}'], r"bad\.jsonl:1: the prompt is 3"),
        (['{"prompt": "a", "label": "maybe"}'], r"bad\.jsonl:1: label 'maybe' .*allowed: comply, benign"),
        (['{"prompt": "a", "kind": "odd"}'], r"'kind'.*bad\.jsonl:1: 'odd' is not one of 'plain'"),
        (['{"prompt": "a", "id": 1}', '{"prompt": "b", "id": 1}'], r"bad\.jsonl:2: id '1' stands at .*bad\.jsonl:1"),
        ([""], r"bad\.jsonl: no rows"),
        (["[" * 100_000], r"bad\.jsonl:1: not a line of JSON"),
    ],
)
def test_a_malformed_row_is_named_with_file_and_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows(path=write(tmp_path / "bad.jsonl", *lines))


def test_a_malformed_table_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("prompt,label\na,safe\nb\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.csv:3: 1 cells where the header has 2 \(prompt, label\)"):
        rows(path=str(path))
    path.write_bytes("prompt\nnaïve\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        rows(path=str(path))


def test_wrong_settings_of_a_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file 'gone\.jsonl'"):
        rows(path="gone.jsonl")
    path = write(tmp_path / "x.jsonl", {"prompt": "a"})
    with pytest.raises(ConfigError, match="expected='yes'; allowed: comply"):
        rows(path=path, expected="yes")
    with pytest.raises(DataError, match="no column category='topic'"):
        rows(path=path, category="topic")


def test_xstest_says_what_is_missing_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(Unavailable, match=r"DEMUR_DATA is not set.*HF_HUB_OFFLINE.*Set DEMUR_DATA to a folder with"):
        list(Xstest()())
    monkeypatch.setenv("DEMUR_DATA", str(tmp_path))
    with pytest.raises(Unavailable, match=r"no xstest_v2\.jsonl or xstest/xstest_prompts\.csv in DEMUR_DATA="):
        list(Xstest()())
    monkeypatch.setenv("DEMUR_DATA", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="not a folder"):
        list(Xstest()())


def test_a_network_that_fails_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked: list[str] = []

    def cached(**where: Any) -> str:
        asked.append(f"download {where['revision']} local={where.get('local_files_only', False)}")
        raise OSError("not in the cache")

    def metadata(url: str, timeout: float) -> None:
        asked.append(f"ask {url} {timeout:g}")
        raise OSError("name or service not known")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    with pytest.raises(Unavailable, match="OSError: name or service not known"):
        list(Xstest()())
    revision = Xstest.card.revision
    url = f"https://huggingface.co/datasets/Paul/XSTest/resolve/{revision}/xstest_prompts.csv"
    assert asked == [f"download {revision} local=True", f"ask {url} 5"]


def test_the_file_of_the_hub_is_read_where_there_is_no_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "xstest_prompts.csv"
    lines = [f'{n},"made-up, {n}",{"homonyms" if n <= 250 else "contrast_homonyms"},' for n in range(1, 451)]
    lines = [line + ("safe,," if n < 250 else "unsafe,,") for n, line in enumerate(lines)]
    path.write_text("\n".join(["id,prompt,type,label,focus,note", *lines]), encoding="utf-8")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **_: str(path))
    with pytest.raises(DataError, match="sha256"):
        list(Xstest()())
    monkeypatch.setattr("demur.benchmarks._loading.check", lambda *_: None)
    prompts = list(Xstest()())
    assert (prompts[0].id, prompts[0].text, prompts[0].category) == ("xstest/001", "made-up, 1", "homonyms")
    assert Counter((p.expected, p.kind) for p in prompts) == {("comply", "borderline"): 250, ("refuse", "harmful"): 200}
    path.write_text("\n".join(["id,prompt,type,label,focus,note", *lines[:-1]]), encoding="utf-8")
    with pytest.raises(DataError, match="449 rows"):
        list(Xstest()())


def test_a_changed_mirror_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "xstest_v2.jsonl", {"id": "xstest-001", "prompt": "a", "label": "benign", "category": "c"})
    monkeypatch.setenv("DEMUR_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"xstest_v2\.jsonl: the file is not the one its card names"):
        list(Xstest()())


def test_checksums_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    check(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(DataError, match="expected 0000"):
        check(path, "0" * 64)


def test_the_real_xstest(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMUR_DATA", str(mirror))
    prompts = list(Xstest()())
    assert Counter((p.expected, p.kind) for p in prompts) == {("comply", "borderline"): 250, ("refuse", "harmful"): 200}
    assert all((p.kind == "harmful") == p.category.startswith("contrast_") for p in prompts)
    assert {p.pair for p in prompts} == {""}
