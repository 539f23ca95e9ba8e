"""`demur tune` on the embedded model: a whole small search, another point of the list, and a kill in its midst."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from demur import floor as safety
from demur.directions import Direction
from demur.errors import ConfigError, DataError
from demur.interventions import load
from demur.interventions.gated import Gated
from demur.interventions.instruct import Instruct
from demur.interventions.reposition import Reposition
from demur.interventions.stack import Stack
from demur.interventions.steer import Steer
from demur.interventions.wrapped import Wrapped
from demur.plan import Gate, Probe
from demur.records import RunFolder
from demur.tuning import job, judging
from demur.tuning.fits import check_fitted, scaled
from demur.tuning.judging import Kept, compared, misses
from demur.tuning.result import chosen
from demur.tuning.settings import Tuning, fitted_of
from demur.types import ModelRef
from tests.models.families import lm
from tests.models.test_interventions import adapter

pytestmark = pytest.mark.torch

SMALL = Tuning(
    methods=("gated_steering:layer=2,positions=last_prompt", "steering:layer=2"),
    fit=("world:split=train,limit=120",),
    dev=("world:split=validation,limit=60", "world:split=validation,attack=all,limit=15"),
    test=("world:limit=30", "world:attack=all,limit=15"),
    instructed_dev=("world:split=validation,system=restrict,limit=20",),
    instructed_test=("world:system=restrict,limit=20",),
    trials=4,
    judged=2,
    calibrated=2,
    screened=40,
    max_new_tokens=40,
)


def direction(width: int = 128) -> Direction:
    vectors = torch.nn.functional.normalize(torch.randn(1, width, generator=torch.Generator().manual_seed(0)), dim=-1)
    return Direction(vectors=vectors, layers=(2,), model=ModelRef(id="m"), estimator="test", data_sha="")


def test_a_small_search_is_checked_on_unseen_prompts_goes_on_and_gives_another_point(tmp_path, monkeypatch):
    """Too few prompts to show the floor, so that nothing is chosen; then the constraints are waived to see the rest."""
    out, adapter = tmp_path / "t", tmp_path / "adapter"
    Steer(direction=direction(), strength=0.05).save(adapter)
    what = replace(SMALL, candidates=(str(adapter),))
    monkeypatch.setattr(job, "worth_judging", lambda trials, *rest: list(trials[:2]))
    found = job.tune(what, out)
    assert found.choice is None
    assert not found.passed
    assert all(any(m.startswith("floor") for m in j.misses) for j in found.judged)
    first, *others = [j.trial for j in found.judged]
    assert others  # all that may yet be chosen is judged, less of a strength that missed among it
    weaker = [
        t
        for t in found.trials
        if (t.point.candidate, t.point.settings) == (first.point.candidate, first.point.settings)
    ]
    assert min(t.point.scale for t in weaker) < first.point.scale
    assert {t.point.candidate for t in found.trials} >= {*what.methods, "adapter"}
    assert found.calibration.n == 2
    assert found.calibration.judged_seconds

    monkeypatch.setattr(judging, "misses", lambda *args: [])
    monkeypatch.setattr(job, "best", lambda judged, base: sorted(judged, key=lambda j: -j.answered))
    asked = []
    monkeypatch.setattr(job.Screening, "__call__", lambda self, what: asked.append(what))
    again = job.tune(what, out, choose=1)
    assert not asked  # the search is not begun again for another point
    assert again.choice is not None
    record = json.loads((out / "tune.json").read_text())
    test, shown = record["test"], RunFolder.load(out / "after")
    assert shown.spec.intervention.fingerprint == load(out / "intervention").fingerprint()
    assert record["optimism"]["answered"] == pytest.approx(again.choice.answered - test["answered"])
    gain = (again.choice.answered - record["base_answered"]) - (test["answered"] - test["answered_before"])
    assert record["optimism"]["gained"] == pytest.approx(gain)
    assert not again.passed  # the floor is not waived on the unseen prompts
    other = job.tune(what, out, choose=2)
    assert other.choice.trial.id != again.choice.trial.id
    assert len(other.record["tested"]) == 2
    with pytest.raises(ConfigError, match=f"the list has {len(other.pareto)} points"):
        chosen(other.pareto, other.judged, len(other.pareto) + 1)
    with pytest.raises(ConfigError, match="seed was 0, here 1"):
        job.tune(replace(what, seed=1), out)
    rows = json.loads((out / "select.json").read_text())
    assert rows["choice"] in {t["id"] for t in rows["trials"]}


@pytest.mark.slow
def test_a_killed_search_ends_as_an_undisturbed_one(tmp_path):
    words = ["--method", "gated_steering:layer=2", "--trials", "8", "--judged", "2", "--calibrated", "2"]
    words += ["--screened", "40", "--max-new-tokens", "40"]
    for name in ("fit", "dev", "test", "instructed_dev", "instructed_test"):
        words += [w for part in getattr(SMALL, name) for w in (f"--{name.replace('_', '-')}", part)]

    def start(out):
        command = [sys.executable, "-m", "demur.cli", "tune", "organism", *words, "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def screened(out):
        path = out / "study.journal"
        return path.read_text().count('"user_attr"') if path.is_file() else 0

    process = start(tmp_path / "killed")
    while process.poll() is None and screened(tmp_path / "killed") < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = screened(tmp_path / "killed")
    for name in ("killed", "whole"):
        process = start(tmp_path / name)
        errors = process.communicate(timeout=600)[1]
        assert process.returncode in (0, 100), errors.decode()
    assert 3 <= before < 8
    records = [json.loads((tmp_path / name / "tune.json").read_text()) for name in ("killed", "whole")]
    for record in records:
        for row in (*record["judged"], *record["pareto"]):
            del row["seconds"]
        for name in ("seconds", "cpu_seconds", "calibration"):
            del record[name]
    assert records[0] == records[1]


def test_a_scale_multiplies_what_has_a_strength_through_gates_and_stacks():
    steer = Steer(direction=direction(), strength=-2.0)
    gate = Gate(probe=Probe(layers=(2,)), weight=torch.ones(128), rule="below")
    assert scaled(Gated(inner=steer, gate=gate), 0.5).inner.strength == -1.0
    assert [p.strength for p in scaled(Stack(parts=(steer, steer)), 0.25).parts] == [-0.5, -0.5]
    noted = replace(adapter(lm("llama"), 0.6), note="checkpoint 3 at strength 0.6")
    assert scaled(noted, 0.5).note == "checkpoint 3 at strength 0.6; 0.5 times that strength"
    for fixed in (Instruct(text="Be kind."), Reposition(direction=direction(), origin=direction())):
        with pytest.raises(ConfigError, match="no strength"):
            scaled(fixed, 0.5)


def test_candidates_that_cannot_take_part_are_named_before_anything_is_measured(tmp_path):
    with pytest.raises(DataError, match="no intervention in"):
        fitted_of([str(tmp_path)])
    Wrapped(name="rephrase").save(tmp_path / "w")
    with pytest.raises(ConfigError, match="changes prompts alone"):
        fitted_of([str(tmp_path / "w")])
    for run in ("one", "two"):
        Steer(direction=direction()).save(tmp_path / run / "intervention")
    names = [f.name for f in fitted_of([str(tmp_path / run / "intervention") for run in ("one", "two")])]
    assert names == ["one", "two"]
    with pytest.raises(ConfigError, match="two candidates are called 'one'"):
        fitted_of([str(tmp_path / "one" / "intervention")] * 2)
    with pytest.raises(ConfigError, match="does not fit"):
        check_fitted(lm("llama"), fitted_of([str(tmp_path / "one" / "intervention")]))
    with pytest.raises(ConfigError, match="margin is 2"):
        Tuning(margin=2)


def test_the_screen_is_worth_its_rank_correlation():
    """Ranks 1 2 3 4 against 1 3 2 4: Spearman 1 - 6 * 2 / 60 = .8."""
    pairs = zip((0.1, 0.2, 0.3, 0.4), (0.5, 0.7, 0.6, 0.8), strict=True)
    rows = [
        {"screen": [s, 0.9], "judged": [j, 0.85], "price": 0.0, "seconds": 1.0, "judged_seconds": 4.0, "prompts": 40}
        for s, j in pairs
    ]
    found = compared(rows)
    assert found.spearman_answered == pytest.approx(0.8)
    assert found.spearman_held is None  # one side is constant
    assert found.error == pytest.approx(0.05)
    assert found.slope == 0
    assert found.seconds_a_prompt == pytest.approx(0.1)
    assert compared([]).spearman_answered is None
    for row in rows:  # what the screen overrates is twice the price
        row["price"] = row["screen"][0] ** 2
        row["judged"][0] = row["screen"][0] - 2 * row["price"]
    found = compared(rows)
    assert found.slope == pytest.approx(2.0)
    assert found.spearman_corrected == pytest.approx(1.0)


def test_every_constraint_that_is_missed_is_named():
    kept = Kept(before=0.8, after=0.77, share=0.9625, n=100, gains=1, losses=4)
    none = Kept(before=0.0, after=0.0, share=None, n=100, gains=0, losses=0)
    shown, missed = (replace(safety.check([], []), passed=passed) for passed in (True, False))
    assert misses(SMALL, shown, True, kept, {"arc acc": -0.015}) == []
    assert misses(SMALL, shown, True, none, {}) == []  # nothing to keep
    found = misses(SMALL, missed, False, replace(kept, share=0.94), {"arc acc": -0.031, "arc acc_norm": 0.0})
    assert [m.split(":")[0] for m in found] == [
        "floor", "answers are less often right by more than 1 points", "instructed refusals", "capability"
    ]  # fmt: skip
    assert "harmful, twins, attacked" in found[0]
    assert "arc acc falls by 3.1 points" in found[-1]
    assert misses(SMALL, shown, True, replace(none, n=0), {}) == [
        "instructed refusals: not measured, at least 95 % are asked for"
    ]
