from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demur import files
from demur.errors import ConfigError, DataError
from demur.records import (
    LoadedRun,
    OpenRun,
    RowWriter,
    RunFolder,
    file_sha256,
    fingerprint,
    lock,
    read_json,
    read_rows,
    write_json,
    write_rows,
)
from demur.types import Metric, ModelRef, Part, Prompt, Response, RunSpec, Sampling, Verdict


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests kill processes, not machines."""
    monkeypatch.setattr(files.os, "fsync", lambda handle: None)


# --- rows and files


def answer(prompt: str, text: str = "yes", sample: int = 0, **more: Any) -> Response:
    return Response(prompt_id=prompt, sample=sample, text=text, **{"finish": "stop", **more})


def test_rows_survive_the_round_trip(tmp_path: Path) -> None:
    odd = ["a\nb", "\u2028\x85\x00", "进程 ñ", "\ud83d lone", '"quoted"\\', ""]
    rows = [answer("p", text, sample) for sample, text in enumerate(odd)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl", Response) == rows
    with RowWriter(tmp_path / "appended.jsonl") as write:
        for row in rows:
            write(row)
    assert read_rows(tmp_path / "appended.jsonl", Response) == rows


def test_each_row_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with RowWriter(path) as writer:
        for count in (1, 2, 3):
            writer.write(answer(f"p{count}"))
            assert len(read_rows(path, Response)) == count


@pytest.mark.parametrize("tail", ['{"prompt_id": "p3", "te', "\x00\x00", '{"prompt_id": "p3"', "{torn but ended}\n"])
def test_a_torn_last_line_is_dropped_and_redone(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [answer("p1"), answer("p2")])
    with path.open("a") as file:
        file.write(tail)
    with pytest.raises(DataError, match=rf"{path}:3 is not a JSON row"):
        read_rows(path, Response)
    assert [row.prompt_id for row in read_rows(path, Response, tolerate_torn=True)] == ["p1", "p2"]
    with RowWriter(path) as write:
        write(answer("p3"))
    assert [row.prompt_id for row in read_rows(path, Response)] == ["p1", "p2", "p3"]


def test_every_cut_of_a_file_leaves_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [answer(f"p{n}", "ä" * n) for n in range(3)])
    data = path.read_bytes()
    for cut in range(0, len(data) + 1, 3):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        assert len(read_rows(path, Response, tolerate_torn=True)) == whole
        with RowWriter(path) as write:
            write(answer("last"))
        assert len(read_rows(path, Response)) == whole + 1


def test_malformed_rows_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt_id": "a", "text": "b", "finish": "stop"}\n\nnot json\n{"prompt_id": 3}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:3 is not a JSON row"):
        read_rows(path, Response, tolerate_torn=True)
    path.write_text('{"prompt_id": "a", "text": "b", "finish": "ended"}\n')
    with pytest.raises(DataError, match=r"'finish' of Response at .*rows\.jsonl:1: 'ended' is not one of"):
        read_rows(path, Response)


def test_a_missing_file_is_said_or_counts_as_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_rows(tmp_path / "rows.jsonl", Response)
    assert read_rows(tmp_path / "rows.jsonl", Response, tolerate_torn=True) == []


def test_json_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": (1, np.float64(0.5)), "p": Path("x/y")})
    assert read_json(path) == {"a": [1, 0.5], "p": "x/y"}
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(ConfigError, match=r"cannot write .*value\.json: broken"):
        write_json(path, {"a": 2})
    assert read_json(path)["a"] == [1, 0.5]
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["value.json"]


def test_what_is_no_json_is_refused_with_the_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl: .*the row begins .*\"p7\""):
        write_rows(tmp_path / "rows.jsonl", [answer("p7", logprob=math.nan)])
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_json(tmp_path / "x.json", {"a": object()})
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json is not JSON"):
        read_json(tmp_path / "bad.json")


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "disk full while writing .*: free space and run the same command again; finished rows are kept"
    with RowWriter(Path("/dev/full")) as write, pytest.raises(DataError, match=said):
        write(answer("p"))
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(DataError, match=said):
        write_json(tmp_path / "x.json", {})


def test_partial_writes_of_the_system_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda handle, data: real(handle, data[:7]))
    with RowWriter(tmp_path / "rows.jsonl") as write:
        write(answer("p", "a long answer"))
    assert read_rows(tmp_path / "rows.jsonl", Response) == [answer("p", "a long answer")]


# --- fingerprints and locks


def test_fingerprints_are_equal_for_equal_values() -> None:
    assert fingerprint({"a": 1, "b": [1.0, None]}) == fingerprint({"b": (1, None), "a": 1.0})
    assert fingerprint(Sampling(temperature=0)) == fingerprint(Sampling(temperature=0.0))
    different = [1, "1", True, [1], {"1": 1}, None, 1.5, "", Sampling(), Sampling(seed=1)]
    assert len({fingerprint(value) for value in different}) == len(different)


def test_a_fingerprint_is_sha256_of_sorted_compact_json() -> None:
    by_hand = hashlib.sha256(b'{"n":0.5,"name":"\\u8fdb","whole":2}').hexdigest()[:16]
    assert fingerprint({"name": "进", "whole": 2.0, "n": 0.5}) == by_hand


def test_file_hashes_follow_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BIG", 4)
    path = tmp_path / "weights"
    path.write_bytes(b"12345")
    known = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    assert file_sha256(path) == known
    files._sha256.cache_clear()
    kept = files.cache_folder() / "sha256.jsonl"
    kept.write_text(kept.read_text().replace(known, "remembered"))
    assert file_sha256(path) == "remembered"
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == known


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    code = "import sys, pathlib; from demur.records import lock\nwith lock(pathlib.Path(sys.argv[1])): pass"

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)

    with lock(tmp_path / "run"):
        held = other()
    assert "ConfigError: folder" in held.stderr
    assert f"{tmp_path / 'run'} is in use by another demur process" in held.stderr
    assert other().returncode == 0


# --- run folders

PROMPTS = [Prompt(id=f"p{n}", text=f"do {n}", expected="comply", source="s") for n in range(4)]


def part(name: str, **settings: Any) -> Part:
    return Part(name=name, settings=settings, fingerprint=fingerprint([name, settings]))


SPEC = RunSpec(
    id="first", created="2025-01-01", model=ModelRef(id="organism"), sampling=Sampling(),
    benchmarks=(part("world", split="test"),), generator=part("fake"), judges=(part("keyword", window=300),),
    versions={"demur": "0"},
)  # fmt: skip


def verdict(prompt: str, judge: str = "keyword", **more: Any) -> Verdict:
    return Verdict(prompt_id=prompt, judge=judge, **{"question": "refusal", "label": "compliance", **more})


METRIC = Metric(
    name="answered_rate", value=1.0, low=0.5, high=1.0, n=4, groups=4, n_unscored=0, judge="keyword",
    benchmark="world", interval="wilson",
)  # fmt: skip


def finish(run: OpenRun) -> list[str]:
    """Do what measure does: answer what is missing, judge what is missing; return what was done."""
    did = []
    answers = {(r.prompt_id, r.sample): r for r in run.responses()}
    with run.appending("responses") as write:
        for prompt in reversed(run.prompts):
            if (prompt.id, 0) not in answers:
                answers[prompt.id, 0] = answer(prompt.id)
                write(answers[prompt.id, 0])
                did.append(prompt.id)
    run.finish("responses", answers.values())
    verdicts = {(v.judge, v.prompt_id): v for v in run.verdicts()}
    with run.appending("verdicts") as write:
        for judge in run.spec.judges:
            for prompt in run.prompts:
                if (judge.name, prompt.id) not in verdicts:
                    verdicts[judge.name, prompt.id] = verdict(prompt.id, judge.name)
                    write(verdicts[judge.name, prompt.id])
                    did.append(f"{judge.name}/{prompt.id}")
    run.finish("verdicts", verdicts.values())
    run.write_metrics([METRIC])
    run.timing(stage="responses", seconds=0.5, rows=4, tokens=8)
    return did


def measured(path: Path, spec: RunSpec = SPEC, prompts: list[Prompt] = PROMPTS, **options: Any) -> list[str]:
    with RunFolder(path).open(spec, prompts, **options) as run:
        return finish(run)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run."""
    measured(tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_loaded_as_it_was_written(folder: Path) -> None:
    run = RunFolder.load(folder)
    assert isinstance(run, LoadedRun)
    assert run.spec == SPEC
    assert run.prompts == tuple(PROMPTS)
    assert [r.prompt_id for r in run.responses] == ["p0", "p1", "p2", "p3"]
    assert [v.prompt_id for v in run.verdicts] == ["p0", "p1", "p2", "p3"]
    assert run.metrics == (METRIC,)
    assert run.timings[0] == {"stage": "responses", "seconds": 0.5, "rows": 4, "tokens": 8}
    assert run.missing == 0
    assert RunFolder(folder).exists()
    assert not RunFolder(folder.parent).exists()
    hashes = dict(run.hashes())
    assert len(hashes) == 5
    assert hashes["prompts.jsonl"] == hashlib.sha256((folder / "prompts.jsonl").read_bytes()).hexdigest()
    assert sorted(p.name for p in folder.iterdir()) == [
        "metrics.json", "prompts.jsonl", "responses.jsonl", "run.json", "timings.jsonl", "verdicts.jsonl",
    ]  # fmt: skip


def test_the_same_run_again_does_nothing_and_keeps_its_birth(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in ("responses.jsonl", "verdicts.jsonl", "run.json")}
    assert measured(folder, dataclasses.replace(SPEC, id="second", created="2026-01-01")) == []
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_stopped_run_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "other"
    with RunFolder(path).open(SPEC, PROMPTS) as run, run.appending("responses") as write:
        write(answer("p2"))
    with (path / "responses.jsonl").open("a") as file:
        file.write('{"prompt_id": "p1", "sam')
    assert RunFolder.load(path).missing == 3
    with RunFolder(path).open(SPEC, PROMPTS) as run:
        assert [r.prompt_id for r in run.responses()] == ["p2"]
    assert measured(path)[:3] == ["p3", "p1", "p0"]
    for name in ("prompts.jsonl", "responses.jsonl", "verdicts.jsonl", "run.json"):
        assert (path / name).read_bytes() == (folder / name).read_bytes()


def test_rows_given_twice_count_once_the_last_wins(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").open(SPEC, PROMPTS) as run:
        with run.appending("responses") as write:
            for row in (answer("p1", "old"), answer("p0"), answer("p1", "new")):
                write(row)
        assert [(r.prompt_id, r.text) for r in run.responses()] == [("p1", "new"), ("p0", "yes")]


def test_errors_are_asked_for_again_and_judged_again(folder: Path) -> None:
    rows = [answer("p0"), answer("p1", "", finish="error", error="timeout"), answer("p2"), answer("p3")]
    failed = verdict("p1", label=None, unscored="error: timeout")
    with RunFolder(folder).open(SPEC, PROMPTS) as run:
        run.finish("responses", rows)
        run.finish("verdicts", [verdict("p0"), failed, verdict("p2"), verdict("p3")])
    assert failed in RunFolder.load(folder).verdicts
    assert measured(folder) == ["p1", "keyword/p1"]
    assert failed not in RunFolder.load(folder).verdicts


def test_another_judge_keeps_the_verdicts_of_the_first(folder: Path) -> None:
    more = dataclasses.replace(SPEC, judges=(part("oracle"), *SPEC.judges))
    assert measured(folder, more) == [f"oracle/p{n}" for n in range(4)]
    assert [v.judge for v in RunFolder.load(folder).verdicts] == ["oracle"] * 4 + ["keyword"] * 4


def test_a_changed_judge_redoes_only_its_own_stage(folder: Path) -> None:
    both = dataclasses.replace(SPEC, judges=(*SPEC.judges, part("oracle")))
    measured(folder, both)
    changed = dataclasses.replace(SPEC, judges=(part("keyword", window=100), part("oracle")))
    assert measured(folder, changed) == [f"keyword/p{n}" for n in range(4)]
    assert measured(folder, SPEC) == [f"keyword/p{n}" for n in range(4)]
    assert {v.judge for v in RunFolder.load(folder).verdicts} == {"keyword"}


def test_metrics_never_outlive_what_they_rest_on(folder: Path) -> None:
    with RunFolder(folder).open(dataclasses.replace(SPEC, judges=(part("keyword", window=1),)), PROMPTS):
        assert RunFolder.load(folder).metrics == ()
    measured(folder)
    with RunFolder(folder).open(SPEC, PROMPTS) as run, run.appending("verdicts") as write:
        assert RunFolder.load(folder).metrics, "nothing has changed yet"
        write(run.verdicts()[0])
        assert RunFolder.load(folder).metrics == ()


def test_answers_changed_by_hand_are_judged_again(folder: Path) -> None:
    path = folder / "responses.jsonl"
    path.write_text(path.read_text().replace('"yes"', '"no"', 1))
    assert measured(folder) == [f"keyword/p{n}" for n in range(4)]


@pytest.mark.parametrize(
    ("changed", "prompts", "said"),
    [
        ({"model": ModelRef(id="other")}, PROMPTS, "model.id is 'organism' there and 'other' here"),
        ({"model": ModelRef(id="organism", dtype="bfloat16")}, PROMPTS, "model.dtype is '' there and 'bfloat16' here"),
        ({"sampling": Sampling(max_new_tokens=8)}, PROMPTS, "sampling.max_new_tokens is 512 there and 8 here"),
        ({"intervention": part("steer", layer=2)}, PROMPTS, "intervention is none there and 'steer' here"),
        ({"generator": part("http")}, PROMPTS, "generator.name is 'fake' there and 'http' here"),
        ({"generator": part("fake", seed=1)}, PROMPTS, "generator.settings.seed is none there and 1 here"),
        (
            {"benchmarks": (part("world", split="validation"),)},
            PROMPTS[:2],
            "benchmarks.0.settings.split is 'test' there and 'validation' here",
        ),
        (
            {"benchmarks": (part("world", split="test"), part("xstest"))},
            PROMPTS[:2],
            r"benchmarks is \[world\] there and \[world, xstest\] here",
        ),
        ({}, PROMPTS[:2], "prompts differ though the benchmarks' settings are equal"),
    ],
)
def test_a_changed_upstream_is_refused_and_named(
    folder: Path, changed: dict[str, Any], prompts: list[Prompt], said: str
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(
        ConfigError, match=rf"folder .*run holds another run: {said}.*choose another --out.*--overwrite"
    ):
        measured(folder, dataclasses.replace(SPEC, **changed), prompts)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    did = measured(folder, dataclasses.replace(SPEC, **changed), prompts, overwrite=True)
    assert len(did) == 2 * len(prompts)


def test_versions_device_and_neutral_settings_do_not_stop_a_resume(folder: Path) -> None:
    same = Part(name="fake", settings={"batch": 2}, fingerprint=SPEC.generator.fingerprint)
    assert (
        measured(folder, dataclasses.replace(SPEC, versions={"demur": "1"}, device="cuda", git="x", generator=same))
        == []
    )
    assert RunFolder.load(folder).spec.device == "cuda"


def test_overwriting_removes_only_what_demur_wrote(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    measured(folder, dataclasses.replace(SPEC, model=ModelRef(id="b"), created="later"), overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert RunFolder.load(folder).spec.created == "later"
    assert len(RunFolder.load(folder).timings) == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_of_something_else_are_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "responses.jsonl").write_text("mine")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds no run but other files \(thesis.tex\)"):
        measured(tmp_path, overwrite=overwrite)
    (tmp_path / "run.json").write_text('{"format": "another program"}')
    with pytest.raises(DataError, match=r"run\.json was not written by this version of demur"):
        measured(tmp_path, overwrite=overwrite)
    assert (tmp_path / "responses.jsonl").read_text() == "mine"
    file = tmp_path / "thesis.tex"
    with pytest.raises(ConfigError, match="is a file; --out must name a folder"):
        measured(file, overwrite=overwrite)


def test_a_start_cut_short_is_no_foreign_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "prompts.jsonl").write_text('{"id": "p')
    (path / ".run.json.123.tmp").write_text("{")
    assert len(measured(path)) == 8
    assert not list(path.glob(".*"))


def test_loading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        RunFolder.load(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds no run\.json"):
        RunFolder.load(tmp_path)


def test_nothing_to_measure_and_repeated_ids(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompts to measure on; benchmarks: world"):
        measured(tmp_path / "run", prompts=[])
    with pytest.raises(DataError, match="prompt id 'p0' occurs 2 times"):
        measured(tmp_path / "run", prompts=[PROMPTS[0], PROMPTS[0]])
    with pytest.raises(DataError, match="judge 'keyword' occurs 2 times"):
        measured(tmp_path / "run", dataclasses.replace(SPEC, judges=SPEC.judges * 2))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([answer("p0")], "generator fake gave 1 answers where 4 were asked for"),
        ([answer("p9")], "a row of 'p9', which is no prompt"),
        ([answer("p0"), answer("p0")], "two rows of"),
    ],
)
def test_a_stage_is_finished_only_when_it_is_whole(tmp_path: Path, rows: list[Response], said: str) -> None:
    with RunFolder(tmp_path / "run").open(SPEC, PROMPTS) as run, pytest.raises(DataError, match=said):
        run.finish("responses", rows)


def test_finished_rows_stand_by_judge_prompt_sample(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, sampling=Sampling(samples=2), judges=(part("b"), part("a")))
    with RunFolder(tmp_path / "run").open(spec, PROMPTS[:2]) as run:
        run.finish("responses", [answer(p, sample=s) for s in (1, 0) for p in ("p1", "p0")])
        assert [(r.prompt_id, r.sample) for r in run.responses()] == [("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1)]
        with run.appending("verdicts") as write:
            for judge in ("a", "b"):
                for prompt in ("p1", "p0"):
                    for question, label in (("refusal", "compliance"), ("quality", "right")):
                        write(verdict(prompt, judge, question=question, label=label))
        run.finish("verdicts")
        got = [(v.judge, v.prompt_id, v.question[0]) for v in run.verdicts()]
    assert got == [(j, p, q) for j in "ba" for p in ("p0", "p1") for q in "rq"]


def test_a_full_disk_keeps_finished_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "run", os.write
    room = [700]

    def write(handle: int, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(handle, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(files.os, "write", write)
    with pytest.raises(DataError, match=r"disk full while writing .*verdicts\.jsonl"):
        measured(path)
    monkeypatch.undo()
    assert RunFolder.load(path).missing == 0
    did = measured(path)
    assert did
    assert all(name.startswith("keyword/") for name in did)
    assert RunFolder.load(path).metrics == (METRIC,)


WORKER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    import test_records as t
    spec = t.dataclasses.replace(t.SPEC)
    with t.RunFolder(Path(sys.argv[1])).open(spec, t.MANY) as run:
        done = {r.prompt_id for r in run.responses()}
        with run.appending("responses") as write:
            for prompt in t.MANY:
                if prompt.id not in done:
                    write(t.answer(prompt.id, "x" * 2000))
                    print(prompt.id, flush=True)
                    time.sleep(0.0005)
        run.finish("responses")
    """
)
MANY = [dataclasses.replace(PROMPTS[0], id=f"p{n}") for n in range(150)]


def test_killed_at_any_moment_no_answer_is_lost_or_doubled(tmp_path: Path) -> None:
    told: list[str] = []
    command = [sys.executable, "-c", WORKER, str(tmp_path / "run"), str(Path(__file__).parent)]
    for kill in (True, True, False):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout):
                told.append(line.strip())
                if kill and count == 60:
                    process.send_signal(signal.SIGKILL)
                    break
            with contextlib.suppress(ValueError):
                told += process.stdout.read().split()
        assert process.returncode == (-signal.SIGKILL if kill else 0)
    run = RunFolder.load(tmp_path / "run")
    assert [r.prompt_id for r in run.responses] == [p.id for p in MANY]
    assert len(told) == len(set(told)), "a row that was reported on disk was made again"
    lines = (tmp_path / "run" / "responses.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt_id"] for line in lines] == [p.id for p in MANY]
