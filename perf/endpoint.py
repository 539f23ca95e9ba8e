"""The `http` generator beside plain asyncio clients, against a server of 300 ms in a process of its own."""

from __future__ import annotations

import asyncio
import importlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from peers import say
from table import Row, ratio_row

SERVER = Path(__file__).parent.parent / "tests" / "chat_server.py"
DELAY, CONCURRENCY, REQUESTS, MODEL = 0.3, 32, 640, "tiny"
SHARE = 0.9
"""Share of the plain client's throughput that the generator must reach."""

Answers = dict[str, str]


@contextmanager
def served(delay: float) -> Iterator[str]:
    """Run the server and give its address."""
    command = [sys.executable, str(SERVER), str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise SystemExit("the server has no pipes")
        yield process.stdout.readline().strip()
        process.stdin.close()


def demur_side(url: str, texts: list[str]) -> Answers:
    """Ask with the generator."""
    from demur.generators.http import Http
    from demur.types import Prompt, Sampling

    prompts = [Prompt(id=text, text=text, expected=None, source="perf") for text in texts]
    generator = Http(base_url=url, model=MODEL, concurrency=CONCURRENCY)
    return {row.prompt_id: row.text for row in generator(prompts, Sampling())}


def openai_side(url: str, texts: list[str]) -> Answers:
    """Ask with the openai client: `gather` behind a semaphore."""
    import openai

    async def run() -> Answers:
        gate = asyncio.Semaphore(CONCURRENCY)
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(text: str) -> tuple[str, str]:
                async with gate:
                    reply = await client.chat.completions.create(
                        model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=512, temperature=0.0
                    )
                return text, reply.choices[0].message.content or ""

            return dict(await asyncio.gather(*map(one, texts)))

    return asyncio.run(run())


def httpx_side(url: str, texts: list[str]) -> Answers:
    """Ask with the client beneath the openai client alone: no more than JSON out and in."""
    try:
        httpx = importlib.import_module("httpx2")
    except ImportError:
        httpx = importlib.import_module("httpx")

    async def run() -> Answers:
        gate = asyncio.Semaphore(CONCURRENCY)
        async with httpx.AsyncClient(timeout=60) as client:

            async def one(text: str) -> tuple[str, str]:
                body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 512}
                async with gate:
                    reply = await client.post(f"{url}/chat/completions", json=body)
                return text, reply.json()["choices"][0]["message"]["content"]

            return dict(await asyncio.gather(*map(one, texts)))

    return asyncio.run(run())


SIDES: dict[str, Callable[[str, list[str]], Answers]] = {
    "demur": demur_side,
    "openai": openai_side,
    "httpx": httpx_side,
}


def run(*, rounds: int, share: float) -> list[Row]:
    """Compare throughput, rounds interleaved, answers equal first; the notes say what a core does."""
    texts = [f"question {n}" for n in range(max(2 * CONCURRENCY, round(REQUESTS * share)))]
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    cpu: dict[str, list[float]] = {name: [] for name in SIDES}
    with served(DELAY) as url:
        found = {name: side(url, texts[: 2 * CONCURRENCY]) for name, side in SIDES.items()}
        if any(answers != found["demur"] for answers in found.values()):
            raise SystemExit("the clients differ in their answers")
        for turn in range(1, rounds + 1):
            say(f"http: round {turn} of {rounds}")
            for name, side in SIDES.items():
                started, used = time.perf_counter(), time.process_time()
                side(url, texts)
                taken[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
    rate = {name: len(texts) / statistics.median(taken[name]) for name in SIDES}
    core = {name: len(texts) / statistics.median(cpu[name]) for name in SIDES}
    rows = []
    for name in ("openai", "httpx"):
        row = ratio_row(
            taken[name],
            taken["demur"],
            what="http, throughput",
            against=f"plain {name}, {CONCURRENCY} at once, {1000 * DELAY:.0f} ms",
            equal=f"{2 * CONCURRENCY} answers",
            target=SHARE,
        )
        note = f"{rate['demur']:.0f} against {rate[name]:.0f} requests/s"
        note += f"; per core {core['demur']:.0f} against {core[name]:.0f}"
        rows.append(replace(row, note=note))
    return rows
