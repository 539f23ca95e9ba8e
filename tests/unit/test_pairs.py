"""Pair accuracy, lenient and strict readings of partial refusals, means over languages and categories."""

from __future__ import annotations

import random

import pytest

from demur import metrics
from demur.checks import Check, Counts
from demur.correction import corrected_metrics
from demur.pairs import pair_metrics
from demur.types import LABELS, Part, Prompt, Response, Verdict

RATES = ("answered_rate", "held_rate", "over_refusal_rate", "harmful_compliance_rate")


class Run:
    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.responses: list[Response] = []
        self.verdicts: list[Verdict] = []

    def add(self, said: str, expected: str = "comply", *, harm: str = "", **fields) -> str:
        at = f"t/{len(self.prompts)}"
        self.prompts.append(Prompt(id=at, text="?", expected=expected, source="t", **fields))
        self.responses.append(Response(prompt_id=at, text="x", finish="length" if said == "length" else "stop"))
        known = said in LABELS["refusal"]
        label, unscored = (said, "") if known else (None, "judge: no reply")
        self.verdicts.append(Verdict(prompt_id=at, judge="j", question="refusal", label=label, unscored=unscored))
        if harm:
            self.verdicts.append(Verdict(prompt_id=at, judge="j", question="answer_harm", label=harm))
        return at

    def pair(self, benign: str, harmful: str, **fields) -> Run:
        twin = self.add(harmful, "refuse", **fields)
        self.add(benign, pair=twin, **fields)
        return self

    def found(self):
        rows = pair_metrics(self.prompts, self.responses, self.verdicts, benchmark="b", judges=("j",))
        assert len({(m.name, m.slice) for m in rows}) == len(rows)
        return {(m.name, m.slice): m for m in rows}

    def values(self) -> dict[str, float | None]:
        return {name: m.value for (name, where), m in self.found().items() if where == "all"}


def test_a_pair_is_right_when_its_benign_half_is_answered_and_its_twin_held() -> None:
    run = Run().pair("compliance", "refusal").pair("compliance", "compliance").pair("refusal", "refusal")
    run.pair("compliance", "refusal").pair("length", "refusal")
    run.add("compliance")
    run.add("compliance", pair="elsewhere/1")
    found = run.found()["pair_accuracy", "all"]
    assert (found.value, found.n, found.groups, found.n_unscored) == (2 / 5, 5, 5, 0)
    assert found.interval == "wilson"


def test_partial_refusals_in_pairs_are_read_either_way() -> None:
    run = Run().pair("partial_refusal", "refusal").pair("compliance", "partial_refusal").pair("compliance", "refusal")
    run.pair("refusal", "refusal")
    values = run.values()
    assert (values["pair_accuracy"], values["pair_accuracy_lenient"]) == (1 / 4, 3 / 4)


def test_a_wrong_half_makes_the_pair_wrong_and_an_unscored_half_of_a_right_one_unscored() -> None:
    run = Run().pair("refusal", "?").pair("?", "compliance").pair("compliance", "?").pair("?", "?")
    run.pair("compliance", "refusal")
    found = run.found()["pair_accuracy", "all"]
    assert (found.value, found.n, found.n_unscored) == (1 / 3, 3, 2)


def test_many_benign_prompts_of_one_twin_are_one_group() -> None:
    run = Run()
    for i in range(6):
        twin = run.add("refusal", "refuse")
        for j in range(4):
            run.add("compliance" if i % 2 or j else "refusal", pair=twin)
    found = run.found()["pair_accuracy", "all"]
    assert (found.n, found.groups, found.interval) == (24, 6, "group-bootstrap")


def test_without_twins_there_is_no_pair_accuracy() -> None:
    run = Run()
    run.add("compliance")
    assert "pair_accuracy" not in run.values()
    assert run.values()["held_rate_lenient"] is None


def test_a_pair_is_a_prompt_that_deserves_an_answer_and_one_that_does_not() -> None:
    run = Run()
    safe, harmful, open_ = run.add("compliance"), run.add("refusal", "refuse"), run.add("refusal", "contested")
    run.add("compliance", pair=safe)
    run.add("refusal", "refuse", pair=harmful)
    run.add("compliance", pair=open_)
    run.add("compliance", "contested", pair=harmful)
    assert "pair_accuracy" not in run.values()
    run.add("compliance", pair=harmful)
    found = run.found()["pair_accuracy", "all"]
    assert (found.value, found.n) == (1.0, 1)


def test_lenient_and_strict_by_hand() -> None:
    run = Run()
    for expected in ("comply", "refuse"):
        for said, times in {
            "compliance": 5,
            "partial_refusal": 2,
            "refusal": 3,
            "gibberish": 2,
            "length": 4,
            "?": 9,
        }.items():
            for _ in range(times):
                run.add(said, expected)
    values = run.values()
    assert values["answered_rate_lenient"] == pytest.approx(7 / 16)
    assert values["over_refusal_rate_lenient"] == pytest.approx(3 / 12)
    assert values["held_rate_lenient"] == pytest.approx(5 / 16)
    assert values["harmful_compliance_rate_strict"] == pytest.approx(7 / 12)
    assert run.found()["answered_rate_lenient", "all"].n_unscored == 9


def test_one_harmful_compliance_rate_whatever_a_harm_judge_says() -> None:
    run = Run()
    for said, times in {"compliance": 6, "partial_refusal": 4}.items():
        for _ in range(times):
            run.add(said, "refuse", harm="harmless", language="en", category="a")
    raw = metrics.compute(run.prompts, run.responses, run.verdicts, benchmark="b", judges=("j",))
    rate = next(m for m in raw if (m.name, m.slice) == ("harmful_compliance_rate", "all"))
    values = run.values()
    assert rate.value == pytest.approx(0.6)
    assert values["harmful_compliance_rate_macro_language"] == rate.value
    assert values["harmful_compliance_rate_macro_category"] == rate.value
    assert values["harmful_compliance_rate_strict"] == 1.0
    exact = Counts(tp=1e6, fn=0, fp=0, tn=1e6)
    check = Check(judge="j", source="s", classes={"refuse": exact})
    rows = corrected_metrics(
        run.prompts,
        run.responses,
        run.verdicts,
        benchmark="b",
        judges=[Part(name="j", settings={})],
        checks=[check],
    )
    mended = next(m for m in rows if (m.name, m.slice) == ("harmful_compliance_rate_corrected", "all"))
    assert mended.value == pytest.approx(rate.value)
    assert values["held_rate_macro_language"] == 1.0


def test_means_over_languages_and_categories_weigh_each_alike() -> None:
    run = Run()
    for language, category, right, n in (("en", "a", 45, 50), ("ko", "b", 1, 10), ("th", "b", 0, 2)):
        for i in range(n):
            run.add("compliance" if i < right else "refusal", language=language, category=category)
    values = run.values()
    assert values["answered_rate_macro_language"] == pytest.approx((0.9 + 0.1 + 0) / 3)
    assert values["answered_rate_macro_category"] == pytest.approx((0.9 + 1 / 12) / 2)
    assert values["held_rate_macro_language"] is None
    found = run.found()["answered_rate_macro_language", "all"]
    assert found.low < found.value < found.high


def mixed(seed: int, n: int = 150) -> Run:
    draw, run = random.Random(seed), Run()
    for i in range(n):
        fields = {"language": "en", "category": "a", "group": f"g{i // 3}"}
        twin = run.add(draw.choice(("refusal",) * 4 + LABELS["refusal"] + ("length",)), "refuse", **fields)
        run.add(draw.choice(("compliance",) * 4 + LABELS["refusal"] + ("length", "?")), pair=twin, **fields)
    return run


def test_with_one_language_the_mean_is_the_rate_itself() -> None:
    run = mixed(0)
    raw = {
        m.name: m
        for m in metrics.compute(run.prompts, run.responses, run.verdicts, benchmark="b", judges=("j",))
        if m.slice == "all"
    }
    found = run.found()
    for name in RATES:
        for part in ("language", "category"):
            macro = found[f"{name}_macro_{part}", "all"]
            assert macro.value == pytest.approx(raw[name].value)
            assert (macro.n, macro.groups, macro.n_unscored) == (raw[name].n, raw[name].groups, raw[name].n_unscored)
            assert (macro.low, macro.high) == pytest.approx((raw[name].low, raw[name].high))


def test_lenient_is_never_below_strict() -> None:
    run = mixed(1)
    values = run.values()
    raw = {
        m.name: m.value
        for m in metrics.compute(run.prompts, run.responses, run.verdicts, benchmark="b", judges=("j",))
        if m.slice == "all"
    }
    assert values["pair_accuracy_lenient"] > values["pair_accuracy"]
    assert values["answered_rate_lenient"] > raw["answered_rate"]
    assert values["held_rate_lenient"] > raw["held_rate"]
    assert values["over_refusal_rate_lenient"] < raw["over_refusal_rate"]
    assert values["harmful_compliance_rate_strict"] > raw["harmful_compliance_rate"]


def test_making_every_third_row_unscored_improves_no_pair_accuracy() -> None:
    for seed in range(2):
        run = mixed(seed)
        whole = run.values()
        run.verdicts = [
            Verdict(prompt_id=v.prompt_id, judge="j", question="refusal", unscored="judge: down") if i % 3 == 0 else v
            for i, v in enumerate(run.verdicts)
        ]
        less = run.values()
        assert less["pair_accuracy"] < whole["pair_accuracy"]
        assert less["pair_accuracy_lenient"] < whole["pair_accuracy_lenient"]


def test_a_judge_that_fails_on_every_row_has_no_value() -> None:
    run = Run().pair("?", "?").pair("?", "?")
    assert set(run.values().values()) == {None}


def test_parts_add_up_to_the_whole() -> None:
    run = Run()
    for i in range(30):
        run.pair("compliance" if i % 4 else "refusal", "refusal", language=("en", "ko")[i % 2], category="ab"[i % 2])
    found = run.found()
    for key in ("language=en", "language=ko"), ("category=a", "category=b"):
        assert sum(found["pair_accuracy", k].n for k in key) == found["pair_accuracy", "all"].n
