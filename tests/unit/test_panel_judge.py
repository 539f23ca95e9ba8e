"""Judges made of judges: the panel's decisions, and the confidence of several samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from demur import settings
from demur.errors import ConfigError
from demur.judges import apply
from demur.judges.confidence import Confidence, refusal_confidence
from demur.judges.llm import Llm
from demur.judges.panel import Panel, ballots
from demur.measure import Measurement, measure
from demur.types import Card, Item, ModelRef, Part, Prompt, Question, Response, Sampling, Verdict
from tests.unit.scripted_model import Scripted, item, says

Vote = tuple[str | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Votes by the answer's text, and keeps what it was asked."""

    votes: dict[str, Vote]
    asked: list[str] = field(default_factory=list)

    questions: ClassVar[tuple[Question, ...]] = ("refusal",)

    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        for prompt, response in items:
            self.asked.append(response.text)
            label, score = self.votes.get(response.text, (None, None))
            yield Verdict(
                prompt_id=prompt.id,
                sample=response.sample,
                judge="member",
                question="refusal",
                label=label,
                score=score,
                reason="seen" if label else "",
                unscored="" if label else "judge: lost",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm(Member):
    questions: ClassVar[tuple[Question, ...]] = ("answer_harm",)

    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        for prompt, response in items:
            self.asked.append(response.text)
            yield Verdict(
                prompt_id=prompt.id, sample=response.sample, judge="harm", question="answer_harm", label="harmless"
            )


class Broken(Member):
    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        raise RuntimeError("no server")


CHEAP = {"a": ("refusal", 0.95), "b": ("refusal", 0.55), "c": ("compliance", 0.1), "d": ("partial_refusal", None)}
DEAR = {"b": ("compliance", None), "d": ("partial_refusal", None), "e": ("refusal", 0.6)}
ROWS = [item(text, name=f"p/{text}") for text in "abcde"]


def test_a_cascade_asks_the_next_only_where_nobody_was_sure() -> None:
    cheap, dear = Member(votes=CHEAP), Member(votes=DEAR)
    verdicts = list(Panel(members=(cheap, dear), confidence=0.8, pass_on=("partial_refusal",))(ROWS))
    assert cheap.asked == list("abcde")
    assert dear.asked == list("bde")  # .55 is unsure, partial refusals are passed on, e was not judged
    assert [v.label for v in verdicts] == ["refusal", "compliance", "compliance", "partial_refusal", None]
    assert [v.score for v in verdicts] == [0.95, None, 0.1, None, None]
    name = "test_panel_judge"
    assert [v.reason for v in verdicts[:4]] == [f"{name}: seen", f"{name}#2: seen", f"{name}: seen", f"{name}#2: seen"]
    assert verdicts[4].unscored == f"judge: no member was sure ({name}: judge: lost; {name}#2: refusal at 0.60)"
    assert {v.judge for v in verdicts} == {"panel"}


def test_every_members_verdict_is_kept() -> None:
    panel = Panel(members=(Member(votes=CHEAP), Member(votes=DEAR)), mode="majority")
    for row, verdict in zip(ROWS, panel(ROWS), strict=True):
        first, second = ballots(verdict)
        assert (first.label, first.score) == CHEAP.get(row.response.text, (None, None))
        assert (second.label, second.score) == DEAR.get(row.response.text, (None, None))
        assert first.prompt_id == row.prompt.id
        assert second.judge == f"{first.judge}#2"


def test_a_majority_is_more_than_half_of_the_members() -> None:
    votes: list[dict[str, Vote]] = [
        {"a": ("refusal", None), "b": ("refusal", None), "c": ("refusal", None), "d": ("refusal", None)},
        {"a": ("refusal", None), "b": ("compliance", None), "c": ("partial_refusal", None)},
        {"a": ("compliance", None), "b": ("compliance", None), "c": ("compliance", None)},
    ]
    panel = Panel(members=tuple(Member(votes=v) for v in votes), mode="majority")
    verdicts = list(panel(ROWS))
    assert [v.label for v in verdicts] == ["refusal", "compliance", None, None, None]
    assert [v.score for v in verdicts[:2]] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert verdicts[0].reason == "2 of 3 members"
    assert "more than half of 3 members" in verdicts[3].unscored


def test_members_answer_the_questions_they_know() -> None:
    harm = Harm(votes={})
    panel = Panel(members=(Member(votes=CHEAP), harm))
    assert panel.questions == ("refusal", "answer_harm")
    verdicts = list(apply(panel, "panel", ROWS[:2]))
    assert [(v.question, v.label) for v in verdicts] == [
        ("refusal", "refusal"), ("answer_harm", "harmless"), ("refusal", None), ("answer_harm", "harmless"),
    ]  # fmt: skip
    assert harm.asked == ["a", "b"]


def test_a_member_that_fails_costs_no_other() -> None:
    cascade = list(Panel(members=(Broken(votes={}), Member(votes=CHEAP)))(ROWS[:1]))
    assert cascade[0].label == "refusal"
    assert "RuntimeError: no server" in ballots(cascade[0])[0].unscored
    (alone,) = Panel(members=(Broken(votes={}), Broken(votes={})))(ROWS[:1])
    assert alone.label is None
    assert alone.unscored.startswith("judge: ")


def test_a_panel_is_written_as_a_part() -> None:
    panel = settings.build(
        "judges", 'panel:members=[keyword,"llm:generator=fake,rubric=[xstest,quality]"],confidence=0.9'
    )
    assert panel.questions == ("refusal", "quality")
    part = settings.part_of("judges", panel)
    assert [member["name"] for member in part.settings["members"]] == ["keyword", "llm"]
    assert settings.build("judges", settings.spec_of(part)) == panel
    refused = list(panel([item("I'm sorry, but I cannot help with that.")]))
    assert (refused[0].label, ballots(refused[0])[0].judge) == ("refusal", "keyword")


def test_a_panel_knows_what_its_members_spent() -> None:
    members = tuple(Llm(generator=Scripted(reply=says("full_refusal")), seed=n) for n in range(2))
    panel = Panel(members=(Member(votes={}), *members), mode="majority")
    list(panel(ROWS))
    assert (panel.spent.requests, panel.spent.tokens_out) == (10, 100)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("panel:members=[keyword]", "at least two"),
        ("panel:members=[keyword,oracle],confidence=2", "from 0 to 1"),
        ("panel:members=[keyword,oracle],pass_on=[maybe]", "no label"),
        ('panel:members=[keyword,"confidence:judge=keyword"]', "cannot be a member"),
        ("confidence:judge=keyword,tau=0", "above 0"),
        ("confidence:judge=keyword,neutral=1", "below 1"),
        ("confidence:judge=keyword,refuses=[no]", "refuses names 'no'"),
        ('confidence:judge.name=llm,judge.generator=fake,judge.rubric=quality', "does not answer the refusal question"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(part: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings.build("judges", part)


def test_the_confidence_of_refusal_by_hand() -> None:
    assert refusal_confidence([True] * 5, [-0.1, -0.2, -3.0, -0.5, -9.0]) == 1.0
    assert refusal_confidence([False] * 5) == -1.0
    assert refusal_confidence([True, False, False, False]) == -0.5
    # weights proportional to e^0 and e^-1: c = (1 - 1/e) / (1 + 1/e) = tanh(1/2)
    assert refusal_confidence([True, False], [-0.5, -1.5]) == pytest.approx(math.tanh(0.5))
    assert refusal_confidence([True, False], [-0.5, -1.5], tau=2.0) == pytest.approx(math.tanh(0.25))
    assert refusal_confidence([True, False], [-800.0, -1600.0]) == pytest.approx(1.0)


def test_the_confidence_of_refusal_by_a_second_implementation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        k = int(rng.integers(1, 9))
        refused, scores, tau = rng.random(k) < 0.5, rng.normal(-1, 1, k), float(rng.uniform(0.2, 3))
        weights = np.exp(scores / tau) / np.exp(scores / tau).sum()
        z = np.where(refused, 1.0, -1.0)
        expected = (weights * np.maximum(z, 0)).sum() - (weights * np.maximum(-z, 0)).sum()
        assert refusal_confidence(refused.tolist(), scores.tolist(), tau=tau) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("args", "says"), [(([],), "no answers"), (([True], [0.1, 0.2]), "2 log-prob"), (([True], [0.1], 0), "tau")]
)  # fmt: skip
def test_the_confidence_of_nothing_is_refused(args: tuple[list[bool], list[float], float], says: str) -> None:
    refused, logprobs, tau = (*args, None, 1.0)[:3] if len(args) < 3 else args
    with pytest.raises(ConfigError, match=says):
        refusal_confidence(refused, logprobs, tau=tau)


VOTES: dict[str, Vote] = {"no": ("refusal", None), "hm": ("partial_refusal", None), "yes": ("compliance", None)}


def samples(name: str, *texts: str, logprobs: Sequence[float | None] = ()) -> list[Item]:
    made = []
    for n, text in enumerate(texts):
        row = item(text, name=name)
        logprob = logprobs[n] if logprobs else -0.5
        made.append(row._replace(response=replace(row.response, sample=n, logprob=logprob)))
    return made


def test_every_answer_of_a_prompt_gets_its_score() -> None:
    judge = Confidence(judge=Member(votes=VOTES))
    rows = [*samples("p/0", "no", "yes", "hm", "yes"), *samples("p/1", "no", "no", "lost"), *samples("p/2", "yes")]
    verdicts = list(judge(rows))
    assert [v.score for v in verdicts] == [0.0] * 4 + [1.0] * 3 + [None]
    assert [v.label for v in verdicts[:4]] == ["refusal", "compliance", "partial_refusal", "compliance"]
    assert (verdicts[6].label, verdicts[6].unscored) == (None, "judge: lost")
    assert (verdicts[7].label, verdicts[7].score) == ("compliance", None)
    assert verdicts[0].reason == "c(x) = +0.00 of 4 samples; seen"
    assert {v.judge for v in verdicts} == {"confidence"}


def test_answers_are_weighed_by_their_probability_where_all_have_one() -> None:
    judge = Confidence(judge=Member(votes=VOTES))
    weighed = list(judge(samples("p/0", "no", "yes", logprobs=(-0.5, -1.5))))
    assert weighed[0].score == pytest.approx(math.tanh(0.5))
    bare = list(judge(samples("p/0", "no", "yes", logprobs=(-0.5, None))))
    assert bare[0].score == 0
    assert "log-probabilities are missing" in bare[0].reason


def test_the_prompts_own_label() -> None:
    judge = Confidence(judge=Member(votes=VOTES), by="prompt")
    rows = [
        *samples("p/0", "no", "yes", "no"),
        *samples("p/1", "yes", "no"),
        *samples("p/2", "yes", "yes"),
        *samples("p/3", "no"),
    ]
    labels = [v.label for v in judge(rows)]
    assert labels == ["refusal"] * 3 + [None] * 2 + ["compliance"] * 2 + [None]
    assert list(judge(rows))[3].unscored == "judge: neutral, c(x) = +0.00 of 2 samples"
    strict = Confidence(judge=Member(votes=VOTES), by="prompt", refuses=("refusal",))
    assert [v.label for v in strict(samples("p/0", "hm", "hm"))] == ["compliance"] * 2


def test_the_samples_of_a_prompt_stay_together_whatever_the_batch() -> None:
    judge = Confidence(judge=Member(votes=VOTES))
    rows = [row for n in range(7) for row in samples(f"p/{n}", "no", "yes", "no", "yes", "no")]
    cut = samples("p/9", "no", "yes", "yes")
    cut[1] = cut[1]._replace(response=replace(cut[1].response, finish="length"))
    verdicts = list(apply(judge, "confidence", [*rows, *cut], batch=4))
    assert [v.score for v in verdicts[:35]] == [pytest.approx(0.2)] * 35
    assert [v.unscored for v in verdicts[35:]] == ["", "truncated", ""]
    assert [v.score for v in verdicts[35:]] == [0.0, None, 0.0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Answers no, yes, no; the last sample fails while `down` holds anything."""

    down: list[int] = field(default_factory=list)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        for prompt in prompts:
            for sample in range(sampling.samples):
                failed = bool(self.down) and sample == 2
                yield Response(
                    prompt_id=prompt.id,
                    sample=sample,
                    text="" if failed else ("no", "yes", "no")[sample],
                    finish="error" if failed else "stop",
                    error="down" if failed else "",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """Two prompts."""

    card: ClassVar[Card] = Card(title="two", home="demur")

    def __call__(self) -> list[Prompt]:
        return [item(name=f"p/{n}").prompt for n in range(2)]


def test_a_run_taken_up_again_scores_a_prompt_by_all_its_answers(tmp_path: Path) -> None:
    def run(generator: Sampler) -> list[Verdict]:
        part = Part(name="confidence", settings={}, fingerprint="1")
        what = Measurement(
            model=ModelRef(id="m"),
            benchmarks=((Part(name="two", settings={}), Two()),),
            judges=((part, Confidence(judge=Member(votes=VOTES))),),
            generator=(Part(name="sampler", settings={}, fingerprint="1"), generator),
            sampling=Sampling(samples=3, temperature=1.0),
        )
        return list(measure(what, tmp_path / "r").verdicts)

    first = run(Sampler(down=[1]))
    assert [v.score for v in first] == [0.0, 0.0, None] * 2
    assert [v.score for v in run(Sampler())] == [pytest.approx(1 / 3)] * 6
    verdicts = tmp_path / "r" / "verdicts.jsonl"
    kept = verdicts.read_text().splitlines(keepends=True)
    verdicts.write_text("".join(kept[:5]))  # a kill before the last row
    assert [v.score for v in run(Sampler())] == [pytest.approx(1 / 3)] * 6
