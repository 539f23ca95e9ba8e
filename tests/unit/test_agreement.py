"""A judge held against labels: reading the labelled answers, the numbers, the command."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest

from demur import stats
from demur.agreement import agreements, checks_of, judge_labelled, label_shares
from demur.benchmarks import _rows
from demur.benchmarks.file import File
from demur.checks import load_checks
from demur.errors import ConfigError, DataError, NotFound
from demur.judges.keyword import Keyword
from demur.labelled import Labelled, LabelledSet, Reading, label_of, prompts_beside, read_labelled, with_prompts
from demur.types import LABELS, Item, Part, Prompt, Verdict
from tests.unit.command_line import demur

REFUSES = "I'm sorry, but I cannot help with that request."
ANSWERS = "Water the plant twice a week and keep it near a window."


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """A judge that reads its label from the answer; "?" is left unscored."""

    questions: ClassVar = ("refusal",)

    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        for prompt, response in items:
            known = response.text.strip(".") if response.text != "?" else None
            unscored = "" if known else "unsure"
            yield Verdict(prompt_id=prompt.id, judge="echo", question="refusal", label=known, unscored=unscored)


def rows_of(*cells: tuple[str, str, int], **fields) -> list[Labelled]:
    """Rows of (label, verdict, how many), each with a prompt of its own."""
    return [
        Labelled(
            id=f"{label}-{said}-{i}",
            prompt=f"{label} {said} {i}",
            response=said,
            label=label,
            **{"language": "en", **fields},
        )
        for label, said, times in cells
        for i in range(times)
    ]


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(label: str, **fields) -> dict:
    text = REFUSES if "refus" in label else ANSWERS
    return {"prompt": "How do I keep a fern alive?", "response": text, "label": label, **fields}


def judged(rows: list[Labelled], **options):
    verdicts = list(judge_labelled(Echo(), "echo", rows))
    return {a.slice: a for a in agreements(rows, verdicts, **options)}


CELLS = (
    ("compliance", "compliance", 50),
    ("compliance", "refusal", 6),
    ("refusal", "refusal", 30),
    ("refusal", "partial_refusal", 4),
    ("refusal", "?", 4),
    ("partial_refusal", "compliance", 3),
    ("partial_refusal", "partial_refusal", 3),
)


def test_numbers_by_hand() -> None:
    found = judged(rows_of(*CELLS))["all"]
    assert (found.n, found.n_unscored, found.groups) == (100, 4, 100)
    assert found.accuracy == pytest.approx(83 / 100)
    assert found.accuracy_scored == pytest.approx(83 / 96)
    assert found.accuracy_interval == pytest.approx(tuple(stats.wilson(83, 100)))
    f1 = {"compliance": 2 * 50 / (56 + 53), "partial_refusal": 2 * 3 / (6 + 7), "refusal": 2 * 30 / (38 + 36)}
    assert found.f1 == pytest.approx(f1)
    assert found.macro_f1 == pytest.approx(sum(f1.values()) / 3)
    chance = (56 * 53 + 38 * 36 + 6 * 7) / 100**2
    assert found.kappa == pytest.approx((0.83 - chance) / (1 - chance))
    assert found.kappa_interval[0] < found.kappa < found.kappa_interval[1]
    assert found.confusion["refusal"] == {"compliance": 0, "partial_refusal": 4, "refusal": 30, "unscored": 4}


def large_sample_kappa(a: Sequence[str], b: Sequence[str]) -> tuple[float, float]:
    """Kappa and its standard error after Fleiss, Cohen and Everitt (1969), pair by pair."""
    n, of_a, of_b = len(a), Counter(a), Counter(b)
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    chance = sum(of_a[x] * of_b[x] for x in of_a) / n**2
    kappa, total = (observed - chance) / (1 - chance), 0.0
    for (x, y), times in Counter(zip(a, b, strict=True)).items():
        edge = (1 - kappa) * (of_b[x] + of_a[y]) / n
        total += times / n * ((1 - edge) ** 2 if x == y else edge**2)
    return kappa, float(np.sqrt((total - (kappa - chance * (1 - kappa)) ** 2) / n) / (1 - chance))


def test_kappa_agrees_with_the_other_implementation() -> None:
    rows = rows_of(*CELLS)
    said = [row.response if row.response != "?" else "unscored" for row in rows]
    kappa, error = large_sample_kappa([r.label for r in rows], said)
    found = judged(rows)["all"]
    assert found.kappa == pytest.approx(kappa)
    assert found.kappa_interval == pytest.approx((kappa - 1.96 * error, kappa + 1.96 * error), abs=0.03)


def test_two_classes_join_full_and_partial_refusals() -> None:
    found = judged(rows_of(*CELLS, ("compliance", "gibberish", 10)), binary=True)["all"]
    assert found.accuracy == pytest.approx((50 + 30 + 4 + 3 + 10) / 110)
    assert found.confusion == {
        "compliance": {"compliance": 60, "refusal": 6, "unscored": 0},
        "refusal": {"compliance": 3, "refusal": 37, "unscored": 4},
    }


def test_unscored_rows_are_errors_and_never_help() -> None:
    whole = judged(rows_of(*CELLS))["all"]
    rows = [
        row if i % 3 else Labelled(id=row.id, prompt=row.prompt, response="?", label=row.label)
        for i, row in enumerate(rows_of(*CELLS))
    ]
    less = judged(rows)["all"]
    assert less.accuracy < whole.accuracy
    assert less.macro_f1 < whole.macro_f1
    assert less.kappa < whole.kappa


def test_answers_to_one_prompt_are_resampled_together() -> None:
    alone = rows_of(("compliance", "compliance", 60), ("compliance", "refusal", 20), ("refusal", "refusal", 20))
    shared = [
        Labelled(id=r.id, prompt=f"{r.label} {r.response} {i // 5}", response=f"{r.response}", label=r.label)
        for i, r in enumerate(alone)
    ]
    one, many = judged(alone)["all"], judged(shared)["all"]
    assert (many.n, many.groups, many.accuracy) == (100, 20, one.accuracy)
    width = [a.accuracy_interval[1] - a.accuracy_interval[0] for a in (one, many)]
    assert width[1] > 1.5 * width[0]


def test_slices_and_the_guess_by_class_alone() -> None:
    rows = [
        *rows_of(("compliance", "compliance", 8), ("refusal", "compliance", 2), model="m", expected="comply"),
        *rows_of(("refusal", "refusal", 9), ("compliance", "refusal", 1), model="k", expected="refuse", language="ko"),
    ]
    found = judged(rows)
    assert found["model=m"].accuracy == 0.8
    assert found["language=ko"].accuracy == 0.9
    assert found["model=k&expected=refuse"].n == 10
    assert found["all"].baseline == pytest.approx((8 + 9) / 20)
    assert judged(rows_of(("compliance", "compliance", 2)))["all"].baseline is None


def test_prompts_that_differ_in_a_vowel_sign_or_in_signs_alone_keep_their_own_class(tmp_path: Path) -> None:
    texts = {"बिल कैसे भरें": "benign", "बल कैसे भरें": "harmful", "?!": "benign", "#": "harmful"}
    (tmp_path / "s.jsonl").write_text(
        "".join(json.dumps({"prompt": text, "label": label}) + "\n" for text, label in texts.items())
    )
    answers = tmp_path / "s.responses.jsonl"
    answers.write_text(
        "".join(json.dumps({"prompt": f" {t}", "response": "x", "label": "compliance"}) + "\n" for t in texts)
    )
    found = with_prompts(read_labelled(answers), prompts_beside(answers))
    assert [row.expected for row in found.rows] == ["comply", "refuse", "comply", "refuse"]


@pytest.mark.parametrize("word", ["comply", "Benign", "safe", "harmless", "refuse", "HARMFUL", "unsafe", "toxic"])
def test_every_door_reads_the_same_words_for_a_class(tmp_path: Path, word: str) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps({"prompt": "one", "label": word}) + "\n")
    (tmp_path / "s.responses.jsonl").write_text("")
    (beside,) = prompts_beside(tmp_path / "s.responses.jsonl")
    (own,) = File(path=str(tmp_path / "s.jsonl"))()
    assert beside.expected == own.expected == _rows.Table().meanings[word.casefold()]


def test_kappa_is_the_same_beside_labels_and_between_judges() -> None:
    draw = random.Random(4)
    for _ in range(5):
        truth = [draw.choice(("refusal", "compliance", "partial_refusal")) for _ in range(40)]
        said = [label if draw.random() < 0.6 else draw.choice(LABELS["refusal"]) for label in truth]
        found = judged(rows_of(*((*pair, n) for pair, n in Counter(zip(truth, said, strict=True)).items())))["all"]
        assert found.kappa == pytest.approx(stats.cohen_kappa(truth, said))
        assert found.kappa == pytest.approx(large_sample_kappa(truth, said)[0])
    pairs = np.array([[[2, 1], [0, 3]], [[5, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=float)
    values = stats.kappas(pairs)
    assert values[0] == pytest.approx((5 / 6 - 0.5) / 0.5)
    assert np.isnan(values[1:]).all()


def test_a_language_that_no_file_names_stays_unnamed(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(
        json.dumps({"prompt": "one", "label": "benign"})
        + "\n"
        + json.dumps({"prompt": "two", "label": "benign", "language": "ko"})
    )
    answers = tmp_path / "s.responses.jsonl"
    rows_ = [{"prompt": p, "response": "x", "label": "compliance"} for p in ("one", "two")]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows_))
    found = with_prompts(read_labelled(answers), prompts_beside(answers))
    assert [row.language for row in found.rows] == ["", "ko"]
    told = with_prompts(read_labelled(answers, Reading(language="th")), prompts_beside(answers))
    assert [row.language for row in told.rows] == ["th", "th"]


def test_an_answer_that_several_people_labelled_is_judged_once() -> None:
    calls = []

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Counting(Echo):
        def __call__(self, items):
            calls.extend(items)
            yield from Echo.__call__(self, items)

    rows = [Labelled(id=f"a{i}", prompt="p", response="refusal", label="refusal", annotator=f"p{i}") for i in range(3)]
    assert [v.label for v in judge_labelled(Counting(), "echo", rows)] == ["refusal"] * 3
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("2_full_refusal", "refusal"),
        ("1_full_compliance", "compliance"),
        ("3 Partial Refusal", "partial_refusal"),
        ("deflection", "partial_refusal"),
        ("is_jailbreak_substring_matching=0;is_jailbreak_llamaguard2=0", "refusal"),
        ("Complied", "compliance"),
        ("banana", None),
    ],
)
def test_words_for_labels(word: str, label: str | None) -> None:
    assert label_of(word) == label


def test_reading_maps_columns_and_labels_and_chooses_rows(tmp_path: Path) -> None:
    table = tmp_path / "answers.csv"
    table.write_text("ask,said,verdict,who\nq one,no,N,ann\nq two,yes,Y,ann\nq three,yes,Y,bob\nq four,eh,,ann\n")
    found = read_labelled(
        table,
        Reading(
            columns={"prompt": "ask", "response": "said", "label": "verdict", "annotator": "who"},
            words={"N": "refusal", "Y": "compliance"},
            where={"who": "ann"},
        ),
    )
    assert [(r.prompt, r.label, r.annotator) for r in found.rows] == [
        ("q one", "refusal", "ann"),
        ("q two", "compliance", "ann"),
    ]
    assert "1 rows" in found.notes[0]


def test_people_are_read_where_the_file_also_holds_models(tmp_path: Path) -> None:
    people = [answer("refusal", annotator="human", id="a"), answer("compliance", annotator="model", id="b")]
    path = write(tmp_path / "x.jsonl", *people)
    found = read_labelled(path)
    assert [r.annotator for r in found.rows] == ["human"]
    assert "human" in found.notes[0]
    chosen = read_labelled(path, Reading(where={"annotator": "model"}))
    assert [r.annotator for r in chosen.rows] == ["model"]


@pytest.mark.parametrize(
    ("rows", "reading", "error", "says"),
    [
        ([answer("nonsense")], {}, DataError, "'nonsense' (1 rows)"),
        ([{"prompt": "p", "label": "refusal"}], {}, ConfigError, "--column response="),
        ([answer("refusal")], {"where": {"annotater": "x"}}, NotFound, "annotater"),
        ([answer("refusal", annotator="b")], {"where": {"annotator": "x"}}, DataError, "annotator=x"),
        ([answer("refusal", weight=-1)], {}, DataError, "weight '-1'"),
        ([{**answer("refusal"), "response": 3}], {}, DataError, "x.jsonl:1"),
        ([], {}, DataError, "no rows"),
    ],
)
def test_bad_files_are_refused_with_what_helps(tmp_path, rows, reading, error, says) -> None:
    with pytest.raises(error) as caught:
        read_labelled(write(tmp_path / "x.jsonl", *rows), Reading(**reading))
    assert says in str(caught.value)


def test_reading_itself_is_checked() -> None:
    with pytest.raises(NotFound, match="respons"):
        Reading(columns={"respons": "x"})
    with pytest.raises(NotFound, match="refusal"):
        Reading(words={"no": "refusl"})


def test_classes_come_from_prompts_of_the_same_text_only() -> None:
    rows = rows_of(("refusal", "refusal", 1))
    near = Prompt(id="s/1", text="REFUSAL, refusal 0?", expected="comply", source="s", category="c")
    other = Prompt(id="s/2", text="refusal refusal 1", expected="refuse", source="s")
    found = with_prompts(mock.Mock(rows=rows, notes=()), [near, other])
    assert (found.rows[0].expected, found.rows[0].category) == ("comply", "c")
    missing = with_prompts(mock.Mock(rows=rows, notes=()), [other])
    assert missing.rows[0].expected is None
    assert "1 rows" in missing.notes[0]


def test_check_prints_exactly_the_promised_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.jsonl",
        *(answer(label, id=f"{label}{i}") for label in ("refusal", "compliance") for i in range(4)),
    )
    code, out, errors = demur("judges", "check", str(path), "--judge", "keyword", "--json")
    found = json.loads(out)
    assert code == 0, errors
    assert list(found) == ["n", "n_unscored", "accuracy", "kappa", "macro_f1", "confusion", "slices"]
    assert (found["n"], found["accuracy"], found["kappa"]) == (8, 1.0, 1.0)
    assert "no partial refusals" in errors


def test_check_is_kept_on_file_and_needs_classes(tmp_path: Path) -> None:
    rows = [answer("refusal", id=f"{c}{i}", expected=c) for c in ("comply", "refuse") for i in range(3)]
    path, kept = write(tmp_path / "x.jsonl", *rows), tmp_path / "check.json"
    code, _, errors = demur("judges", "check", str(path), "--judge", "keyword", "--save", str(kept))
    assert code == 2
    assert "--language" in errors
    assert demur("judges", "check", str(path), "--judge", "keyword", "--save", str(kept), "--language", "en")[0] == 0
    (check,) = load_checks(kept)
    assert (check.judge, check.languages, check.n, check.source) == ("keyword", ("en",), 6, "x.jsonl")
    assert (check.classes["comply"].tp, check.classes["comply"].fn) == (1.0, 0.0)  # one prompt, one group
    bare = write(tmp_path / "y.jsonl", answer("refusal"))
    code, _, errors = demur("judges", "check", str(bare), "--save", str(kept))
    assert code == 2
    assert "--prompts" in errors


def test_checks_count_by_class_and_language_and_weigh() -> None:
    rows = [
        *rows_of(("refusal", "refusal", 30), ("partial_refusal", "compliance", 10), expected="comply"),
        *rows_of(("compliance", "refusal", 5), ("compliance", "compliance", 45), expected="comply", weight=2.0),
        *rows_of(("refusal", "?", 7), ("compliance", "compliance", 3), expected="refuse", language="ko"),
    ]
    english, korean = checks_of(rows, list(judge_labelled(Echo(), "echo", rows)), PART, source="s")
    counts = english.classes["comply"]
    assert (counts.tp, counts.fn, counts.fp, counts.tn) == pytest.approx((30, 10, 5, 45), abs=1e-3)
    assert counts.sensitivity == 0.75
    assert english.full["comply"].sensitivity == 1.0
    assert (korean.languages, korean.n) == (("ko",), 3)


def test_effective_counts_shrink_with_clusters_and_unequal_weights() -> None:
    def size(rows: list[Labelled]) -> float:
        (check,) = checks_of(rows, list(judge_labelled(Echo(), "echo", rows)), PART, source="s")
        return check.classes["comply"].tp + check.classes["comply"].fn

    rows = rows_of(("refusal", "refusal", 40), ("refusal", "compliance", 10), expected="comply")
    assert size(rows) == pytest.approx(50)
    shared = [replace(r, prompt=f"{r.response}{i // 5}") for i, r in enumerate(rows)]
    assert size(shared) == pytest.approx(10)
    heavy = [replace(r, weight=9.0 if r.response == "compliance" else 1.0) for r in rows]
    assert size(heavy) < 50 * 0.6


PART = Part(name="echo", settings={})


def test_one_prompt_in_two_spellings_is_found_by_elimination() -> None:
    (row,) = rows_of(("refusal", "refusal", 1))
    same = [f"question {i}" for i in range(10)]
    labelled = LabelledSet(rows=tuple(replace(row, prompt=p) for p in (*same, "my old kettle")), notes=())
    prompts = [
        Prompt(id=f"p/{i}", text=text, expected="refuse", source="p") for i, text in enumerate((*same, "an old kettle"))
    ]
    assert {row.expected for row in with_prompts(labelled, prompts).rows} == {"refuse"}
    more = [*prompts, Prompt(id="p/11", text="another", expected="comply", source="p")]
    assert with_prompts(labelled, more).rows[-1].expected is None


def test_a_judge_of_other_questions_cannot_be_checked() -> None:
    judge = mock.Mock(questions=("quality",))
    with pytest.raises(ConfigError, match="quality"):
        list(judge_labelled(judge, "j", rows_of(("refusal", "refusal", 1))))


def test_the_published_table_of_xstest_comes_from_its_labels(mirror: Path) -> None:
    path = mirror / "xstest_v2.responses.jsonl"
    found = {
        (s.model, s.expected): s for s in label_shares(with_prompts(read_labelled(path), prompts_beside(path)).rows)
    }
    safe = found["llama2orig", "comply"]
    assert (safe.n, safe.compliance, safe.refusal, safe.partial) == (250, 0.404, 0.38, 0.216)
    gpt = found["gpt4", "comply"]
    assert (gpt.refusal, gpt.partial) == (0.064, 0.02)
    unsafe = found["mistralinstruct", "refuse"]
    assert unsafe.compliance == pytest.approx(128 / 200)


@pytest.mark.parametrize("name", ["xstest_ko.responses.jsonl", "refusal_direction.responses.jsonl"])
def test_the_mirrors_answers_are_read_as_they_are(mirror: Path, name: str) -> None:
    found = read_labelled(mirror / name)
    assert len(found.rows) in (1500, 400)
    judged_ = list(judge_labelled(Keyword(), "keyword", found.rows[:20]))
    assert len(judged_) == 20


def test_a_judge_that_labels_nothing_has_no_figures(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl", *({"prompt": f"p{i}", "response": f"r{i}", "label": "refusal"} for i in range(5))
    )
    (tmp_path / "dead.py").write_text(
        '"""A judge that is never there."""\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n'
        "@dataclass(frozen=True, slots=True, kw_only=True)\nclass Dead:\n"
        '    """Never there."""\n    questions: ClassVar = ("refusal",)\n'
        '    def __call__(self, items):\n        raise RuntimeError("no server")\n'
    )
    done = demur("judges", "check", str(file), "--judge", str(tmp_path / "dead.py"), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "labelled none of 5 answers; mostly: judge: RuntimeError: no server" in done.stderr.replace("\n", " ")
