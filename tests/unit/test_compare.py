"""Many runs compared: every pair tested, p-values corrected, one plane, and the page that says so."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from demur import paired, stats
from demur.comparison import compare_loaded, load_runs
from demur.metrics import Outcome
from demur.pairwise import contrasts, grid, unsafe
from demur.records import RunFolder
from demur.types import Prompt
from tests.unit import floor_runs
from tests.unit.command_line import demur


def test_exchanging_groups_is_mcnemar_where_every_group_is_one_row() -> None:
    for gains, losses in ((0, 0), (1, 0), (5, 5), (10, 2), (40, 61), (3, 30)):
        totals = np.array([1] * gains + [-1] * losses + [0] * 7)
        assert paired.sign_flip(totals) == pytest.approx(stats.mcnemar(gains, losses), abs=1e-12)


def test_exchanging_groups_counts_every_assignment_of_signs() -> None:
    for totals in ([3, -1, 2, 0, 1], [2, 2, 2, -4], [5], [1, -3, 3, 3, 1, 1, 2]):
        seen = abs(sum(totals))
        flips = [sum(s * d for s, d in zip(signs, totals, strict=True)) for signs in _signs(len(totals))]
        share = sum(abs(t) >= seen for t in flips) / len(flips)
        assert paired.sign_flip(totals) == pytest.approx(share)


def _signs(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product((1, -1), repeat=n))


def test_holm_steps_down_and_never_falls() -> None:
    # smallest first: 3 x .01, 2 x .03, 1 x .04, the last raised to the one before it
    assert paired.holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert paired.holm([0.9, 0.8]) == [1.0, 1.0]
    assert paired.holm([]) == []


def test_the_corrected_test_keeps_its_level_where_nothing_differs() -> None:
    draw = np.random.default_rng(0)
    prompts = [Prompt(id=f"p{i}", text="q", expected="comply", source="s", group=f"g{i // 3}") for i in range(60)]
    wrong = 0
    for _ in range(20):
        item = draw.random(20).repeat(3)  # rows of one group are alike
        runs = []
        for _ in range(3):
            group = (draw.random(20) < 0.5).repeat(3)
            runs.append([_outcome(p, bool(g) == (c < 0.9)) for p, g, c in zip(prompts, group, item, strict=True)])
        found = contrasts(grid(runs))
        wrong += any((c.p_holm or 1) <= 0.05 for c in found if c.slice == "all")
    assert wrong <= 3  # of 20: more has a chance below 2 % at the nominal level


def _outcome(prompt: Prompt, good: bool, state: str = "") -> Outcome:
    right = "compliance" if prompt.expected == "comply" else "refusal"
    wrong = "refusal" if right == "compliance" else "compliance"
    return Outcome(prompt=prompt, state=state or (right if good else wrong))


def test_differences_slices_and_newly_unsafe_prompts_by_hand() -> None:
    languages = ("en", "en", "de", "de")
    asks = [
        Prompt(id=f"a{i}", text="q", expected="comply", source="s", language=spoken)
        for i, spoken in enumerate(languages)
    ]
    harm = Prompt(id="h", text="q", expected="refuse", source="s")
    one = [_outcome(p, i < 1) for i, p in enumerate(asks)] + [_outcome(harm, True)]
    two = [_outcome(p, i < 3) for i, p in enumerate(asks)] + [_outcome(harm, False)]
    three = [_outcome(asks[0], True, "unscored"), *one[1:4]]  # the harmful row is missing
    rows = grid([one, two, three])
    found = {(c.one, c.other, c.rate, c.slice): c for c in contrasts(rows)}
    answered = found[0, 1, "answered_rate", "all"]
    assert (answered.n, answered.gains, answered.losses, answered.value) == (4, 2, 0, 0.5)
    assert answered.p == pytest.approx(0.5)
    assert found[0, 1, "answered_rate", "language=de"].value == 0.5
    assert found[0, 2, "answered_rate", "all"].losses == 1, "an unjudged row is a loss of the later run"
    assert found[0, 2, "held_rate", "all"].losses == 1, "and so is a missing one"
    assert len([c for c in found.values() if c.slice == "all"]) == 6
    ids, complied = unsafe(rows)
    assert ids == ["h"]
    assert complied[:, 0].tolist() == [False, True, False]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    prompts = floor_runs.prompts(12)
    for name, lost in (("base", 0), ("careless", 5), ("loose", 9)):
        floor_runs.write(folder / name, prompts, lost=lost)
    return folder


def test_prompts_that_are_the_same_are_read_once(runs: Path) -> None:
    first, second = load_runs([runs / "base", runs / "loose"])
    assert second.prompts is first.prompts
    assert RunFolder.load(runs / "loose").prompts == first.prompts


def test_three_reports_say_the_same_and_hide_what_is_harmful(runs: Path) -> None:
    done = demur("compare", "base", "careless", "loose", "--out", "c", cwd=runs)
    assert done.returncode == 100, done.stderr
    assert "held: 1 of 3 pairs of runs differ" in done.stdout
    record = json.loads((runs / "c" / "compare.json").read_text())
    page, plain = (runs / "c" / "compare.html").read_text(), (runs / "c" / "compare.md").read_text()
    whole = [c for c in record["contrasts"] if c["slice"] == "all" and c["rate"] == "held_rate"]
    assert [(c["one"], c["other"], c["losses"]) for c in whole] == [(0, 1, 10), (0, 2, 18), (1, 2, 8)]
    assert [0, 2, 18] in record["newly_unsafe"]
    assert "Turn the dial" not in plain
    assert "| 2 | 10 | handmade/harm-0, handmade/attack-0," in plain
    for text in (page, plain):
        assert "2 − 1" in text
        assert "Holm" in text
    outside = re.sub(r'<details class="answers harmful">.*?</details>', "", page, flags=re.DOTALL)
    assert "Turn the dial" in page
    assert "Turn the dial" not in outside
    assert "newly unsafe in 2, 3" in outside
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert page.count("<svg") == 1


def test_runs_of_one_name_are_told_apart_by_their_folders(runs: Path) -> None:
    for name in ("one", "other"):
        floor_runs.write(runs / name / "after", floor_runs.prompts(12))
    said = demur("compare", "base", "one/after", "other/after", cwd=runs).stdout
    assert "one/after" in said.splitlines()[2]
    assert "other/after" in said.splitlines()[2]


def test_many_runs_stand_one_below_the_other(runs: Path) -> None:
    names = ("base", "careless", "loose", "base", "careless")
    assert "handmade" not in demur("compare", *names, cwd=runs).stdout
    loaded = load_runs([runs / name for name in names])
    made, _ = compare_loaded(loaded, names)
    assert len([c for c in made.contrasts if c.slice == "all"]) == 20
    same = [c for c in made.contrasts if (c.one, c.other) == (0, 3)]
    assert {(c.value, c.p) for c in same} == {(0.0, 1.0)}


@pytest.mark.slow
def test_twenty_runs_of_ten_thousand_answers_take_twenty_seconds_of_one_core(tmp_path: Path) -> None:
    prompts = floor_runs.prompts(3334)
    names = [f"r{i}" for i in range(20)]
    for i, name in enumerate(names):
        floor_runs.write(tmp_path / name, prompts, lost=40 * i)
    started = time.process_time()
    done = demur("compare", *names, "--out", "c", cwd=tmp_path)
    took = time.process_time() - started
    assert done.returncode == 100
    assert took < 20, f"{took:.1f} s"
