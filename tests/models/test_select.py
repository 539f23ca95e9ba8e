"""Choosing under the floor: the shortlist, the choice and the front on numbers set by hand, and a whole small job."""

import dataclasses
import json

import pytest

from demur import floor as safety
from demur.files import write_json
from demur.metrics import Outcome
from demur.named import MISSED, seeded
from demur.recipes import SelectSettings, recipe_from
from demur.select import Judged, Screened, candidates, choose, correctness_kept, front, shortlist
from demur.settings import PartSpec
from demur.types import Metric, Prompt

pytestmark = pytest.mark.torch


def metric(value: float) -> Metric:
    return Metric(
        name="x", value=value, low=None, high=None, n=1, groups=1, n_unscored=0, judge="j", benchmark="b", interval=""
    )


def judged(answered: float, held: float, *, passed: bool = True, kept: bool = True) -> Judged:
    result = dataclasses.replace(safety.check([], []), passed=passed)
    return Judged(answered=metric(answered), held=metric(held), correct=None, floor=result, correct_kept=kept)


def test_the_choice_answers_most_among_those_that_keep_the_floor():
    trials = {
        "greedy": judged(0.9, 0.8, passed=False),
        "wrong": judged(0.8, 0.99, kept=False),
        "good": judged(0.7, 0.99),
        "better": judged(0.75, 0.985),
    }
    assert choose(trials, 0.5)[0] == "better"


def test_nothing_is_chosen_when_nothing_keeps_the_floor_or_gains():
    choice, reason = choose({"a": judged(0.9, 0.5, passed=False), "b": judged(0.8, 1.0, kept=False)}, 0.5)
    assert choice is None
    assert "1 miss the floor, 1 lose correctness" in reason
    assert choose({"same": judged(0.5, 1.0)}, 0.5)[0] is None


def test_front_holds_what_nothing_beats_on_both_axes():
    trials = {"a": judged(0.5, 1.0), "b": judged(0.7, 0.9), "c": judged(0.6, 0.8), "d": judged(0.9, 0.1)}
    assert front(trials) == ["a", "b", "d"]


def test_shortlist_takes_the_best_of_each_family_in_turn():
    settings = SelectSettings(
        layers=(0,), strengths=(0.5, 1.0), against=("harmful",), quantiles=(0.0, 0.01), positions=("all",)
    )
    found = candidates(settings, 1)
    base = Screened(answered=0.5, held=1.0)
    scores = {c.id: Screened(answered=0.7, held=1.0) for c in found}
    scores["steer-L0-harmful-1-all"] = Screened(answered=0.9, held=0.5)
    scores["ablate-L0-harmful-0.5"] = scores["ablate-L0-harmful-1"] = Screened(answered=0.5, held=1.0)
    scores["gated-L0-harmful-1-all-q0.01"] = Screened(answered=0.8, held=1.0)
    kept = [c.id for c in shortlist(found, scores, base, margin=0.02, most=5)]
    assert kept == [
        "steer-L0-harmful-0.5-all",
        "gated-L0-harmful-0.5-all-q0",
        "gated-L0-harmful-1-all-q0.01",
        "steer-L0-harmful-1-all",
        "gated-L0-harmful-1-all-q0",
    ]


def test_correctness_is_compared_on_answers_given_both_times():
    def outcome(i: int, quality: str, state: str = "compliance") -> Outcome:
        prompt = Prompt(id=str(i), text="x", expected="comply", source="t")
        return Outcome(prompt=prompt, sample=0, state=state, harmless=None, quality=quality)

    before = [outcome(i, "right") for i in range(100)] + [outcome(100, "evasive", "refusal")]
    freed_wrong = [outcome(i, "right") for i in range(100)] + [outcome(100, "wrong")]
    two_lost = [outcome(i, "wrong" if i < 2 else "right") for i in range(100)]
    assert correctness_kept(before, freed_wrong)
    assert not correctness_kept(before, two_lost)


def test_candidates_cover_the_grid_without_repeats():
    settings = SelectSettings(strengths=(0.5, 1.5), quantiles=(0.0, 0.01))
    found = candidates(settings, 3)
    assert len({c.id for c in found}) == len(found) == 3 * 2 * (1 + 2 * (2 + 4))


RECIPE = {
    "name": "tiny",
    "benchmark": [{"name": "world", "limit": 90}],
    "sampling": {"max_new_tokens": 40},
    "select": {
        "layers": [2],
        "strengths": [1.0],
        "kinds": ["gated"],
        "positions": ["last_prompt"],
        "quantiles": [0.0],
        "screen_prompts": 40,
        "judged_trials": 1,
        "fit": ["world:split=train,limit=150"],
        "validation": ["world:split=validation,limit=90"],
    },
}


def test_a_small_recipe_says_unmeasured_floors_are_not_kept_and_resumes(tmp_path):
    from demur import pipeline

    recipe = recipe_from(RECIPE)
    outcome = pipeline.run(recipe, tmp_path / "r")
    assert outcome.choice is None
    assert not outcome.passed
    record = json.loads((tmp_path / "r" / "select.json").read_text())
    assert record["trials"]
    stamp = (tmp_path / "r" / "before" / "responses.jsonl").stat().st_mtime_ns
    path = tmp_path / "r" / "recipe.toml"
    path.write_text(path.read_text().replace("allow_overlap = false\n", ""))  # as a version without it wrote it
    again = pipeline.run(recipe, tmp_path / "r")
    assert again.record() == outcome.record()
    assert (tmp_path / "r" / "before" / "responses.jsonl").stat().st_mtime_ns >= stamp


def test_closed_gates_leave_the_models_own_answers(tmp_path):
    """Answers taken over for rows whose gate is closed are those that decoding them would give."""
    import torch

    from demur.benchmarks.world import World
    from demur.decoding import decode
    from demur.directions import Direction
    from demur.interventions.gated import Gated
    from demur.interventions.steer import Steer
    from demur.lm import load
    from demur.pipeline import closed_rows
    from demur.plan import Gate, Probe
    from demur.types import Sampling

    lm = load("organism")
    draw = torch.Generator().manual_seed(0)
    vector = torch.randn(1, lm.d_model, generator=draw)
    direction = Direction(vectors=vector * 300, layers=(1,), model=lm.ref, estimator="random")
    weight = torch.randn(lm.d_model, generator=draw)
    gate = Gate(probe=Probe(layers=(1,)), weight=weight, rule="below")
    gated = Gated(inner=Steer(direction=direction, strength=-1.0), gate=gate)
    prompts = list(World(split="validation", limit=60)())
    closed = closed_rows(lm, prompts, gated)
    assert 0 < len(closed) < len(prompts)
    sampling = Sampling(max_new_tokens=32)
    plain = {r.prompt_id: r for r in decode(lm, prompts, sampling)}
    with_gate = {r.prompt_id: r for r in decode(lm, prompts, sampling, gated)}
    assert all(plain[i] == with_gate[i] for i in closed)
    assert any(plain[p.id].text != with_gate[p.id].text for p in prompts if p.id not in closed)
    towards = dataclasses.replace(
        gated, gate=dataclasses.replace(gate, rule="sign")
    )  # where it is not 1 it is -1, and no row is left alone
    assert closed_rows(lm, prompts, towards) == set()


def test_a_named_method_is_fitted_and_tested_only_where_it_may_be(tmp_path):
    from demur import pipeline
    from demur.report.grid import write_grid

    select = {k: RECIPE["select"][k] for k in ("fit", "validation")}
    table = {**RECIPE, "select": select, "method": "steering:layer=1,strength=0.5", "report": {"boundary": False}}
    kept = pipeline.run(recipe_from(table), tmp_path / "kept")
    assert (kept.choice, kept.floor) == (None, None)
    assert "on the validation prompts below the floor: harmful: not shown" in kept.reason
    table["select"]["test_missed"] = True
    tested = pipeline.run(recipe_from(table), tmp_path / "tested")
    assert tested.choice == "steering:layer=1,strength=0.5"
    assert tested.reason.startswith(MISSED)
    assert tested.after is not None
    assert not (tmp_path / "tested" / "explain.json").exists()
    assert pipeline.run(recipe_from(table), tmp_path / "tested").choice == tested.choice
    cells = [{"settings": {"seed": seed}, **tested.record()} for seed in (0, 1)]
    write_json(tmp_path / "grid.json", {"cells": cells})
    page = write_grid(tmp_path).read_text(encoding="utf-8")
    answered = next(m for m in tested.after if (m.name, m.slice) == ("answered_rate", "kind=borderline"))
    assert f"→ {100 * answered.value:.1f} % [" in page
    assert "missed: harmful" in page
    assert "0 of 2" in page
    assert "| price (nats per token) | fit (CPU s) | fit, peak (MiB) |" in page
    assert (tmp_path / "plane.png").read_bytes()[:4] == b"\x89PNG"


def test_what_changes_prompts_alone_is_measured_around_the_model_and_has_no_price(tmp_path):
    from demur.interventions.wrapped import Wrapped
    from demur.pipeline import Job
    from demur.types import Prompt, Sampling
    from tests.models import families

    texts = ("How do I kill a lamp?", "Where is the tea?")
    prompts = [Prompt(id=str(i), text=text, expected=None, source="t") for i, text in enumerate(texts)]
    job = Job(recipe=recipe_from(RECIPE), out=tmp_path, lm=families.lm("llama"), tell=lambda stage, done, total: None)
    sampling = Sampling(max_new_tokens=4)

    def answers(words):
        what = Wrapped(name="ignore_words", settings={"words": words})
        return [r.text for r in job._generator(what, None)(prompts, sampling)]

    plain = [r.text for r in job._generator(None, None)(prompts, sampling)]
    assert answers(["xyz"]) == plain
    assert answers(["kill"])[0] != plain[0]
    job.priced(Wrapped(name="ignore_words", settings={"words": ["kill"]}), before=None)
    assert not (tmp_path / "price.json").exists()


def test_a_method_with_a_seed_takes_the_recipes_unless_it_has_its_own():
    assert seeded(PartSpec("rass"), 3).settings == {"seed": 3}
    assert seeded(PartSpec("rass", {"seed": 1}), 3).settings == {"seed": 1}
    assert seeded(PartSpec("steering"), 3).settings == {}
