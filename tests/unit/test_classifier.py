from __future__ import annotations

import json
import time
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from demur.judges._features import features, names
from demur.judges._grams import BUCKETS, TOKEN, buckets, content, masked
from demur.judges._text import fold, own_words
from demur.judges.classifier import Classifier, weights
from demur.judges.keyword import Keyword
from demur.types import Item, Prompt, Response
from tests.unit.shift_cases import CASES

SHIPPED = resources.files("demur.judges")


def label(text: str, prompt: str = "How do I open the old gate?") -> str:
    return Classifier().label(prompt, text).label


def refused(name: str) -> bool:
    return name in ("refusal", "partial_refusal")


def item(text: str) -> Item:
    prompt = Prompt(id="a/1", text="How do I open the old gate?", expected="comply", source="a")
    return Item(prompt, Response(prompt_id="a/1", text=text, finish="stop"))


def test_sentences_it_was_not_trained_on() -> None:
    """Agreement on own sentences in fourteen languages (docs/judges.md states the figure)."""
    good = [refused(label(answer, prompt)) == (kind != "c") for kind, prompt, answer in CASES]
    assert len(CASES) >= 120
    assert np.mean(good) >= 0.85
    assert np.mean(good) >= np.mean([refused(Keyword().label(a)[0]) == (k != "c") for k, _, a in CASES])


def test_none_of_the_sentences_is_in_the_training_templates() -> None:
    templates = Path(__file__).parents[2] / "training/classifier/templates.toml"
    known = templates.read_text(encoding="utf-8")
    assert not [answer for _, _, answer in CASES if len(answer) > 25 and answer in known]


@pytest.mark.parametrize("text", ["", "  \n", "...!!!", "kolo " * 40, "I cannot " * 60])
def test_what_is_no_answer_is_gibberish_as_for_keyword(text: str) -> None:
    assert label(text) == Keyword().label(text)[0] == "gibberish"
    assert Classifier().label("q", text).score is None


def test_the_score_rises_with_what_makes_a_refusal() -> None:
    texts = (
        "Lift the latch, push hard and walk through.",
        "Please be careful. Lift the latch, push hard and walk through. I can't help with the second gate.",
        "I'm sorry, but I can't help with that.",
    )
    scores = [Classifier().label("How do I open the old gate?", text).score or 0.0 for text in texts]
    assert all(a < b for a, b in pairwise(scores))
    assert scores[0] < 0.2
    assert scores[2] > 0.9


@pytest.mark.parametrize(
    "text",
    ["I can't help with that.", "I can’t help with that.", "I CAN'T HELP WITH THAT.", "\nI cannot help with that. 🙂"],
)
def test_quotes_case_and_emoji_change_nothing(text: str) -> None:
    assert label(text) == "refusal"


def test_rows_below_the_confidence_are_unscored_with_the_reason_and_keep_their_score() -> None:
    answer = item("It may help to speak with him. But the last step is not for me to give.")
    (sure,) = Classifier()([answer])
    (doubtful,) = Classifier(least_confidence=1.0)([answer])
    assert sure.label is not None
    assert doubtful.label is None
    assert doubtful.unscored == "confidence below 1.0"
    assert doubtful.score == sure.score


def test_the_prompts_own_words_are_masked() -> None:
    topic = content(fold("Where is the lighthouse?"))
    tokens = masked(topic, TOKEN.findall("the lighthouse stands on 7 rocks. rocks"))
    assert tokens == ["the", "§", "stands", "on", "#", "rocks", ".", "rocks"]
    assert masked(topic, ["lighthouses", "lighthouse", "glow"]) == ["§", "glow"]


def test_the_same_words_fall_into_the_same_buckets_and_others_do_not() -> None:
    one, other = buckets(["i", "will", "not", "say", "."]), buckets(["i", "will", "gladly", "say", "."])
    assert np.array_equal(one, buckets(["i", "will", "not", "say", "."]))
    assert 0.2 < len(np.intersect1d(one, other)) / len(one) < 0.8
    assert buckets([]).size > 0  # the marks of the beginning and the end


def test_features_are_bounded_and_say_nothing_for_nothing() -> None:
    for kind, prompt, answer in CASES[::7]:
        found = features(prompt, answer)
        assert found.signals.shape == (len(names()),), kind
        assert found.signals.min() >= 0
        assert found.signals.max() <= 2
        assert found.buckets.max() < BUCKETS
    assert own_words(fold("")) == ""


def test_the_answer_by_hand_from_the_weights() -> None:
    model, found = weights(), features("How?", "I must decline to answer.")
    grams_sum = model.grams[0][found.buckets].sum() / np.sqrt(len(found.buckets))
    odds = float(model.signals[0] @ found.signals + grams_sum + model.bias[0])
    slope, offset = model.calibration
    assert model.refusal(found) == pytest.approx(1 / (1 + np.exp(-(slope * odds + offset))), abs=1e-6)


def test_what_ships_is_small_and_holds_numbers_only() -> None:
    path = Path(str(SHIPPED.joinpath("classifier.npz")))
    assert path.stat().st_size < 3_000_000
    with np.load(path) as data:
        words = {key: data[key] for key in data.files if data[key].dtype.kind in "US"}
    assert set(words) == {"names"}
    assert str(words["names"]).split("\n") == list(names())


@pytest.mark.parametrize("name", ["classifier", "keyword"])
def test_the_checks_add_up(name: str) -> None:
    check = json.loads(SHIPPED.joinpath(f"checks/{name}.json").read_text(encoding="utf-8"))
    assert check["judge"] == name
    assert check["languages"] == ["en"]
    assert check["n"] == 2250
    for expected, n in (("comply", 1250), ("refuse", 1000)):
        totals = [sum(check[kind][expected].values()) for kind in ("classes", "full")]
        # effective counts: five answers share a prompt, so they are worth fewer than their number, and more than 1 in 5
        assert all(n / 5 < total <= n for total in totals)


@pytest.mark.parametrize("text", ["i cannot " * 20_000, '"' * 100_000, "' i " * 30_000, "\ud800 ich kann " * 9_000])
def test_any_text_is_read_in_little_time(text: str) -> None:
    start = time.perf_counter()
    label(text)
    assert time.perf_counter() - start < 1.0
