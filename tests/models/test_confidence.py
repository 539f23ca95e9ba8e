"""Refusal confidence: the formula by hand, sampled answers through a judge, and drift of given answers."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from demur.confidence import Asking, confidence, confidences
from demur.decoding import decode
from demur.directions import Direction
from demur.drift import drift, mean_logprobs
from demur.errors import DataError
from demur.interventions.steer import Steer
from demur.types import ModelRef, Prompt, Sampling, Verdict
from tests.models import families

pytestmark = pytest.mark.torch

PROMPTS = [Prompt(id=f"p{i}", text=f"question {i}", expected="comply", source="t") for i in range(3)]


@dataclass(frozen=True)
class Alternating:
    """Calls even samples refusals, odd ones answers, and cannot read a sample of its choice."""

    blind: int = -1
    questions: ClassVar[tuple[str, ...]] = ("refusal",)

    def __call__(self, items):
        for prompt, response in items:
            known = response.sample != self.blind
            label = ("refusal", "compliance")[response.sample % 2] if known else None
            yield Verdict(
                prompt_id=prompt.id,
                sample=response.sample,
                judge="a",
                question="refusal",
                label=label,
                unscored="" if known else "could not be read",
            )


def test_the_formula():
    assert confidence([1, 1, 1], [-0.1, -2.0, -9.0]) == pytest.approx(1.0)
    assert confidence([1, -1, -1, 1, -1], [-0.5] * 5) == pytest.approx(-0.2)
    assert confidence([1, None, -1], [-0.5, -0.1, -0.5]) == pytest.approx(0.0)
    assert confidence([None], [-0.5]) is None
    a, b = math.exp(-1.0 / 0.5), math.exp(-2.0 / 0.5)
    assert confidence([1, -1], [-1.0, -2.0], 0.5) == pytest.approx((a - b) / (a + b))


def test_sampled_answers_are_weighed_by_their_likelihood():
    lm = families.brief()
    asking = Asking(judge=Alternating(blind=2), samples=4, max_new_tokens=64, seed=3)
    found = confidences(lm, PROMPTS, asking)
    drawn = decode(lm, PROMPTS, Sampling(samples=4, temperature=1.0, max_new_tokens=64, seed=3))
    s = {(r.prompt_id, r.sample): r.logprob for r in drawn}
    for prompt in PROMPTS:
        weight = [math.exp(s[prompt.id, k]) for k in range(4)]
        wanted = (weight[0] - weight[1] - weight[3]) / (weight[0] + weight[1] + weight[3])
        assert found[prompt.id] == pytest.approx(wanted)


def test_prompts_of_which_no_answer_can_be_read_have_no_confidence():
    for lm, blind in ((families.brief(), 0), (families.lm("llama"), -1)):  # unreadable, and cut short
        found = confidences(lm, PROMPTS, Asking(judge=Alternating(blind=blind), samples=1, max_new_tokens=8))
        assert set(found.values()) == {None}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_drift_is_the_change_of_the_models_own_log_probabilities(family):
    lm = families.lm(family)
    answers = ["so it is", "no", "a longer answer"]
    vectors = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    steer = Steer(
        direction=Direction(vectors=vectors, layers=(1,), model=ModelRef(id="t"), estimator="t"), strength=2.0
    )
    before, after = (mean_logprobs(lm, PROMPTS, answers, what) for what in (None, steer))
    for prompt, answer, found in zip(PROMPTS, answers, before, strict=True):
        head, tail = lm.encode(prompt).ids, lm.chats.bare(answer)
        with torch.no_grad():
            logits = lm.module(torch.tensor([[*head, *tail]])).logits[0].double().log_softmax(-1)
        rows = [float(logits[len(head) - 1 + i, token]) for i, token in enumerate(tail)]
        assert found == pytest.approx(sum(rows) / len(rows), abs=1e-5)
    gap = [abs(a - b) for a, b in zip(after, before, strict=True)]
    assert drift(before, after) == pytest.approx(sum(gap) / 3)
    assert min(gap) > 0
    assert drift(before, mean_logprobs(lm, PROMPTS, answers, replace(steer, strength=0.0))) == 0


def test_drift_needs_answers():
    with pytest.raises(DataError, match="a text as answer to each prompt"):
        mean_logprobs(families.lm("llama"), PROMPTS, ["so", "", "no"])
