"""Refusal Steering, Surgical, SCANS and the refusal direction, against their definitions written out by hand."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from demur.confidence import SAYS
from demur.decoding import first_token_logits
from demur.directions import Direction
from demur.errors import ConfigError, DataError
from demur.interventions.ablate import Ablate
from demur.interventions.reposition import Reposition
from demur.interventions.signed_steer import SignedSteer
from demur.interventions.steer import Steer
from demur.methods import _post_instruction, _scored, _trials
from demur.methods._scored import Scored
from demur.methods.refusal_direction import RefusalDirection
from demur.methods.refusal_steering import RefusalSteering
from demur.methods.scans import Scans
from demur.methods.surgical import Surgical
from demur.plan import Gate, Probe
from demur.readout import Openers
from demur.residuals import capture
from demur.types import ModelRef, Prompt, Verdict
from tests.models import families
from tests.models.test_methods import data

pytestmark = pytest.mark.torch


@dataclass(frozen=True)
class Length:
    """Calls answers with an even number of letters refusals."""

    questions: ClassVar[tuple[str, ...]] = ("refusal",)

    def __call__(self, items):
        for prompt, response in items:
            label = "refusal" if len(response.text) % 2 == 0 else "compliance"
            yield Verdict(prompt_id=prompt.id, sample=response.sample, judge="length", question="refusal", label=label)


def judged(each=12, out=None):
    """Examples whose refusals begin with another letter than their answers."""
    rows = [replace(e, answer="no" if e.label == "refusal" else "so") for e in data(each).examples]
    return replace(data(each), examples=tuple(rows), judge=Length(), out=out)


def least(record, name):
    """The name of the setting that was measured lowest."""
    return min(record["tried"], key=lambda n: record["tried"][n][name])


def prompts(found, kind, split, label):
    return [e.prompt for e in found.of(kind, split, label=label)]


def last_states(lm, rows, point="resid_pre"):
    """The last prompt token's states by hand, one prompt at a time, through transformers' own output."""
    made = []
    for prompt in rows:
        with torch.no_grad():
            hidden = lm.module(torch.tensor([lm.encode(prompt).ids]), output_hidden_states=True).hidden_states
        made.append(torch.stack([h[0, -1] for h in hidden[:-1]]).double())
    return torch.stack(made)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_the_refusal_direction_is_the_mean_difference_of_a_second_computation(family, tmp_path):
    lm, rows = families.lm(family), judged(out=tmp_path)
    fitted = RefusalDirection(layers=(1,), train=99).fit(lm, rows)
    assert isinstance(fitted, Ablate)
    harmful, plain = prompts(rows, "harmful", "fit", "refusal"), prompts(rows, "plain", "fit", "compliance")
    found = {
        d.position: d
        for d in _post_instruction.candidates(
            lm,
            _post_instruction.means(lm, harmful, (0, 1)) - _post_instruction.means(lm, plain, (0, 1)),
            (0, 1),
            "",
            "",
        )
        if d.layers == (1,)
    }
    wanted = (last_states(lm, harmful).mean(0) - last_states(lm, plain).mean(0))[1]
    cosine = torch.nn.functional.cosine_similarity(found["post_instruction[-1]"].vectors[0].double(), wanted, dim=0)
    assert cosine > 0.9999
    record = json.loads((tmp_path / "choice.json").read_text())
    torch.testing.assert_close(fitted.direction.vectors, found[record["chosen"].split()[-1]].vectors)


def test_candidates_stand_at_every_token_after_the_message():
    lm, rows = families.lm("llama"), prompts(judged(), "plain", "fit", "compliance")
    means = _post_instruction.means(lm, rows, (0, 1))
    encoded = [lm.encode(p) for p in rows]
    assert len(means) == len(encoded[0].ids) - encoded[0].instruction > 1
    for back in range(1, len(means) + 1):
        by_hand = torch.stack([capture(lm, [e.ids[: len(e.ids) - back + 1]], points="resid_pre")[0] for e in encoded])
        torch.testing.assert_close(means[-back], by_hand.double().mean(0), rtol=1e-4, atol=1e-5)


def test_prompts_without_a_template_have_their_last_token_as_the_only_place():
    lm = families.lm("gpt2", "none")
    assert len(_post_instruction.means(lm, prompts(judged(), "plain", "fit", "compliance"), (0, 1))) == 1


def test_the_choice_of_the_refusal_direction_follows_its_filters(tmp_path):
    lm, rows = families.lm("llama"), judged(out=tmp_path)
    RefusalDirection(layers=(0, 1), most_kl=1e9, least_induced=-1e9).fit(lm, rows)
    record = json.loads((tmp_path / "choice.json").read_text())
    assert record["chosen"] == least(record, "refusal")
    assert "lowest refusal" in record["why"]
    RefusalDirection(layers=(0, 1), most_kl=-1.0).fit(lm, rows)
    record = json.loads((tmp_path / "choice.json").read_text())
    assert record["chosen"] == least(record, "kl")
    assert "NONE" in record["why"]


def test_subtracting_the_direction_acts_before_its_own_block_alone():
    lm, rows = families.lm("llama"), judged()
    fitted = RefusalDirection(layers=(1,), mode="addition").fit(lm, rows)
    assert isinstance(fitted, Steer)
    assert (fitted.point, fitted.direction.layers, fitted.strength) == ("resid_pre", (1,), -1.0)


def test_the_refusal_score_is_the_log_odds_of_the_openers():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    found = _post_instruction.refusal_score(logits, Openers(ids=(0, 2), agreement=1.0, n=1))
    p = torch.softmax(logits, -1)
    torch.testing.assert_close(found.float(), torch.log((p[:, 0] + p[:, 2]) / p[:, 1]))


def test_surgical_ablates_what_borderline_refusals_have_beside_true_ones(tmp_path):
    lm, rows = families.lm("llama"), judged(out=tmp_path)
    fitted = Surgical(layers=(1,), train=99, judged=1, max_new_tokens=4, most_kl=1e9).fit(lm, rows)
    harmful, borderline, plain = (
        _post_instruction.means(lm, prompts(rows, kind, "fit", label), (1,))
        for kind, label in (("harmful", "refusal"), ("borderline", "refusal"), ("plain", "compliance"))
    )
    record = json.loads((tmp_path / "choice.json").read_text())
    position = int(record["chosen"].split("[")[1].rstrip("]"))
    r, w = (harmful - plain)[position, 0].numpy(), (borderline - plain)[position, 0].numpy()
    np.testing.assert_allclose(fitted.direction.vectors[0], w - (w @ r) / (r @ r) * r, atol=1e-5)
    assert abs(fitted.direction.vectors[0].double() @ torch.from_numpy(r)) < 1e-4 * np.linalg.norm(r)
    assert record["chosen"] == least(record, "refusal")


def test_scans_adds_towards_refusal_at_or_above_the_threshold_and_away_below_it():
    lm, rows = families.lm("llama"), judged(out=None)
    fitted = Scans(layers=(1,), judged=1, max_new_tokens=4).fit(lm, rows)
    assert isinstance(fitted, SignedSteer)
    harmful = prompts(rows, "harmful", "fit", "refusal")
    plain = prompts(rows, "plain", "fit", "compliance")
    high, low = (capture(lm, p, layers=[1])[:, 0].double() for p in (harmful, plain))
    v = torch.nn.functional.normalize(high.mean(0) - low.mean(0), dim=0) * torch.cat([high, low]).norm(dim=-1).mean()
    torch.testing.assert_close(fitted.direction.vectors[0].double(), v, rtol=1e-4, atol=1e-5)
    cued = [(*lm.encode(p).ids, *lm.chats.bare("Sure")) for p in harmful]
    ends = capture(lm, [lm.encode(p).ids for p in harmful], layers=[1])
    moves = (ends - capture(lm, cued, layers=[1]))[:, 0].double()
    torch.testing.assert_close(fitted.gate.weight[0].double(), moves.mean(0), rtol=1e-4, atol=1e-4)
    one = plain[0]
    own = capture(lm, [lm.encode(one).ids], layers=[1]) - capture(
        lm, [(*lm.encode(one).ids, *lm.chats.bare("Sure"))], layers=[1]
    )
    score = float(torch.nn.functional.cosine_similarity(own[0, 0].double(), moves.mean(0), dim=0))
    for threshold, sign in ((score - 0.01, 1), (score + 0.01, -1)):
        scans = replace(fitted, gate=replace(fitted.gate, threshold=threshold), strength=0.5)
        steer = Steer(direction=fitted.direction, strength=0.5 * sign, positions="from_instruction_end")
        torch.testing.assert_close(first_token_logits(lm, [one], scans), first_token_logits(lm, [one], steer))


def test_reposition_sets_the_projection_and_leaves_the_rest():
    lm, one = families.lm("llama"), prompts(judged(), "plain", "fit", "compliance")[:1]
    draw = torch.Generator().manual_seed(2)
    v, o = (torch.randn(1, 32, generator=draw) for _ in range(2))
    ref = ModelRef(id="t")
    what = Reposition(
        direction=Direction(vectors=v, layers=(0,), model=ref, estimator="t"),
        origin=Direction(vectors=o, layers=(0,), model=ref, estimator="t"),
        strength=-0.5,
    )
    before, after = capture(lm, one, layers=[0])[0, 0], None
    from demur.lm import attach

    with attach(lm, what):
        after = capture(lm, one, layers=[0])[0, 0]
    u = v[0] / v[0].norm()
    torch.testing.assert_close(after, before - ((before - o[0]) @ u) * u - 0.5 * v[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="one state for each layer"):
        replace(what, origin=Direction(vectors=o, layers=(1,), model=ref, estimator="t"))


def scored():
    """Three layers: the first follows the score, the second its opposite, the third is noise."""
    draw = torch.Generator().manual_seed(4)
    c = torch.tensor([-1.0, -0.6, -0.2, 0.05, 0.4, 1.0], dtype=torch.float64)
    states = torch.stack([c * 3, c * -2, torch.randn(6, generator=draw)], 1)[..., None].float()
    asked = tuple(Prompt(id=str(i), text="?", expected="comply", source="t") for i in range(6))
    return Scored(prompts=asked, scores=c, states=states, neutral=0.15, sha="")


def test_layers_are_scored_by_correlation_less_wrong_signs_and_scaled_by_quantiles():
    held = scored()
    one = torch.ones(3, 1, dtype=torch.float64)
    found = _scored.layers(held, one, torch.zeros(3, 1), centred=False)
    c, p = held.scores.numpy(), held.states[:, :, 0].double().numpy()
    assert found.scores[0] == pytest.approx(1.0)
    assert found.scores[1] == pytest.approx(-1.0 - np.sqrt((c**2).mean()))
    wrong = np.where(np.sign(p[:, 2]) != np.sign(c), c, 0.0)
    assert found.scores[2] == pytest.approx(np.corrcoef(p[:, 2], c)[0, 1] - np.sqrt((wrong**2).mean()))
    assert found.up[0] == pytest.approx(3.0)
    assert found.up[1] == pytest.approx(abs(np.quantile(p[c > 0, 1], 0.95) / np.quantile(c[c > 0], 0.95)))
    assert found.down[0] == pytest.approx(3.0)
    assert found.down[1] == pytest.approx(abs(np.quantile(p[c < 0, 1], 0.05) / np.quantile(c[c < 0], 0.05)))
    assert found.ranked()[0] == 0


def test_the_scale_is_one_where_there_is_nothing_to_make_it_of():
    held = replace(scored(), scores=scored().scores.abs())
    found = _scored.layers(held, torch.ones(3, 1, dtype=torch.float64), torch.zeros(3, 1), centred=False)
    assert found.down == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("estimator", ["md", "wrmd"])
def test_refusal_steering_adds_scaled_vectors_at_the_best_layers(estimator, tmp_path):
    lm, rows = families.lm("llama"), judged(out=tmp_path)
    method = RefusalSteering(
        estimator=estimator, samples=0, k=(2,), alphas=(-0.5,), forms=("additive",), judged=1, max_new_tokens=4
    )
    fitted = method.fit(lm, rows)
    assert isinstance(fitted, Steer)
    assert fitted.strength == -0.5
    assert fitted.direction.layers == (0, 1)
    benign = [e for e in rows.examples if e.split == "fit" and e.prompt.kind in ("plain", "borderline")]
    said = torch.tensor([SAYS[e.label] for e in benign])
    states = capture(lm, [e.prompt for e in benign]).double()
    high, low = states[said > 0], states[said < 0]
    record = json.loads((tmp_path / "choice.json").read_text())
    for layer in range(2):
        gap = high[:, layer].mean(0) - low[:, layer].mean(0)
        if estimator == "wrmd":
            s = torch.from_numpy(np.cov(low[:, layer].numpy().T, bias=True))
            gap = torch.linalg.inv(s + 0.01 * torch.eye(32)) @ gap
        wanted = gap / gap.norm() * record["layers"][layer]["down"]
        torch.testing.assert_close(fitted.direction.vectors[layer].double(), wanted, rtol=1e-3, atol=1e-4)


def test_refusal_steering_samples_and_judges_for_itself(tmp_path):
    lm, rows = families.brief(), judged(each=8, out=tmp_path)
    method = RefusalSteering(
        samples=3, k=(1,), alphas=(-0.5, -2.0), judged=2, max_new_tokens=64, prompts=24, neutral=0.01, orthogonal=1.0
    )
    method.fit(lm, rows)
    record = json.loads((tmp_path / "choice.json").read_text())
    assert len(record["tried"]) == 4
    assert {t["form"] for t in record["tried"].values()} == {"additive", "reposition"}
    assert all(t["drift"] > 0 for t in record["tried"].values())
    assert record["prompts"]["fit"]["refused"] > 1
    assert "floor" in record["why"]


def test_refusal_steering_says_when_nothing_is_refused():
    rows = judged()
    answered = tuple(replace(e, label="compliance") for e in rows.examples if e.prompt.kind != "harmful")
    with pytest.raises(DataError, match="0 benign prompts of the fit split are surely refused"):
        RefusalSteering(samples=0).fit(families.lm("llama"), replace(rows, examples=answered))


def test_of_settings_under_the_floor_the_one_of_least_drift_that_removes_nearly_the_most_is_taken(monkeypatch):
    from demur.methods import refusal_steering

    falls = {"a": 1.0, "b": 0.95, "c": 0.5, "d": 3.0}
    score = {"floor": True, "answered": 0.9, "answered_before": 0.5, "held": 1.0}
    trials = [
        _trials.Trial(name=n, what=n, facts={"drift": d}, score={**score, "floor": n != "d"})
        for n, d in (("a", 0.3), ("b", 0.2), ("c", 0.1), ("d", 0.0))
    ]
    monkeypatch.setattr(refusal_steering, "_removal", lambda lm, rows, asking, what: falls[what])
    method = RefusalSteering()
    chosen, why = method._choose(families.lm("llama"), scored(), trials, None)
    assert chosen.name == "b"
    assert "least drift of the 2 of 3 settings" in why
    below = [replace(t, score={**score, "floor": False, "verdict": "below the floor"}) for t in trials]
    assert "NO setting answers more" in method._choose(families.lm("llama"), scored(), below, None)[1]


def test_screened_trials_come_by_what_they_hold_then_by_what_they_answer():
    base = {"screen_answered": 0.2, "screen_held": 1.0, "screen_attacked": 0.9}

    def trial(name, answered, held, attacked):
        facts = {"screen_answered": answered, "screen_held": held, "screen_attacked": attacked}
        return _trials.Trial(name=name, what=None, facts=facts)

    rows = [trial("loses", 1.0, 0.9, 0.9), trial("some", 0.5, 0.99, 0.9), trial("more", 0.8, 1.0, 0.89)]
    assert [t.name for t in _trials.shortlist(rows, base, 2)] == ["more", "some"]


def test_a_signed_gate_is_needed():
    gate = Gate(probe=Probe(layers=(0,)), weight=torch.ones(32), rule="above")
    direction = Direction(vectors=torch.ones(1, 32), layers=(0,), model=ModelRef(id="t"), estimator="t")
    with pytest.raises(ConfigError, match="it must be sign"):
        SignedSteer(direction=direction, gate=gate)
