"""Two workers under Ray, one of them killed at its work: the rows of the single process, none lost or doubled."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demur import engines
from demur.assemble import measurement
from demur.errors import ModelError
from demur.measure import measure
from demur.types import Sampling

pytestmark = [
    pytest.mark.slow,  # Ray takes about ten seconds to start
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

JUDGE = Path(__file__).parent.parent / "parts" / "marking_judge.py"


def listening() -> list[str]:
    """Where this process and its children listen, as `ss` names it."""
    said = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[3] for line in said if "ray" in line or "gcs_server" in line or f"pid={os.getpid()}," in line]


def run(folder: Path, judge: str, over: Any = None, generator: str = "fake:refuse_borderline=0.5") -> list[bytes]:
    what = measurement(
        benchmarks=["world:limit=120"], judges=[judge], generator=generator, sampling=Sampling(max_new_tokens=24)
    )
    measure(what, folder, over=over)
    return [(folder / f"{name}.jsonl").read_bytes() for name in ("prompts", "responses", "verdicts")]


class Killer(threading.Thread):
    """Kills the first worker that has marked some items, once; calls something before."""

    def __init__(self, folder: Path, first: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.folder, self.first, self.killed = folder, first, 0

    def run(self) -> None:
        while not self.killed:
            for mark in self.folder.iterdir():
                if int(mark.name) != os.getpid() and len(mark.read_text().splitlines()) >= 20:
                    self.first()
                    os.kill(int(mark.name), signal.SIGKILL)
                    self.killed = int(mark.name)
                    return
            time.sleep(0.01)


@pytest.fixture(scope="module")
def over() -> Iterator[Any]:
    with engines.opened("ray:workers=2,block=8") as made:
        yield made


def test_a_worker_killed_in_the_middle_changes_no_row(over: Any, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    judge, heard = f"{JUDGE}:folder={marks},rounds=20000", list[str]()
    killer = Killer(marks, lambda: heard.extend(listening()))
    killer.start()
    there = run(tmp_path / "there", judge, over)
    killer.join(timeout=10)
    worked = {int(mark.name): mark.read_text().split() for mark in marks.iterdir()}
    assert killer.killed in worked
    assert len(worked) >= 2
    assert sum(map(len, worked.values())) > 120  # what the killed worker had in hand was done again
    assert heard
    assert all("127.0.0.1" in address for address in heard), heard
    alone = run(tmp_path / "here", judge)
    assert there == alone
    assert len(there[2].splitlines()) == len(set(there[2].splitlines())) == 120


def test_a_local_model_answers_as_in_one_process(over: Any, tmp_path: Path) -> None:
    there = run(tmp_path / "there", "oracle", over, "local")
    assert there == run(tmp_path / "here", "oracle", None, "local")


def dies(block: list[int]) -> int:
    if 3 in block:
        os.kill(os.getpid(), signal.SIGKILL)
    return sum(block)


def test_a_block_that_kills_its_worker_ends_the_run(over: Any) -> None:
    with engines.opened("ray:workers=1,retries=1") as again:
        assert again is not None
        with pytest.raises(ModelError, match="could not be done"):
            list(again(dies, [[1], [2], [3], [4]]))
