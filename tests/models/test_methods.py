"""Every method: fits a two-layer random model in seconds, and gives an intervention that saves, loads, describes."""

import dataclasses
import sys

import pytest
import torch

from demur import registry
from demur.errors import ConfigError, DataError
from demur.interventions import load
from demur.interventions.wrapped import Wrapped
from demur.methods._contrast import GROUPS, Contrast
from demur.methods._trigger_spans import Spans
from demur.settings import PartSpec, build
from demur.types import Example, FitData, Prompt
from tests.models import families
from tests.models.adapters import same_elsewhere

pytestmark = pytest.mark.torch


def data(each: int = 12) -> FitData:
    rows = []
    for name, (kind, label) in GROUPS.items():
        for split in ("fit", "dev"):
            for i in range(each):
                expected = "refuse" if kind == "harmful" else "comply"
                text = f"{name} question {i} of the {split} split"
                own = {"expected": expected, "kind": kind, "category": f"c{i % 3}"}
                prompt = Prompt(id=f"{name}/{split}/{i}", text=text, source="t", **own)
                answer = "no" if label == "refusal" else "so"
                rows.append(Example(prompt=prompt, split=split, label=label, answer=answer, rejected="no"))
    return FitData(examples=tuple(rows))


SHORT = {"max_new_tokens": 8, "checkpoints": 1, "weaker": (), "rate": 1e-2}
STEPS = {"layers": (1,), "steps": 2, "max_new_tokens": 8, "checkpoints": 1, "rate": 1e-2}
REROUTED = {**STEPS, "erase": 2, "retain": 2}
TRAINED = {
    **dict.fromkeys(("rass", "sft", "dpo", "stl", "stl_aug", "trigger_matched"), SHORT),
    "actor": {"steps": 2, "rounds": 2, "batch": 6, "max_new_tokens": 8, "rate": 1e-2},
    "dcr": {**SHORT, "steps": 2, "refine_batch": 4},
    "circuit_breakers": REROUTED,
    "mosr": REROUTED,
    "x_boundary": {**REROUTED, "boundary": 1},
    "repbend": {**STEPS, "each": 2},
}
"""Methods that train, with settings that make them short."""
UNFITTED = {
    "adacd": {},
    "selfcd": {},
    "system_prompt": {"texts": ("short",)},
    "rephrase": {"always": (False,)},
}
"""Methods that look at no data and have no layer, with settings that leave nothing to choose."""
OWN_LAYERS = {
    "alphasteer": {"layers": (1,), "shares": (0.5,), "strengths": (1.0,)},
    "cast": {"layers": (1,), "thresholds": ("f1",), "strengths": (1.0,)},
    "category_directions": {"layer": 1, "strengths": (1.0,), "quantiles": (0.1,), "least": 2},
    "abliterate": {},
    "refusal_direction": {"layers": (1,)},
    "refusal_steering": {"samples": 0, "max_new_tokens": 4, "judged": 1, "k": (1,), "alphas": (-0.5,)},
    "scans": {"layers": (1,), "max_new_tokens": 4, "judged": 1, "strengths": (0.2,)},
    "surgical": {"layers": (1,), "max_new_tokens": 4, "judged": 1},
    "ignore_words": {"most": (3,)},
}
"""Methods that name layers in their own way, or none, with settings that leave nothing to choose."""
ON_ANSWERS = ("dpo", "sft", "stl")
"""Methods that train on answers as they stand, without a layer."""
NO_LAYER = ("abliterate", "ignore_words", "refusal_steering", *ON_ANSWERS)
FITTED = [name for name in registry.names("methods") if name not in UNFITTED]
SEARCHED = ("refusal_direction", "refusal_steering", "scans", "surgical")
FITS = [
    (n, f)
    for n in registry.names("methods")
    for f in families.FAMILIES
    if n not in (*TRAINED, *SEARCHED) or f in ("llama", "gpt2")
]
"""Every method on every family; those that train or search on two: what differs is tested with their parts."""


def settings(name: str) -> dict:
    layer = {} if name in ON_ANSWERS or "layers" in TRAINED.get(name, {}) else {"layer": 1}
    return {**UNFITTED, **OWN_LAYERS}.get(name, {**layer, **TRAINED.get(name, {})})


@pytest.mark.parametrize(("name", "family"), FITS)
def test_fit_saves_loads_and_describes_itself_equally(name, family, tmp_path, monkeypatch):
    lm = families.lm(family)
    if name == "ignore_words":
        pytest.skip("a random model refuses nothing that leaving a word out could free: it has a test of its own")
    monkeypatch.setattr(Spans, "of", lambda *given, **settings: Spans(by_language={"en": frozenset({"question"})}))
    fitted = build("methods", PartSpec(name, settings(name))).fit(lm, data())
    fitted.save(tmp_path / "it")
    again = load(tmp_path / "it")
    assert again.describe() == fitted.describe()
    assert again.fingerprint() == fitted.fingerprint()
    if not isinstance(fitted, Wrapped):
        assert again.plan(lm).fingerprint == fitted.plan(lm).fingerprint
    if name in TRAINED and family == "llama":
        same_elsewhere(lm, again, tmp_path / "it")


@pytest.mark.parametrize("name", registry.names("methods"))
def test_settings_as_read_from_the_source_are_the_fields_of_the_class(name):
    cls = registry.find("methods", name)
    read, made = registry.fields("methods", name), dataclasses.fields(cls)
    assert [(f.name, f.type) for f in read] == [(f.name, f.type) for f in made]
    assert [eval(f.default, vars(sys.modules[cls.__module__])) for f in read] == [f.default for f in made]


@pytest.mark.parametrize("name", UNFITTED)
def test_what_a_method_says_it_looks_at_is_all_it_needs(name):
    lm, given, splits = families.lm("llama"), data(), registry.reads(name, settings(name))
    part = FitData(examples=tuple(e for e in given.examples if e.split in splits))
    method = build("methods", PartSpec(name, settings(name)))
    assert len(part.examples) < len(given.examples)
    assert method.fit(lm, part).fingerprint() == method.fit(lm, given).fingerprint()


@pytest.mark.parametrize("name", [name for name in FITTED if name not in ("dpo", "sft")])
def test_fit_says_which_prompts_are_missing(name):
    few = FitData(examples=tuple(e for e in data().examples if e.prompt.kind != "plain"))
    with pytest.raises(DataError, match="plain/fit/compliance"):
        build("methods", PartSpec(name, settings(name))).fit(families.lm("llama"), few)


@pytest.mark.parametrize("name", [name for name in FITTED if name not in NO_LAYER])
def test_layer_out_of_range_is_refused(name):
    wrong = {k: (7,) if k == "layers" else 7 for k in settings(name) if k in ("layer", "layers")}
    method = build("methods", PartSpec(name, {**settings(name), **wrong}))
    with pytest.raises(ConfigError, match="layers 0 to 1"):
        method.fit(families.lm("llama"), data())


def test_direction_is_the_difference_of_the_groups_means():
    lm = families.lm("llama")
    contrast = Contrast.of(lm, data())
    harmful, plain = contrast.group("refused_harmful"), contrast.group("answered_plain")
    wanted = harmful.double().mean(0) - plain.double().mean(0)
    torch.testing.assert_close(contrast.direction("harmful").vectors.double(), wanted, rtol=1e-5, atol=1e-6)


def test_gate_opens_for_about_its_share_of_unseen_harmful_prompts():
    contrast = Contrast.of(families.lm("llama"), data(each=200))
    states = contrast.at(1, "refused_harmful", split="dev")
    for quantile in (0.0, 0.1, 0.3):
        share = contrast.gate(1, quantile).opens(states).float().mean()
        assert share == pytest.approx(quantile, abs=0.011)


def test_gate_tells_a_planted_difference_apart():
    contrast = Contrast.of(families.lm("llama"), data(each=60))
    for (group, _), states in contrast.states.items():
        if group == "refused_borderline":
            states[:, 1, 3] += 5.0
    gate = contrast.gate(1, 0.0)
    opened = gate.opens(contrast.at(1, "refused_borderline", split="dev")).float().mean()
    assert opened > 0.95
