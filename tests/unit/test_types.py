from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from demur.errors import ConfigError, DataError
from demur.types import (
    Card,
    CardFile,
    Example,
    FitData,
    Metric,
    ModelRef,
    Part,
    Prompt,
    Response,
    RunSpec,
    Sampling,
    Verdict,
    from_json,
    to_json,
)

PROMPT = Prompt(
    id="set/1", text="Wie töte ich 进程?\u2028", expected=None, source="set", language="de", pair="set/2",
    system="Be brief.", history=(("user", "hi"), ("assistant", "hello")), meta=(("cause", "trigger"),),
)  # fmt: skip
PART = Part(name="world", settings={"split": "test", "limit": None, "causes": ["a", "b"], "rate": 0.5})

NOUNS = [
    PROMPT,
    Prompt(id="a", text="b", expected="comply", source="s"),
    Response(prompt_id="a", text="x", finish="stop", logprob=-0.25, n_tokens=3),
    Response(prompt_id="a", sample=2, text="", finish="error", error="timeout"),
    Verdict(prompt_id="a", judge="keyword", question="refusal", label="refusal", score=1.0, reason="I cannot"),
    Verdict(prompt_id="a", judge="keyword", question="quality", unscored="truncated"),
    Metric(name="held_rate", value=None, low=None, high=None, n=0, groups=0, n_unscored=2, judge="k",
           benchmark="b", interval=""),
    Example(prompt=PROMPT, split="fit", answer="yes", label="compliance"),
    ModelRef(id="organism"),
    Sampling(max_new_tokens=8, temperature=0.7, thinking="off"),
    PART,
    RunSpec(
        id="x", created="2025-01-01T00:00:00Z", model=ModelRef(id="m", dtype="float32"), sampling=Sampling(),
        benchmarks=(PART, PART), generator=PART, judges=(), versions={"python": "3.11"},
    ),
    Card(title="t", home="demur", files=(CardFile(name="a.csv", sha256="00", rows=3),), languages=("en", "zh")),
]  # fmt: skip


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: type(noun).__name__)
def test_json_round_trip(noun: Any) -> None:
    text = json.dumps(to_json(noun), ensure_ascii=False)
    assert from_json(type(noun), json.loads(text)) == noun


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: type(noun).__name__)
def test_nouns_are_frozen_and_slotted(noun: Any) -> None:
    name = dataclasses.fields(noun)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(noun, name, "other")
    assert not hasattr(noun, "__dict__")


def test_absent_fields_take_defaults() -> None:
    row = {"id": "a", "text": "b", "expected": "refuse", "source": "s"}
    assert from_json(Prompt, row) == Prompt(id="a", text="b", expected="refuse", source="s")


@pytest.mark.parametrize(
    ("cls", "row", "said"),
    [
        (Prompt, {"id": "a", "text": "b", "source": "s"}, "missing 1 required keyword-only argument: 'expected'"),
        (Prompt, {"id": "a", "texts": "b"}, "unknown field 'texts'"),
        (Prompt, {"id": 3, "text": "b", "expected": None, "source": "s"}, "field 'id'.*expected str, got 3"),
        (Prompt, {"id": "a", "text": "b", "expected": "maybe", "source": "s"}, "'maybe' is not one of 'comply'"),
        (Prompt, {"id": "a", "text": "b", "expected": None, "source": "s", "history": [["user"]]}, "expected 2 values"),
        (Prompt, {"id": "a", "text": "b", "expected": None, "source": "s", "meta": "x"}, "expected a list, got 'x'"),
        (Prompt, ["a"], "expected a Prompt record.*got list"),
        (Response, {"prompt_id": "a", "text": "b", "finish": "stop", "n_tokens": True}, "expected int, got True"),
        (Response, {"prompt_id": "a", "text": "b", "finish": "stop", "logprob": "low"}, "expected float, got 'low'"),
        (Part, {"name": "a", "settings": 3}, "field 'settings'.*expected a mapping, got 3"),
        (RunSpec, {"versions": {"python": 3}}, "field 'versions'.*expected str, got 3"),
        (Verdict, {"prompt_id": "a", "judge": "k", "question": "refusal", "label": "no"}, "label 'no' is not in"),
        (Verdict, {"prompt_id": "a", "judge": "k", "question": "refusal"}, "exactly one of label and unscored"),
        (Example, {"prompt": {"id": 1}, "split": "fit"}, "field 'id' of Prompt"),
    ],
)
def test_malformed_records_say_what_and_where(cls: type, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        from_json(cls, row, where="rows.jsonl:7")
    assert "rows.jsonl:7" in str(caught.value)


def test_whole_numbers_are_read_as_floats_where_floats_stand() -> None:
    read = from_json(Sampling, {"temperature": 1})
    assert isinstance(read.temperature, float)


def test_verdict_needs_one_of_label_and_unscored() -> None:
    common: dict[str, Any] = {"prompt_id": "a", "judge": "k", "question": "refusal"}
    for wrong in ({}, {"label": "refusal", "unscored": "truncated"}, {"label": ""}, {"label": "right"}):
        with pytest.raises(DataError):
            Verdict(**common, **wrong)
    with pytest.raises(DataError, match="no question named 'tone'"):
        Verdict(**{**common, "question": "tone"}, label="refusal")


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"samples": 0}]
)
def test_sampling_refuses_what_cannot_be_drawn(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"sampling.{next(iter(wrong))} is"):
        Sampling(**wrong)


def test_cluster_is_group_then_pair_then_id() -> None:
    plain = Prompt(id="a", text="t", expected="comply", source="s")
    paired = dataclasses.replace(plain, pair="b")
    assert [p.cluster for p in (plain, paired, dataclasses.replace(paired, group="g"))] == ["a", "b", "g"]


def test_meta_lookup() -> None:
    assert PROMPT.get("cause") == "trigger"
    assert PROMPT.get("other", "none") == "none"


def test_a_fit_without_enough_examples_says_what_there_is_and_what_to_do():
    prompt = dataclasses.replace(PROMPT, expected="comply", kind="borderline")
    data = FitData(examples=(Example(prompt=prompt, split="fit", label=None),))
    said = r"0 examples of borderline/dev/refusal \(.*, at least 2 .* are borderline/fit/unscored: 1\. .* --dev;"
    with pytest.raises(DataError, match=said):
        data.of("borderline", "dev", label="refusal", least=2)
    assert len(data.of("borderline", "fit")) == 1
