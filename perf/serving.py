"""`demur serve` under load: many clients against one at a time, every answer held against its answer alone.

The clients are raw HTTP in processes of their own, so that the server's process does nothing but serve.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers import say
from table import Row, ratio_row

CLIENTS, PROCESSES, TARGET, FLAT = 64, 4, 4.0, 1.05
LENGTHS = (8, 24, 48)
SECONDS = 30.0
"""Of load in each round; a round of one at a time takes a third of it."""

Job = tuple[str, str, int]
"""Model, prompt, tokens."""


def interventions(model: str, folder: Path) -> list[str]:
    """Save two interventions and return how the command line names them."""
    import torch

    from demur.directions import Direction
    from demur.interventions.steer import Steer
    from demur.lm import load

    lm = load(model, device="cpu", dtype="float32")
    vectors = torch.randn(1, lm.d_model, generator=torch.Generator().manual_seed(0))
    for name, strength in (("some", 0.5), ("more", 2.0)):
        direction = Direction(vectors=vectors, layers=(lm.n_layers // 2,), model=lm.ref, estimator="random")
        Steer(direction=direction, strength=strength).save(folder / name)
    return [f"--with={folder / name}" for name in ("some", "more")]


@contextmanager
def served(model: str, folder: Path, threads: int) -> Iterator[tuple[int, int]]:
    """Run the server; give its port and its process."""
    command = [sys.executable, "-m", "demur.cli", "serve", model, "--port", "0", "--no-boundary", "--rows", "64"]
    command += interventions(model, folder)
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        if process.stdout is None:
            raise SystemExit("the server has no output")
        found = next((m for line in process.stdout if (m := re.search(r":(\d+)/v1", line))), None)
        if found is None:
            raise SystemExit("the server did not start")
        try:
            yield int(found[1]), process.pid
        finally:
            process.terminate()


def ask(link: http.client.HTTPConnection, job: Job) -> str:
    """Return the answer to one request."""
    model, text, most = job
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": most, "temperature": 0}
    link.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = link.getresponse()
    said = json.loads(reply.read())
    return str(said["choices"][0]["message"]["content"]) if reply.status == 200 else f"status {reply.status}"


def client(port: int, jobs: Sequence[Job], first: int, until: float, out: list[tuple[Job, str, float]]) -> None:
    """Ask for one job after the other until the time is over."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    n = first
    while time.monotonic() < until:
        job = jobs[n % len(jobs)]
        started = time.monotonic()
        out.append((job, ask(link, job), time.monotonic() - started))
        n += 7
    link.close()


def process_of(port: int, jobs: Sequence[Job], firsts: Sequence[int], seconds: float) -> list[tuple[Job, str, float]]:
    """Run some clients at once in this process."""
    out: list[tuple[Job, str, float]] = []
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=client, args=(port, jobs, first, until, out)) for first in firsts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def load_of(pool: Any, port: int, jobs: Sequence[Job], clients: int, seconds: float) -> tuple[list[Any], float]:
    """Return (job, answer, seconds) of every request, and how long all took."""
    count = min(PROCESSES, clients)
    firsts = [list(range(p, clients, count)) for p in range(count)]
    started = time.monotonic()
    parts = pool.starmap(process_of, [(port, jobs, own, seconds) for own in firsts])
    return [row for part in parts for row in part], time.monotonic() - started


def resident(pid: int) -> float:
    """Return the memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(*, model: str, rounds: int, threads: int, share: float) -> list[Row]:
    """Compare many clients with one at a time; stop where an answer differs from the one given alone."""
    from ours import benchmarks, prompts_of

    texts = [p.text for p in prompts_of(benchmarks(share / 8)) if not p.get("prefill")]
    names = [model, f"{model}+some", f"{model}+more"]
    jobs = [(names[n % 3], text, LENGTHS[n // 3 % 3]) for n, text in enumerate(texts)]
    seconds = SECONDS * share
    rates: dict[str, list[float]] = {"one": [], "many": []}
    waits: list[float] = []
    memory: list[float] = []
    count = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        served(model, Path(folder), threads) as (port, pid),
        multiprocessing.get_context("spawn").Pool(PROCESSES) as pool,
    ):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        alone = {job: ask(link, job) for job in jobs}
        load_of(pool, port, jobs, CLIENTS, seconds / 3)
        for turn in range(1, rounds + 1):
            say(f"serving: round {turn} of {rounds}")
            for side, clients, span in (("one", 1, seconds / 3), ("many", CLIENTS, seconds)):
                rows, took = load_of(pool, port, jobs, clients, span)
                wrong = [job for job, text, _ in rows if text != alone[job]]
                if wrong:
                    raise SystemExit(f"{len(wrong)} of {len(rows)} answers differ from those given alone: {wrong[0]}")
                rates[side].append(len(rows) / took)
                if side == "many":
                    waits += [taken for _, _, taken in rows]
                    memory.append(resident(pid))
                count += len(rows)
    cuts = statistics.quantiles(waits, n=20)
    row = ratio_row(
        rates["many"],
        rates["one"],
        what=f"serve, {CLIENTS} clients",
        against="one request at a time",
        equal=f"{count} answers",
        target=TARGET,
    )
    rate = statistics.median(rates["many"])
    row = replace(row, note=f"{rate:.0f} answers/s, p50 {cuts[9]:.2f} s, p95 {cuts[18]:.2f} s")
    grown = [value / memory[0] for value in memory]
    flat = Row(
        what="serve, memory at the end", against="after the first round", equal="", value=grown[-1], low=min(grown),
        high=max(grown), target=FLAT, at_most=True, note=f"{memory[0]:.0f} → {memory[-1]:.0f} MB",
    )  # fmt: skip
    return [row, flat]
