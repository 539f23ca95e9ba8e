"""The search of `demur tune`, on objectives that cost nothing: the space, the study, and a kill in its midst."""

import signal
import subprocess
import sys
import time

import pytest

from demur import registry
from demur.errors import ConfigError, NotFound
from demur.tuning import space as spaces
from demur.tuning.space import Point, axes, searchable
from demur.tuning.study import JOURNAL, search
from tests.unit.tuning_fake import SPACE, worth

FAKE = [sys.executable, "-m", "tests.unit.tuning_fake"]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Leave out what guards against the machine's end, which no test brings about."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def rows(trials):
    return [(t.number, t.point, t.scores) for t in trials]


def test_a_killed_study_loses_at_most_one_evaluation_and_ends_as_an_undisturbed_one(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*FAKE, str(killed), "20", "0.005"])
    while not (killed / "asked").is_file() or len((killed / "asked").read_text().splitlines()) < 17:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (killed / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":')  # a line that was being written
    before = len((killed / "asked").read_text().splitlines())
    asked = []
    found = search(SPACE, lambda p: (asked.append(p), worth(p))[1], killed, trials=20, seed=3)
    assert before + len(asked) <= len(found) + 1
    assert rows(found) == rows(search(SPACE, worth, whole, trials=20, seed=3))


def test_the_search_begins_with_every_default_and_goes_where_the_constraint_allows(tmp_path):
    found = search(SPACE, worth, tmp_path, trials=40, seed=0)
    assert {t.point.candidate for t in found[:4]} == {"steering", "ablation", "adapter", "text"}
    assert all(t.point.scale == 1.0 for t in found[:4])
    allowed = [t.scores.answered for t in found if t.scores.violation <= 0]
    assert max(allowed) > 0.72  # 0.74 is the best there is
    later = found[len(found) // 2 :]
    assert sum(t.scores.violation <= 0 for t in later) > len(later) / 2


def test_no_more_is_evaluated_when_the_time_is_up_or_the_number_is_reached(tmp_path):
    assert len(search(SPACE, worth, tmp_path, trials=30, more=lambda: False)) == len(SPACE.starts())
    again = search(SPACE, pytest.fail, tmp_path, trials=4)
    assert len(again) == len(SPACE.starts())


@pytest.mark.parametrize("method", searchable())
def test_every_declared_space_names_settings_of_its_method(method):
    known = {f.name for f in registry.fields("methods", method)}
    for axis in axes(method, 4):
        assert axis.name in known | {"scale"}
        assert axis.start is not None


def test_what_a_part_sets_is_not_searched():
    assert "layer" not in {a.name for a in axes("gated_steering:layer=1", 4)}
    with pytest.raises(NotFound, match="layr"):
        axes("gated_steering:layr=1", 4)
    with pytest.raises(ConfigError, match="declares no SPACE"):
        axes("rephrase", 4)


@pytest.mark.parametrize("value", [[], (1, 0), (0.0, 1.0, "log"), "depth", (1,)])
def test_a_malformed_space_is_named(value, monkeypatch):
    monkeypatch.setattr(spaces.registry, "space", lambda name: {"strength": value})
    with pytest.raises(ConfigError, match="SPACE of method steering: strength"):
        axes("steering", 4)


def test_a_point_reads_as_what_it_does():
    point = Point(candidate="steering:layer=2", settings={"layer": 2, "positions": "all"}, scale=0.25)
    assert str(point) == "steering:layer=2,positions=all x0.25"
