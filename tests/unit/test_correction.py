"""Rates corrected for judge error: the estimate, its coverage, and where there is none."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from demur import flips, metrics, results
from demur.answers import NAMES as TEXT
from demur.checks import Check, Counts, find, load_checks, not_validated, save_checks, validated, validations
from demur.correction import corrected, corrected_metrics, rogan_gladen
from demur.errors import ConfigError, DataError
from demur.records import RunFolder
from demur.types import Part, Prompt, Response, Verdict
from tests.unit.command_line import demur

PART = Part(name="j", settings={}, fingerprint="f1")
GOOD = Counts(tp=180, fn=20, fp=30, tn=170)
CHECK = Check(judge="j", source="s", classes={"comply": GOOD, "refuse": GOOD})
NAMES = {
    "answered_rate_corrected",
    "over_refusal_rate_corrected",
    "held_rate_corrected",
    "harmful_compliance_rate_corrected",
}


class Run:
    """Prompts with what the judge said of each answer."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.responses: list[Response] = []
        self.verdicts: list[Verdict] = []

    def add(self, said: str, times: int, expected: str = "comply", *, harm: str = "", **fields) -> Run:
        for _ in range(times):
            at = f"t/{len(self.prompts)}"
            self.prompts.append(Prompt(id=at, text="?", expected=expected, source="t", **fields))
            finish = said if said in ("length", "filtered", "error") else "stop"
            self.responses.append(Response(prompt_id=at, text="x", finish=finish))
            label, unscored = (said, "") if finish == "stop" and said != "?" else (None, said)
            self.verdicts.append(Verdict(prompt_id=at, judge="j", question="refusal", label=label, unscored=unscored))
            if harm:
                self.verdicts.append(Verdict(prompt_id=at, judge="j", question="answer_harm", label=harm))
        return self

    def rows(self, *checks: Check, judge: Part = PART, style: str = "plain"):
        found = corrected_metrics(
            self.prompts, self.responses, self.verdicts, benchmark="b", judges=[judge], checks=checks, style=style
        )
        return {(m.name, m.slice): m for m in found}

    def raw(self, name: str):
        found = metrics.compute(self.prompts, self.responses, self.verdicts, benchmark="b", judges=("j",))
        return next(m for m in found if (m.name, m.slice) == (name, "all"))


def simulation():
    path = Path(__file__).parents[2] / "docs" / "simulate_judge_error.py"
    if not path.is_file():
        pytest.skip("the simulation lies in the source tree only")
    spec = importlib.util.spec_from_file_location("simulate_judge_error", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_estimate_undoes_what_the_judge_did() -> None:
    assert rogan_gladen(0.3 * 0.9 + 0.7 * 0.15, 0.9, 0.85) == pytest.approx(0.3)
    assert rogan_gladen(0.4, 1.0, 1.0) == pytest.approx(0.4)
    found = corrected(375, 1000, Counts(tp=90, fn=10, fp=15, tn=85))
    assert found.value == pytest.approx((0.375 + 0.85 - 1) / 0.75)
    assert found.low < found.value < found.high


def test_a_perfect_large_check_leaves_the_jeffreys_interval() -> None:
    special = pytest.importorskip("scipy.special")
    found = corrected(30, 200, Counts(tp=1e7, fn=0, fp=0, tn=1e7), n_draws=40_000)
    exact = special.betaincinv(30.5, 170.5, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=2e-3)


def test_the_interval_agrees_with_the_delta_method_on_large_samples() -> None:
    n, m, p, se, sp = 4000, 2000, 0.34, 0.9, 0.85
    found = corrected(p * n, n, Counts(tp=se * m, fn=(1 - se) * m, fp=(1 - sp) * m, tn=sp * m))
    youden = se + sp - 1
    pi = (p + sp - 1) / youden
    variance = p * (1 - p) / n + pi**2 * se * (1 - se) / m + (1 - pi) ** 2 * sp * (1 - sp) / m
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * variance**0.5 / youden, rel=0.05)


def test_many_rates_at_once_are_each_as_alone() -> None:
    counts = Counts(tp=np.array([90, 45]), fn=np.array([10, 5]), fp=np.array([15, 2]), tn=np.array([85, 48]))
    both = corrected(np.array([30, 80]), 100, counts, n_draws=20_000)
    alone = corrected(80, 100, Counts(tp=45, fn=5, fp=2, tn=48), n_draws=20_000)
    assert both.value[1] == alone.value
    assert (both.low[1], both.high[1]) == pytest.approx((alone.low, alone.high), abs=0.01)


def test_estimates_and_ends_stay_between_0_and_1() -> None:
    low, high = corrected(0, 100, GOOD), corrected(100, 100, GOOD)
    assert (low.value, low.low, high.value, high.high) == (0, 0, 1, 1)


def test_a_judge_that_guesses_gives_an_interval_that_says_nothing() -> None:
    found = corrected(50, 100, Counts(tp=50, fn=50, fp=50, tn=50))
    assert (found.low, found.high) == (0, 1)


def test_corrected_intervals_cover_and_raw_ones_do_not() -> None:
    made = simulation()
    for checked, answers, se, sp, rate in ((300, 300, 0.9, 0.8, 0.05), (100, 1000, 0.8, 0.99, 0.3)):
        cell = made.simulate(made.Cell(checked, answers, se, sp, rate), 600, seed=1, n_draws=400)
        assert cell.corrected == pytest.approx(0.95, abs=0.03)
        assert cell.raw < 0.5


@pytest.mark.slow
def test_every_cell_covers_within_two_points() -> None:
    made = simulation()
    found = made.run(1000)
    assert len(found) == 486
    assert [c for c in found if abs(c.corrected - 0.95) > 0.02] == []
    assert np.mean([abs(c.raw - 0.95) <= 0.02 for c in found]) < 0.2


def test_rates_on_both_axes_by_hand() -> None:
    run = Run().add("refusal", 20).add("partial_refusal", 10).add("compliance", 60).add("gibberish", 10)
    run.add("length", 10).add("filtered", 5).add("?", 7)
    run.add("refusal", 70, "refuse").add("partial_refusal", 5, "refuse").add("compliance", 25, "refuse")
    found = run.rows(CHECK)
    refused = (0.3 + 0.85 - 1) / 0.75
    over, answered = found["over_refusal_rate_corrected", "all"], found["answered_rate_corrected", "all"]
    assert over.value == pytest.approx(refused)
    assert (over.n, over.n_unscored, over.interval) == (100, 7, "rogan-gladen-jeffreys")
    assert answered.value == pytest.approx((100 * (1 - refused) - 10) / 115)
    assert answered.n == run.raw("answered_rate").n == 115
    kept = (0.75 + 0.85 - 1) / 0.75
    assert found["harmful_compliance_rate_corrected", "all"].value == pytest.approx(1 - kept)
    assert found["held_rate_corrected", "all"].value == pytest.approx(kept - 0.05)
    for metric in found.values():
        assert metric.low < metric.value < metric.high


def test_full_refusals_counted_apart_correct_the_held_rate() -> None:
    full = Counts(tp=95, fn=5, fp=20, tn=80)
    check = Check(judge="j", source="s", classes={"refuse": GOOD}, full={"refuse": full})
    run = Run().add("refusal", 60, "refuse").add("partial_refusal", 10, "refuse").add("compliance", 30, "refuse")
    run.add("filtered", 20, "refuse")
    refused = (0.6 + 0.8 - 1) / 0.75
    assert run.rows(check)["held_rate_corrected", "all"].value == pytest.approx((100 * refused + 20) / 120)


def test_safe_completions_stay_held_and_count_as_compliance() -> None:
    check = Check(judge="j", source="s", classes={"refuse": GOOD}, full={"refuse": GOOD})
    run = Run().add("refusal", 60, "refuse", harm="harmless")
    run.add("compliance", 10, "refuse", harm="harmless").add("compliance", 30, "refuse", harm="harmful")
    found, refused = run.rows(check), (0.6 + 0.85 - 1) / 0.75
    assert found["held_rate_corrected", "all"].value == pytest.approx(refused + (1 - refused) / 4)
    assert found["harmful_compliance_rate_corrected", "all"].value == pytest.approx(1 - refused)


def test_a_perfect_judge_needs_no_correction() -> None:
    exact = Counts(tp=1e6, fn=0, fp=0, tn=1e6)
    check = Check(judge="j", source="s", classes={"comply": exact, "refuse": exact}, full={"refuse": exact})
    run = Run()
    for expected in ("comply", "refuse"):
        for said, times in {"refusal": 9, "partial_refusal": 4, "compliance": 8, "gibberish": 3, "length": 2}.items():
            run.add(said, times, expected)
    rows = run.rows(check)
    for name in NAMES:
        raw = run.raw(name.removesuffix("_corrected"))
        found = rows[name, "all"]
        assert (found.value, found.n, found.groups) == pytest.approx((raw.value, raw.n, raw.groups))


def test_rows_in_groups_are_resampled_together() -> None:
    alone, shared = Run(), Run()
    for i in range(60):
        said = "refusal" if i % 12 > 7 else "compliance"
        alone.add(said, 1)
        shared.add(said, 1, group=f"g{i // 4}")
    one = alone.rows(CHECK)["over_refusal_rate_corrected", "all"]
    many = shared.rows(CHECK)["over_refusal_rate_corrected", "all"]
    assert (many.value, many.groups, many.interval) == (one.value, 15, "rogan-gladen-bootstrap")
    assert many.high - many.low > 1.3 * (one.high - one.low)
    alike = Run()
    for i in range(60):
        alike.add("compliance", 1, group=f"g{i // 6}")
    found = alike.rows(CHECK)["over_refusal_rate_corrected", "all"]
    assert found.interval == "rogan-gladen-jeffreys"
    assert found.high > alone.add("compliance", 0).rows(CHECK)["over_refusal_rate_corrected", "all"].low


def test_a_fault_never_narrows_the_interval_of_rows_in_groups() -> None:
    weak = Counts(tp=50, fn=50, fp=4, tn=96)
    check = Check(judge="j", source="s", classes={"comply": weak, "refuse": weak})

    def answered(faults: int):
        run = Run()
        for i in range(80):
            run.add("length" if i < faults else "compliance", 1, group=f"g{i // 2}")
        return run.rows(check)["answered_rate_corrected", "all"]

    whole, torn = answered(0), answered(1)
    assert (whole.interval, torn.interval) == ("rogan-gladen-jeffreys", "rogan-gladen-bootstrap")
    assert torn.low <= whole.low + 0.01 < 0.99


def test_the_estimate_never_leaves_its_interval() -> None:
    few, run, checks = Counts(tp=12, fn=0, fp=0, tn=1e6), Run(), []
    for language in ("en", "ko", "th", "de", "fr", "hi", "es", "it"):
        checks.append(Check(judge="j", source="s", languages=(language,), classes={"comply": few}))
        for i in range(400):
            run.add("refusal" if i % 2 else "compliance", 1, group=f"{language}{i // 2}", language=language)
        run.add("compliance", 1, group=f"{language}0", language=language)
    found = run.rows(*checks)["over_refusal_rate_corrected", "all"]
    assert found.interval == "rogan-gladen-bootstrap"
    assert found.low <= found.value <= found.high


@pytest.mark.slow
def test_intervals_of_rows_in_groups_cover() -> None:
    made = simulation()
    for clusters in made.clusters():
        assert made.simulate_clusters(clusters, 400, seed=7) == pytest.approx(0.95, abs=0.045), clusters


def test_languages_and_styles_without_a_check_have_no_corrected_rate() -> None:
    run = (
        Run()
        .add("refusal", 20)
        .add("compliance", 30)
        .add("refusal", 5, language="ko")
        .add("compliance", 5, language="ko")
    )
    found = run.rows(CHECK)
    assert found["over_refusal_rate_corrected", "language=en"].value is not None
    assert found["over_refusal_rate_corrected", "language=ko"].value is None
    assert found["over_refusal_rate_corrected", "all"].value is None
    assert run.rows(CHECK, style="edited") == {}
    assert run.rows() == {}
    assert run.rows(CHECK, judge=Part(name="oracle", settings={})) == {}


def test_each_language_is_corrected_with_its_own_check() -> None:
    weak = Counts(tp=70, fn=30, fp=20, tn=80)
    korean = Check(judge="j", source="k", languages=("ko",), classes={"comply": weak})
    run = (
        Run()
        .add("refusal", 30)
        .add("compliance", 70)
        .add("refusal", 20, language="ko")
        .add("compliance", 20, language="ko")
    )
    found = run.rows(CHECK, korean)
    english, other = (0.3 + 0.85 - 1) / 0.75, (0.5 + 0.8 - 1) / 0.5
    assert found["over_refusal_rate_corrected", "language=ko"].value == pytest.approx(other)
    assert found["over_refusal_rate_corrected", "all"].value == pytest.approx((100 * english + 40 * other) / 140)


def test_which_check_speaks_and_why_none_does() -> None:
    few = Check(judge="j", source="few", classes={"comply": Counts(tp=5, fn=4, fp=1, tn=90)})
    blind = Check(judge="j", source="blind", classes={"comply": Counts(tp=50, fn=50, fp=45, tn=55)})
    old = Check(judge="j", source="old", fingerprint="f0", classes={"comply": GOOD})

    def why(*checks: Check, language: str = "en", style: str = "plain") -> str:
        return find(checks, PART, language, style, "comply")[1]

    assert why(CHECK) == ""
    assert why() == "no labelled check"
    assert "another version" in why(old)
    assert "in ko" in why(CHECK, language="ko")
    assert "edited model" in why(CHECK, style="edited")
    assert "fewer than 10" in why(few)
    assert "better than chance" in why(blind)
    assert find((few, CHECK, old), PART, "en", "plain", "comply")[0] is CHECK


def test_validated_says_why_not() -> None:
    assert validated("j", "en", checks=[CHECK]) == ""
    assert validated("j", "sw", checks=[CHECK]) == "no labelled check in sw"
    assert validated("oracle", "sw") == ""
    rows = validations([PART, Part(name="oracle", settings={})], ["en", "ko"], [CHECK])
    assert len(rows) == 8
    assert [(v.n, bool(v.reason)) for v in rows if v.judge == "j" and v.language == "en"] == [(400, False)] * 2
    assert {v.source for v in rows if v.judge == "oracle"} == {"truth by construction"}


def test_every_number_that_rests_on_unchecked_verdicts_is_marked() -> None:
    run = Run().add("compliance", 2, "refuse", language="sw", category="a")
    for said in ("compliance", "refusal", "partial_refusal"):
        run.add(said, 2, pair="t/0", language="sw", category="a").add(said, 1, "contested", language="sw")
    rows = results.all_metrics(run.prompts, run.responses, run.verdicts, [PART])
    again = [
        Verdict(prompt_id=v.prompt_id, sample=1, judge="j", question="refusal", label="refusal") for v in run.verdicts
    ]
    rows += flips.compute(run.prompts, [*run.verdicts, *again], benchmark="b", judges=["j"])
    free = {"broken_rate", "gibberish_rate", "truncated_rate", "filtered_rate", "unscored_rate", "contested_rate"}
    names = {m.name for m in rows if m.value is not None} - free - {*TEXT}
    assert len(names) > 12
    rests = validations([PART], ["sw"], [CHECK])
    assert {name for name in names if not_validated(name, "j", rests) != "not validated"} == set()
    assert {name for name in free | {*TEXT} if not_validated(name, "j", rests)} == set()
    half = [v for v in rests if v.expected == "comply"]
    assert not_validated("held_rate_lenient", "j", half) == ""


def test_checks_go_to_a_file_and_back(tmp_path: Path) -> None:
    for checks in ([CHECK], [CHECK, CHECK]):
        save_checks(tmp_path / "c.json", checks)
        assert list(load_checks(tmp_path / "c.json")) == checks


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"judge": "j"}, "no check"),
        ({"judge": "j", "classes": {"both": {}}}, "allowed: comply, refuse"),
        ({"judge": "j", "classes": {"comply": {"tp": 1, "fn": 1, "fp": -1, "tn": 1}}}, "classes.comply.fp is -1"),
        ({"judge": "j", "classes": {"comply": {"tp": 1}}}, "fn is None"),
    ],
)
def test_a_malformed_check_is_refused(tmp_path: Path, raw: dict, says: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=says.replace(".", r"\.")):
        load_checks(tmp_path / "c.json")
    with pytest.raises(ConfigError, match="--save"):
        load_checks(tmp_path / "none.json")


def test_measure_marks_what_is_not_validated_and_corrects_what_is(tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    rows = [
        {"id": f"m/{i}", "prompt": f"q {i}", "label": "harmful" if i % 2 else "benign", "language": "sw"}
        for i in range(40)
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["measure", "--generator", "fake", "--benchmark", f"file:path={prompts}", "--judge", "keyword"]
    words += ["--out", str(tmp_path / "r")]
    code, out, errors = demur(*words)
    assert code == 0, errors
    assert out.replace("\n", " ").count("validated") >= 4
    assert "keyword is not validated in sw: no labelled check" in " ".join(out.split())
    assert "corrected" not in out
    kept = tmp_path / "kept.json"
    save_checks(kept, [Check(judge="keyword", source="s", languages=("sw",), classes=CHECK.classes)])
    code, out, errors = demur(*words, "--check", str(kept))
    assert code == 0, errors
    assert "validated" not in out
    assert out.count("corrected") >= 4
    found = RunFolder.load(tmp_path / "r")
    assert {m.name for m in found.metrics} >= NAMES
    assert [(v.language, v.expected, v.source, v.reason) for v in found.validations] == [
        ("sw", "comply", "s", ""),
        ("sw", "refuse", "s", ""),
    ]
    save_checks(kept, [Check(judge="other", source="s", classes=CHECK.classes)])
    code, _, errors = demur(*words, "--check", str(kept))
    assert (code, "judge 'other'" in errors) == (2, True)
