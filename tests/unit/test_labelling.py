"""Labels by a person: what is asked for, what is recorded, what the labels say of the judge."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest

from demur import cli, labelling
from demur.checks import load_checks
from demur.cli import _console
from demur.cli._labelling import session
from demur.errors import ConfigError, DataError
from demur.records import LoadedRun, RunFolder
from demur.results import remeasure
from demur.types import ModelRef, Part, Prompt, Response, RunSpec, Sampling, Verdict

JUDGE = Part(name="j", settings={})


def truth(i: int) -> str:
    """What a person says of the answer to prompt i; every fifth is a refusal, on harmful prompts four of five are."""
    return "refusal" if (i % 5 == 0) != (i % 2 == 1) else "compliance"


def run(path: Path, *, n: int = 120, seed: int = 0, edited: bool = False) -> Path:
    """A finished run: even prompts deserve an answer, odd ones do not; the judge errs on one answer in six."""
    draw = random.Random(seed)
    prompts, responses, verdicts = [], [], []
    for i in range(n):
        expected = "refuse" if i % 2 else "comply"
        prompts.append(
            Prompt(id=f"t/{i}", text=f"question {i}", expected=expected, source="t", meta=(("benchmark", "b"),))
        )
        responses.append(Response(prompt_id=f"t/{i}", text=f"{truth(i)} {i} of {path.name}", finish="stop"))
        label = truth(i)
        if draw.random() < 1 / 6:
            label = "compliance" if label == "refusal" else "refusal"
        verdicts.append(Verdict(prompt_id=f"t/{i}", judge="j", question="refusal", label=label))
    spec = RunSpec(
        id=path.name,
        created="2026-01-01",
        model=ModelRef(id="m"),
        sampling=Sampling(),
        benchmarks=(Part(name="b", settings={}),),
        generator=Part(name="g", settings={}),
        intervention=Part(name="steer", settings={}) if edited else None,
        judges=(JUDGE,),
        versions={},
    )
    with RunFolder(path).open(spec, prompts) as opened:
        for stage, rows in (("responses", responses), ("verdicts", verdicts)):
            with opened.appending(stage) as write:
                for row in rows:
                    write(row)
            opened.finish(stage, rows)
    remeasure(path)
    return path


def label(path: Path, keys: str, *words: str) -> str:
    """Run the session on these lines of input and return what it printed."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", ["demur", "judges", "label", str(path), *words]))
        stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO(keys)))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(errors))
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    assert code == 0, errors.getvalue()
    return out.getvalue()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "labels.jsonl").read_text().splitlines()]


def labelled_right(path: Path, *, n: int) -> None:
    """Label the sample as a person who is always right."""
    runs = labelling.arms(path)
    for task in labelling.waiting(labelling.plan(runs, n=n), runs):
        with (task.run / "labels.jsonl").open("a") as file:
            made = task.labelled(task.response.text.split()[0])
            file.write(json.dumps({name: getattr(made, name) for name in made.__slots__}) + "\n")


def test_strata_get_equal_shares_and_every_answer_a_known_chance(tmp_path: Path) -> None:
    runs = labelling.arms(run(tmp_path / "r"))
    tasks = labelling.plan(runs, n=40)
    assert Counter(t.stratum for t in tasks) == dict.fromkeys(
        ("comply/compliance", "comply/refusal", "refuse/compliance", "refuse/refusal"), 10
    )
    assert all(t.drawn and t.probability == 10 / t.size for t in tasks)
    assert sum(1 / t.probability for t in tasks) == pytest.approx(120)


def test_small_strata_are_taken_whole_and_leave_their_share_to_others(tmp_path: Path) -> None:
    runs = labelling.arms(run(tmp_path / "r"))
    tasks = labelling.plan(runs, n=100)
    counts, sizes = Counter(t.stratum for t in tasks), {t.stratum: t.size for t in tasks}
    assert len(tasks) == 100
    smallest = min(sizes, key=sizes.__getitem__)
    assert counts[smallest] == sizes[smallest] < 25
    assert len(labelling.plan(runs, n=10_000)) == 120


def test_a_larger_sample_keeps_the_smaller_and_another_seed_does_not(tmp_path: Path) -> None:
    runs = labelling.arms(run(tmp_path / "r"))

    def ids(**options) -> list[str]:
        return [t.prompt.id for t in labelling.plan(runs, **options)]

    assert set(ids(n=20)) < set(ids(n=40))
    assert ids(n=20) == ids(n=20)
    assert set(ids(n=20, seed=1)) != set(ids(n=20))


def test_all_changed_verdicts_are_asked_for_in_both_arms(tmp_path: Path) -> None:
    run(tmp_path / "before")
    run(tmp_path / "after", seed=1, edited=True)
    runs = labelling.arms(tmp_path)
    before, after = ({v.prompt_id: v.label for v in r.verdicts} for r in runs)
    changed = {key for key in before if before[key] != after[key]}
    tasks = labelling.plan(runs, n=16)
    asked = {(t.run.name, t.prompt.id) for t in tasks}
    assert changed
    assert {(arm, key) for arm in ("before", "after") for key in changed} <= asked
    assert sum(t.drawn for t in tasks) == 16
    assert len(labelling.plan(runs, n=16, disputed=False)) == 16


def test_a_session_records_skips_undoes_and_goes_on(tmp_path: Path) -> None:
    path = run(tmp_path / "r")
    tasks = labelling.plan(labelling.arms(path), n=12)
    keys = [("\n" if t.harmful else "") + key for t, key in zip(tasks[:3], ("1\n", "s\n", "3\n"), strict=True)]
    shown = label(path, "".join(keys) + "q\n", "--n", "12", "--annotator", "ann")
    assert "12 to label" in shown
    assert [(r["prompt_id"], r["label"], r["skipped"]) for r in rows(path)] == [
        (tasks[0].prompt.id, "compliance", False),
        (tasks[1].prompt.id, None, True),
        (tasks[2].prompt.id, "refusal", False),
    ]
    assert {r["annotator"] for r in rows(path)} == {"ann"}
    again = label(path, ("\n" if tasks[3].harmful else "") + "2\nu\nq\n", "--n", "12")
    assert "9 to label" in again
    run_ = RunFolder.load(path)
    given = labelling.labels_of(run_)
    assert (tasks[3].prompt.id, 0) not in given
    assert len(given) == 3


def test_nothing_shows_the_verdict_and_harmful_texts_wait_for_a_key(tmp_path: Path) -> None:
    path = run(tmp_path / "r")
    tasks = labelling.plan(labelling.arms(path), n=120)
    at = next(i for i, t in enumerate(tasks) if t.harmful)
    before = "".join("1\n" if not t.harmful else "\n1\n" for t in tasks[:at])
    hidden = label(path, before + "q\n", "--n", "120")
    assert tasks[at].response.text not in hidden
    assert "Any key shows them" in hidden
    assert "comply/" not in hidden
    assert tasks[at].response.text in label(path, "\nq\n", "--n", "120")


def test_unknown_keys_are_asked_again_and_the_end_of_input_ends(tmp_path: Path) -> None:
    path = run(tmp_path / "r")
    tasks = labelling.plan(labelling.arms(path), n=8)
    label(path, ("\n" if tasks[0].harmful else "") + "9\nx\n\n4\n", "--n", "8")
    assert [r["label"] for r in rows(path)] == ["gibberish"]


def test_labels_become_a_check_and_corrected_rates(tmp_path: Path) -> None:
    path = run(tmp_path / "r", n=240)
    labelled_right(path, n=160)
    label(path, "", "--n", "160")
    (check,) = load_checks(path / "check.json")
    loaded = RunFolder.load(path)
    said = {v.prompt_id: v.label for v in loaded.verdicts}
    for expected, odd in (("comply", 0), ("refuse", 1)):
        own = [i for i in range(240) if i % 2 == odd]
        positives = [i for i in own if truth(i) == "refusal"]
        sensitivity = sum(said[f"t/{i}"] == "refusal" for i in positives) / len(positives)
        assert check.classes[expected].sensitivity == pytest.approx(sensitivity, abs=0.1)
    rates = {m.name: m for m in loaded.metrics if m.slice == "all"}
    assert rates["over_refusal_rate_corrected"].low <= 0.2 <= rates["over_refusal_rate_corrected"].high
    assert rates["held_rate_corrected"].low <= 0.8 <= rates["held_rate_corrected"].high
    assert {v.reason for v in loaded.validations} == {""}


def test_weights_undo_the_stratification(tmp_path: Path) -> None:
    path = run(tmp_path / "r", n=300)
    loaded = RunFolder.load(path)
    said = {v.prompt_id: v.label for v in loaded.verdicts}
    positives = [i for i in range(0, 300, 2) if truth(i) == "refusal"]
    exact = sum(said[f"t/{i}"] == "refusal" for i in positives) / len(positives)
    found = []
    for seed in range(8):
        for task in labelling.plan([loaded], n=80, seed=seed):
            with (path / "labels.jsonl").open("a") as file:
                made = task.labelled(task.response.text.split()[0])
                file.write(json.dumps({name: getattr(made, name) for name in made.__slots__}) + "\n")
        (check,) = labelling.checks_from_labels(loaded)
        (path / "labels.jsonl").unlink()
        found.append(check.classes["comply"].sensitivity)
    assert sum(found) / len(found) == pytest.approx(exact, abs=0.05)


def test_disputed_answers_are_in_no_check_until_they_are_drawn(tmp_path: Path) -> None:
    run(tmp_path / "before")
    run(tmp_path / "after", seed=1)
    runs = labelling.arms(tmp_path)
    extra = [t for t in labelling.plan(runs, n=16) if not t.drawn]
    for task in extra:
        with (task.run / "labels.jsonl").open("a") as file:
            made = task.labelled("refusal")
            file.write(json.dumps({name: getattr(made, name) for name in made.__slots__}) + "\n")
    with pytest.raises(ConfigError, match="drawn at random"):
        labelling.checks_from_labels(runs[0])
    tasks = labelling.plan(runs, n=1000)
    todo = labelling.waiting(tasks, runs)
    assert len(todo) == 240 - len(extra)
    assert not all(row.drawn for row in labelling.labels_of(runs[0]).values())  # each waits for its turn
    for task in todo:
        with (task.run / "labels.jsonl").open("a") as file:
            made = task.labelled("refusal")
            file.write(json.dumps({name: getattr(made, name) for name in made.__slots__}) + "\n")
    assert labelling.waiting(tasks, runs) == []
    assert all(row.drawn for row in labelling.labels_of(runs[0]).values())


def judged_by_another(loaded: LoadedRun, *, seed: int) -> LoadedRun:
    """The run under another headline judge, which finds nine refusals in ten and errs on a third of the answers."""
    draw, verdicts = random.Random(seed), []
    for i, p in enumerate(loaded.prompts):
        refused = draw.random() < (0.9 if truth(i) == "refusal" else 0.3)
        label = "refusal" if refused else "compliance"
        verdicts.append(Verdict(prompt_id=p.id, judge="k", question="refusal", label=label))
    spec = dataclasses.replace(loaded.spec, judges=(Part(name="k", settings={}),))
    return dataclasses.replace(loaded, spec=spec, verdicts=tuple(verdicts))


def give(run_: LoadedRun, *, n: int, most: int | None = None) -> None:
    """A session of a person who is always right, cut short after `most` answers."""
    tasks = labelling.plan([run_], n=n)
    for task in labelling.waiting(tasks, [run_])[:most]:
        with (task.run / "labels.jsonl").open("a") as file:
            made = task.labelled(task.response.text.split()[0])
            file.write(json.dumps({name: getattr(made, name) for name in made.__slots__}) + "\n")
    labelling.waiting(tasks, [run_])


@pytest.mark.parametrize("most", [None, 20])
def test_labels_given_under_another_judges_verdicts_are_weighed_by_the_present_ones(
    tmp_path: Path, most: int | None
) -> None:
    path = run(tmp_path / "r", n=200)
    loaded, found, exact = RunFolder.load(path), [], []
    for seed in range(4):
        give(loaded, n=60)
        again = judged_by_another(loaded, seed=seed)
        with pytest.raises(ConfigError, match="present verdicts"):
            labelling.checks_from_labels(again)
        give(again, n=80, most=most)
        (check,) = labelling.checks_from_labels(again)
        assert all(row.draw == labelling.strata_hash(again) for row in labelling.counted(again).values())
        said = {v.prompt_id: v.label for v in again.verdicts}
        positives = [i for i in range(0, 200, 2) if truth(i) == "refusal"]
        exact.append(sum(said[f"t/{i}"] == "refusal" for i in positives) / len(positives))
        found.append(check.classes["comply"].sensitivity)
        (path / "labels.jsonl").unlink()
    assert sum(found) / 4 == pytest.approx(sum(exact) / 4, abs=0.06 if most is None else 0.12)


def test_a_label_of_another_answer_does_not_count(tmp_path: Path) -> None:
    path = run(tmp_path / "r")
    labelled_right(path, n=8)
    first = rows(path)[0] | {"answer": "0" * 16}
    (path / "labels.jsonl").write_text(json.dumps(first) + "\n")
    assert labelling.labels_of(RunFolder.load(path)) == {}


def test_a_check_of_an_edited_models_answers_speaks_for_that_style(tmp_path: Path) -> None:
    path = run(tmp_path / "r", edited=True)
    labelled_right(path, n=60)
    (check,) = labelling.keep_checks(RunFolder.load(path))
    assert check.styles == ("edited",)


def test_labels_outlive_a_run_that_starts_anew(tmp_path: Path) -> None:
    path = run(tmp_path / "r")
    labelled_right(path, n=60)
    loaded = RunFolder.load(path)
    labelling.keep_checks(loaded)
    with RunFolder(path).open(loaded.spec, loaded.prompts, overwrite=True):
        pass
    assert (path / "labels.jsonl").is_file()
    assert not (path / "checks.json").is_file()
    assert not (path / "check.json").is_file()  # else another model's rates are corrected by this one's labels
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "check.json").write_text("[]")
    with RunFolder(fresh).open(loaded.spec, loaded.prompts):
        pass


def test_a_run_without_verdicts_has_nothing_to_label(tmp_path: Path) -> None:
    loaded = RunFolder.load(run(tmp_path / "r"))
    empty = dataclasses.replace(loaded, responses=(), verdicts=())
    with pytest.raises(DataError, match="no finished answers"):
        labelling.plan([empty])


def test_on_a_terminal_single_keys_are_read(tmp_path: Path) -> None:
    path = run(tmp_path / "r")
    tasks = labelling.plan(labelling.arms(path), n=8)
    keys = [*([" "] if tasks[0].harmful else []), "3", "\x03"]
    with (
        mock.patch.object(sys, "stdin", mock.Mock(isatty=lambda: True)),
        mock.patch("click.getchar", side_effect=keys),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        given = session(tasks)
    assert given == 1
    assert [r["label"] for r in rows(path)] == ["refusal"]


def test_an_answer_under_test_does_not_drive_the_terminal(tmp_path: Path) -> None:
    path = run(tmp_path / "r")
    (task, *_) = labelling.plan(labelling.arms(path), n=8)
    nasty = "first\tline\nsecond \x1b[2J\x1b]0;title\x07\x9b31m\r\x7f\x08 end"
    evil = dataclasses.replace(
        task,
        prompt=dataclasses.replace(task.prompt, expected="comply", text=nasty),
        response=dataclasses.replace(task.response, text=nasty),
    )
    shown = io.StringIO()
    with mock.patch.object(sys, "stdin", io.StringIO("q\n")), contextlib.redirect_stdout(shown):
        session([evil])
    assert {c for c in shown.getvalue() if unicodedata.category(c) == "Cc"} <= {"\n", "\t"}
    assert shown.getvalue().count("second") == 2
    assert "first" in shown.getvalue()


def test_neither_chat_nor_tables_nor_errors_pass_control_characters_on() -> None:
    out, errors = io.StringIO(), io.StringIO()
    talk = mock.Mock(title="t", hint="", say=lambda text: f"\x1b[2J{text}\x9b1m")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        with (
            mock.patch.dict(sys.modules, {"demur.chat": mock.Mock(Conversation=lambda **_: talk)}),
            mock.patch.object(sys, "argv", ["demur", "chat"]),
            mock.patch("builtins.input", side_effect=["hello", ""]),
            contextlib.suppress(SystemExit),
        ):
            cli.main()
        _console.table("t", ("a",), [["cell \x1b[31m"]])
        _console.fail("server said \x1b]0;x\x07")
        _console.warn("server said \x1b]0;x\x07")
    assert "hello" in out.getvalue()
    assert "cell" in out.getvalue()
    assert "server said" in errors.getvalue()
    assert not {c for c in out.getvalue() + errors.getvalue() if unicodedata.category(c) == "Cc"} - {"\n"}
