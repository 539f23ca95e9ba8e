from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from demur import leaks
from demur.assemble import build_benchmarks
from demur.errors import DataError
from demur.measure import collect_prompts
from demur.types import Prompt
from tests.unit.test_cli import demur


def rows(source: str, *texts: str, groups: Sequence[str] = ()) -> list[Prompt]:
    named = groups or [""] * len(texts)
    return [
        Prompt(id=f"{source}/{i}", text=text, expected=None, source=source, group=group)
        for i, (text, group) in enumerate(zip(texts, named, strict=True))
    ]


def read(folder: Path) -> list[dict]:
    return json.loads((folder / leaks.FILE).read_text("utf-8"))


def test_what_returns_in_a_later_stage_is_said_and_kept(tmp_path: Path) -> None:
    fit = rows("one", "How do I stop the engine of a boat?", "Name a river of the north.")
    dev = rows("two", "Which hill is high?")
    test = rows("three", "how do I stop the engine of a boat", "Name a river of the north now.", "Sing to me.")
    with pytest.warns(leaks.OverlapWarning, match=r"of 3 prompts of three \(test\).* one \(fit\): 1 exactly, 1 nearly"):
        found = leaks.check({"fit": fit, "validation": dev, "test": test}, tmp_path)
    assert [(leak.earlier, leak.later, leak.overlap.a, leak.overlap.b) for leak in found] == [
        ("fit", "test", "one", "three")
    ]
    (record,) = read(tmp_path)
    assert (record["exact_b"], record["near_b"], record["size_b"], record["grouped"]) == (1, 1, 3, 0)
    assert record["share_b"] == pytest.approx(2 / 3)
    assert {(m["a"], m["b"]) for m in record["matches"]} == {("one/0", "three/0"), ("one/1", "three/1")}
    assert "engine" not in json.dumps(record)


def test_translations_of_one_item_are_found_by_their_group(tmp_path: Path) -> None:
    fit = rows("set", "Where does the boat lie?", "What is a lake?", groups=("g1", "g2"))
    test = [
        Prompt(id=f"set/de{i}", text=t, expected=None, source="set", group=g)
        for i, (t, g) in enumerate([("Wo liegt das Boot?", "g1"), ("Wer singt heute?", "g9")])
    ]
    with pytest.warns(leaks.OverlapWarning, match="1 by their group"):
        (leak,) = leaks.check({"fit": fit, "test": test}, tmp_path)
    assert leak.grouped == 1


def test_a_training_set_that_is_evaluated_on_stops_with_the_ids(tmp_path: Path) -> None:
    fit = rows("one", "What is a lake?", groups=("g1",))
    test = rows("two", "Which hill is high?", "what is a LAKE")
    with pytest.raises(DataError, match=r"of 2 prompts of two \(test\) .*\(two/1\).*--allow-overlap"):
        leaks.check({"fit": fit, "test": test}, tmp_path, allowed=False)
    assert [r["exact_b"] for r in read(tmp_path)] == [1]
    moved = Prompt(id="one/de", text="Wo liegt das Boot?", expected=None, source="one", group="g1")
    with pytest.raises(DataError, match=r"1 by their group \(one/de\)"):
        leaks.check({"fit": fit, "test": [moved]}, tmp_path, allowed=False)
    with pytest.warns(leaks.OverlapWarning):
        leaks.check({"validation": fit, "test": test}, tmp_path, allowed=False)


def test_clean_stages_leave_an_empty_list_and_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert leaks.check({"fit": rows("a", "What is a lake?"), "test": rows("b", "Sing to me.")}, tmp_path) == ()
    assert read(tmp_path) == []


def test_the_worlds_splits_share_nothing(tmp_path: Path) -> None:
    parts = {"fit": ["world:split=train,limit=200"], "test": ["world:split=validation"]}
    stages = {name: collect_prompts(build_benchmarks(part)) for name, part in parts.items()}
    assert leaks.check(stages, tmp_path) == ()
    stages["fit"] = stages["test"]
    with pytest.warns(leaks.OverlapWarning):
        (leak,) = leaks.check(stages, tmp_path)
    assert leak.overlap.exact_b == len(stages["test"])


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    for name, texts in (("one", ["What is a lake?", "Sing to me."]), ("two", ["what is a LAKE", "Who is he?", "Why?"])):
        lines = [json.dumps({"prompt": text, "label": "benign"}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return f"file:path={tmp_path}/one.jsonl", f"file:path={tmp_path}/two.jsonl"


def test_overlap_is_shown_without_texts(two: tuple[str, str], tmp_path: Path) -> None:
    done = demur("benchmarks", "overlap", *two, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "1 of 2 = 50.0 % (1 exact)" in shown
    assert "1 of 3 = 33.3 % (1 exact)" in shown
    assert "one/1" in shown
    assert "lake" not in shown.lower()
    (record,) = json.loads(demur("benchmarks", "overlap", *two, "--json").stdout)
    assert (record["a"], record["exact_a"], record["near_a"], record["size_b"]) == (two[0], 1, 0, 3)
    assert record["matches"] == [{"a": "one/1", "b": "two/1", "similarity": 1.0, "exact": True}]


def test_overlap_needs_two_sets_that_are_there(two: tuple[str, str]) -> None:
    assert "name at least two" in demur("benchmarks", "overlap", two[0]).stderr
    done = demur("benchmarks", "overlap", two[0], "file:path=gone.jsonl", "file:path=lost.jsonl")
    assert done.returncode == 2
    assert "gone.jsonl" in done.stderr
    assert "lost.jsonl" in done.stderr
    assert "above 0" in demur("benchmarks", "overlap", *two, "--threshold", "2").stderr


def test_a_warning_is_one_line_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    from demur.cli import _show_warning

    _show_warning(leaks.OverlapWarning("it returns"), leaks.OverlapWarning, "x.py", 3)
    assert capsys.readouterr().err == "warning: it returns\n"


def test_what_the_mirrors_sets_share(mirror: Path) -> None:
    names = ("refusal_direction_harmful", "jbb_behaviors", "advbench", "harmbench_standard", "xstest_v2")
    parts = [f"file:path={mirror}/{name}.jsonl" for name in names]
    records = json.loads(demur("benchmarks", "overlap", *parts, "--json", "--examples", "500").stdout)
    ours = {record["b"]: record for record in records if "refusal_direction" in record["a"]}
    assert [ours[part]["exact_b"] for part in parts[1:]] == [100, 150, 200, 0]
    harmful = {m["b"] for m in ours[parts[1]]["matches"] if m["exact"]}
    assert all(identifier.endswith("-h") for identifier in harmful)
