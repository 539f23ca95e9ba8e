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
SOAK = 120.0
"""Seconds of load without a break at the end, over which the memory must be flat."""
NAMES = ("some", "more", "adacd")

Job = tuple[str, str, int]
"""Model, prompt, tokens."""


def interventions(model: str, folder: Path) -> list[str]:
    """Save two that steer and one of two branches, and return how the command line names them."""
    import torch

    from demur.directions import Direction
    from demur.interventions.steer import Steer
    from demur.lm import load
    from demur.methods.adacd import Adacd

    lm = load(model, device="cpu", dtype="float32")
    vectors = torch.randn(1, lm.d_model, generator=torch.Generator().manual_seed(0))
    for name, strength in zip(NAMES, (0.5, 2.0), strict=False):
        direction = Direction(vectors=vectors, layers=(lm.n_layers // 2,), model=lm.ref, estimator="random")
        Steer(direction=direction, strength=strength).save(folder / name)
    Adacd().intervention().save(folder / "adacd")
    return [f"--with={folder / name}" for name in NAMES]


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
    """Return the answer to one request, or what became of it."""
    model, text, most = job
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": most, "temperature": 0}
    try:
        link.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = link.getresponse()
        said = json.loads(reply.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        link.close()
        return f"lost: {error!r}"
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


def check(rows: Sequence[tuple[Job, str, float]], alone: dict[Job, str]) -> None:
    """Stop where a reply is lost, or is not the one that its request gets alone."""
    wrong = [(job, text) for job, text, _ in rows if text != alone[job]]
    if wrong:
        job, text = wrong[0]
        raise SystemExit(f"{len(wrong)} of {len(rows)} answers differ: {job}: {text!r}, alone {alone[job]!r}")


def run(*, model: str, rounds: int, threads: int, share: float) -> list[Row]:
    """Compare many clients with one at a time, then load the server for two minutes without a break."""
    from ours import benchmarks, prompts_of

    texts = [p.text for p in prompts_of(benchmarks(share / 8)) if not p.get("prefill")]
    names = [model, *(f"{model}+{name}" for name in NAMES)]
    jobs = [(names[n % 4], text, LENGTHS[n // 4 % 3]) for n, text in enumerate(texts)]
    rates: dict[str, list[float]] = {"one": [], "many": []}
    count = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        served(model, Path(folder), threads) as (port, pid),
        multiprocessing.get_context("spawn").Pool(PROCESSES) as pool,
    ):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        alone = {job: ask(link, job) for job in jobs}
        check(load_of(pool, port, jobs, CLIENTS, SECONDS * share / 3)[0], alone)
        for turn in range(1, rounds + 1):
            say(f"serving: round {turn} of {rounds}")
            for side, clients, span in (("one", 1, SECONDS * share / 3), ("many", CLIENTS, SECONDS * share)):
                rows, took = load_of(pool, port, jobs, clients, span)
                check(rows, alone)
                rates[side].append(len(rows) / took)
                count += len(rows)
        say(f"serving: {SOAK * share:.0f} s without a break")
        before = resident(pid)
        rows, took = load_of(pool, port, jobs, CLIENTS, SOAK * share)
        after = resident(pid)
        check(rows, alone)
    faster = ratio_row(
        rates["many"],
        rates["one"],
        what=f"serve, {CLIENTS} clients",
        against="one request at a time",
        equal=f"{count} answers",
        target=TARGET,
    )
    one, many = (statistics.median(rates[side]) for side in ("one", "many"))
    faster = replace(faster, note=f"{one:.1f} → {many:.1f} answers/s")
    cuts = statistics.quantiles([taken for _, _, taken in rows], n=20)
    waits = f"{len(rows) / took:.1f} answers/s, p50 {cuts[9]:.2f} s, p95 {cuts[18]:.2f} s"
    grown = after / before
    flat = Row(
        what=f"serve, {CLIENTS} clients for {took:.0f} s", against="memory at the start", equal=f"{len(rows)} answers",
        value=grown, low=grown, high=grown, target=FLAT, at_most=True, note=f"{before:.0f} → {after:.0f} MB; {waits}",
    )  # fmt: skip
    return [faster, flat]
