"""Mining with a real model: scores by one prefill against capture and readout apart, and a run killed on the way."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demur import world
from demur.boundary_scorer import BoundaryScorer
from demur.directions import mean_difference
from demur.errors import DataError
from demur.generators.local import Local
from demur.layers import choose_layer
from demur.readout import Openers, p_refuse
from demur.residuals import capture
from demur.screen import Screen
from demur.types import Example
from tests.models import families

pytestmark = pytest.mark.torch

LABEL = {"refuse": "refusal", "comply": "compliance"}


def examples(split: str, name: str, count: int = 240) -> list[Example]:
    rows = world.prompts(split)
    chosen = [p for p in rows if p.language in ("en", "de")][:: max(1, len(rows) // count // 2)]
    return [Example(prompt=p, split=name, label=LABEL[p.expected]) for p in chosen]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scorer() -> BoundaryScorer:
    lm = Local(model="organism").lm()
    first = {int(lm.tokenizer(t, add_special_tokens=False)["input_ids"][0]) for t in world.refusal_openers("en")}
    openers = Openers(ids=tuple(sorted(first)), agreement=1.0, n=10)
    rows = [*examples("train", "fit"), *examples("validation", "dev")]
    held = [e if e.prompt.kind != "borderline" or i % 3 else Example(prompt=e.prompt, split=e.split, label="refusal")
            for i, e in enumerate(rows)]  # fmt: skip
    return BoundaryScorer.fit(lm, held, openers, layer=2, unusable=True)


def test_one_pass_gives_what_capture_and_readout_give_apart(scorer):
    prompts = [p for p in world.prompts("validation") if p.language in ("en", "de", "zh")][::60]
    states = capture(scorer.lm, prompts, layers=[2], points=("resid_post",))[:, 0]
    mass = p_refuse(Screen(scorer.lm, prompts).logits(), scorer.openers)
    scores = scorer(prompts)
    assert [s.prompt_id for s in scores] == [p.id for p in prompts]
    assert set(scorer.axes) == {"", "en", "de"}
    for score, prompt, state, p in zip(scores, prompts, states, mass.tolist(), strict=True):
        axis, fit = scorer.axes.get(prompt.language, scorer.axes[""])
        assert score.t == pytest.approx(axis.coordinate(state[None])[0], abs=1e-4)
        assert score.d == pytest.approx((score.t - fit.t_star) / fit.tau, abs=1e-6)
        p = min(max(p, 1e-6), 1 - 1e-6)
        assert score.r == pytest.approx(math.log(p / (1 - p)), abs=1e-2)
        assert score.refused == (score.r > 0)
    json.dumps(scorer.record)


def test_the_layer_follows_the_rules_or_says_why_not(scorer):
    rows = [*examples("train", "fit", 60), *examples("validation", "dev", 60)]
    ruled = BoundaryScorer.fit(scorer.lm, rows, scorer.openers, unusable=True)
    parts = [[e for e in rows if (e.split, e.prompt.kind) == key] for key in (("fit", "harmful"), ("fit", "plain"))]
    layers = range(scorer.lm.n_layers)
    states = [capture(scorer.lm, [e.prompt for e in part], layers=layers, points=("resid_post",)) for part in parts]
    held = [[e.prompt for e in rows if (e.split, e.prompt.kind) == ("dev", k)] for k in ("harmful", "plain")]
    held = [part[:: max(1, len(part) // 64)][:64] for part in held]
    direction = mean_difference(*states, layers=tuple(layers), model=scorer.lm.ref)
    choice = choose_layer(scorer.lm, direction, *held, scorer.openers)
    assert choice.layer is None or ruled.layer == choice.layer
    assert choice.reason in ruled.why
    assert "openers" in BoundaryScorer.fit(scorer.lm, rows, None, unusable=True).why


def test_an_unusable_axis_gives_no_distance(scorer):
    strict = BoundaryScorer.fit(
        scorer.lm, [*examples("train", "fit"), *examples("validation", "dev")], scorer.openers, layer=2
    )
    score = strict([world.prompts("train")[0]])[0]
    assert score.d is None
    assert "axis unusable" in score.unscored
    with pytest.raises(DataError, match="answered plain"):
        BoundaryScorer.fit(scorer.lm, [e for e in examples("train", "fit") if e.label == "refusal"], None, layer=2)


def unfinished(folder: Path) -> str:
    """Return the stage that is under way in a mining folder, "" where none is."""
    try:
        done = json.loads((folder / "stages.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return ""
    return next((name for name, stage in done.items() if not stage["done"]), "")


def killed_in(stage: str, command: list[str], out: Path) -> str:
    """Run a command, kill it in a stage (in work that is saved on the way, once some is), and return where it stood."""
    work = {"moderate": "moderate.votes.jsonl", "score": "score.jsonl"}.get(stage)
    running = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
    while running.poll() is None:
        part = out / "parts" / work if work else None
        if unfinished(out) == stage and (part is None or (part.is_file() and part.stat().st_size)):
            os.kill(running.pid, signal.SIGKILL)
            break
        time.sleep(0.0005)
    running.wait()
    return unfinished(out)


@pytest.mark.slow
def test_killed_in_every_stage_a_run_ends_as_one_that_was_not(tmp_path: Path, mirror: Path, monkeypatch):
    monkeypatch.setenv("DEMUR_DATA", str(mirror))
    families.build("llama").save_pretrained(tmp_path / "model")
    families.tokenizer().save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "demur.cli", "mine", "or_bench:subset=80k,limit=1000", "--expected", "--json"]
    command += ["--model", str(tmp_path / "model"), "--fit", "world:split=train,limit=200", "--evaluation", "xstest"]
    command += ["--dev", "world:split=validation,limit=200", "--per-category", "20"]
    stages = ("generate", "distinct", "moderate", "score", "select")
    stood = [killed_in(stage, command, tmp_path / "killed") for stage in stages]
    for name in ("killed", "whole"):
        subprocess.run([*command, "--out", str(tmp_path / name)], check=True, stdout=subprocess.DEVNULL)
    for name in ("candidates.jsonl", "distinct.jsonl", "moderated.jsonl", "scored.jsonl", "selected.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (tmp_path / "killed" / "dropped.jsonl").read_bytes() == (tmp_path / "whole" / "dropped.jsonl").read_bytes()
    one, two = (json.loads((tmp_path / n / "card.json").read_bytes()) | {"seconds": {}} for n in ("killed", "whole"))
    assert one == two
    assert stood == list(stages)
