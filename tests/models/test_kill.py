"""A process killed at a random moment, the same command again: the run ends byte-equal to an undisturbed one.

The cache of answers is off here but where it is the matter: an undisturbed run would hand its answers over.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

KILLS = 5
MEASURE = ("measure", "--benchmark", "world:limit=240", "--max-new-tokens", "48", "--out")
RECIPE = """
name = "small"
[[benchmark]]
name = "world"
limit = 240
[[benchmark]]
name = "world"
attack = "all"
limit = 60
[sampling]
max_new_tokens = 48
[select]
layers = [1, 2]
strengths = [0.5, 1.0]
kinds = ["steer", "gated"]
screen_prompts = 60
judged_trials = 3
fit = ["world:split=train,limit=240"]
validation = ["world:split=validation,limit=240", "world:split=validation,attack=all,limit=60"]
"""


def start(*words: str) -> subprocess.Popen[bytes]:
    env = {"DEMUR_NO_CACHE": "1", **os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "demur.cli", *words], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(*words: str) -> float:
    begun = time.monotonic()
    process = start(*words)
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 100), errors.decode()
    return time.monotonic() - begun


def lines(folder: Path) -> int:
    return sum(p.read_bytes().count(b"\n") for p in folder.rglob("responses.jsonl"))


def kill_after(words: tuple[str, ...], folder: Path, more: int) -> None:
    """Start the command and kill it when `more` rows have been added (or let it end first)."""
    goal = lines(folder) + more
    process = start(*words)
    while process.poll() is None and lines(folder) < goal:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


def rows_of(folder: Path) -> dict[str, bytes]:
    names = ("responses.jsonl", "verdicts.jsonl")
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in names}


def test_measure_survives_five_kills(tmp_path):
    finish(*MEASURE, str(tmp_path / "whole"))
    dice = random.Random(0)
    for _ in range(KILLS):
        before = lines(tmp_path / "killed") if (tmp_path / "killed").exists() else 0
        kill_after((*MEASURE, str(tmp_path / "killed")), tmp_path / "killed", dice.randint(5, 45))
        assert lines(tmp_path / "killed") >= before
    finish(*MEASURE, str(tmp_path / "killed"))
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


def test_a_warm_cache_gives_the_same_rows_after_a_kill_and_loads_no_model(tmp_path, monkeypatch):
    monkeypatch.setenv("DEMUR_NO_CACHE", "0")
    words = (*MEASURE[:2], "world:limit=120", *MEASURE[3:])
    kill_after((*words, str(tmp_path / "killed")), tmp_path / "killed", 30)
    seconds = finish(*words, str(tmp_path / "whole"))
    finish(*words, str(tmp_path / "killed"))
    warm = finish(*words, str(tmp_path / "warm"))
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole") == rows_of(tmp_path / "warm")
    assert warm < seconds
    shown = (tmp_path / "warm" / "timings.jsonl").read_text()
    assert "from the cache" in shown
    assert '"stage": "responses"' not in shown
    code = f"import sys; sys.argv = ['demur', *{[*words, str(tmp_path / 'again')]}]\n"
    code += "from demur.cli import build\nbuild()(standalone_mode=False)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_run_survives_five_kills(tmp_path):
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    seconds = finish("run", str(recipe), "--out", str(tmp_path / "whole"))
    dice = random.Random(1)
    for _ in range(KILLS):
        process = start("run", str(recipe), "--out", str(tmp_path / "killed"))
        time.sleep(dice.uniform(0.2, 0.9) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish("run", str(recipe), "--out", str(tmp_path / "killed"))
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
