"""Generation, steering, `demur measure` and memory: the parts that run in demur's own environment."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from peers import say
from table import Row, ratio_row

from models import OUT, SHAPES, make_model

GENERATE_BATCHES = (32, 64, 128)
"""The opponent runs at whichever of these is fastest for it."""
NEW_TOKENS = 64
PROFILE = (("world:limit={}", 384), ("world:attack=all,limit={}", 64), ("world:system=neutral,limit={}", 64))
"""Benchmarks and prompts of each: short and long prompts, prefilled ones, short refusals and longer answers."""
FASTER, OVERHEAD, FLAT = 1.2, 1.05, 1.05
MANY, SETTLED = 100_000, 20_000
"""Prompts of the memory run, and after how many of them the memory must be as high as it gets."""


def benchmarks(share: float) -> list[str]:
    """Return the parts of the mixed length profile."""
    return [text.format(max(8, round(count * share))) for text, count in PROFILE]


def prompts_of(parts: Iterable[str]) -> list[Any]:
    """Return the prompts of benchmark parts."""
    from demur.settings import build, parse_part

    return list(itertools.chain.from_iterable(build("benchmarks", parse_part(part))() for part in parts))


def generator(lm: Any, prompts: list[Any], batch: int) -> Callable[[], dict[str, tuple[str, int]]]:
    """Return the opponent: `model.generate`, sorted by length, left-padded, on token ids made beforehand."""
    import torch
    from contender import padded

    encoded = lm.encode_all(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(encoded[i].ids))
    stops = sorted(lm.stops)

    def answers() -> dict[str, tuple[str, int]]:
        found = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs = padded([list(encoded[i].ids) for i in chosen], "left")
            with torch.no_grad():
                out = lm.module.generate(
                    **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=stops, pad_token_id=stops[0]
                )
            for i, row in zip(chosen, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((k for k, token in enumerate(row) if token in stops), None)
                written = row if end is None else row[:end]
                whole = [*encoded[i].ids[encoded[i].prompt :], *written]
                text = lm.tokenizer.decode(whole, skip_special_tokens=True)
                found[prompts[i].id] = (text, len(written) + (end is not None))
        return found

    return answers


def decoder(lm: Any, prompts: list[Any], plan: Any = None) -> Callable[[], dict[str, tuple[str, int]]]:
    """Return our side: `demur.decoding.decode`, rendering and tokenising included."""
    from demur.decoding import decode
    from demur.types import Sampling

    sampling = Sampling(max_new_tokens=NEW_TOKENS)
    return lambda: {r.prompt_id: (r.text, r.n_tokens) for r in decode(lm, prompts, sampling, plan)}


def faint_steering(lm: Any, *, gated: bool) -> Any:
    """Return a plan that steers too faintly to change an answer, so that both sides write the same tokens."""
    import torch

    from demur.plan import Gate, Plan, Probe, Site

    vector = torch.nn.functional.normalize(torch.ones(lm.d_model), dim=0)
    middle = lm.n_layers // 2
    gates = (Gate(probe=Probe(layers=(middle,)), weight=vector),) if gated else ()
    site = Site(op="add", layers=(middle,), point="resid_post", vector="v", strength=1e-5, gate=0 if gated else None)
    return Plan(sites=(site,), gates=gates, tensors={"v": vector})


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alike(sides: dict[str, Callable[[], dict[str, tuple[str, int]]]]) -> str:
    """Run every side once and stop unless all give the same answers; return what was compared."""
    found = {name: side() for name, side in sides.items()}
    wanted = found["decode"]
    for name, answers in found.items():
        other = [key for key in wanted if answers.get(key) != wanted[key]]
        if other:
            raise SystemExit(f"{name} and decode differ on {len(other)} of {len(wanted)} prompts, first {other[0]}")
    tokens = [count for _, count in wanted.values()]
    return f"{len(wanted)} answers, {min(tokens)}-{max(tokens)} tokens"


def generation(model: str, *, rounds: int, share: float) -> list[Row]:
    """Compare the decode loop with `generate`, and steered decoding with plain."""
    from demur.lm import load

    lm = load(model, device="cpu", dtype="float32")
    prompts = prompts_of(benchmarks(share))
    batch = min(GENERATE_BATCHES, key=lambda size: seconds_of(generator(lm, prompts, size)))
    say(f"generation: {len(prompts)} prompts; generate is fastest in batches of {batch}")
    sides = {
        "decode": decoder(lm, prompts),
        "generate": generator(lm, prompts, batch),
        "steered": decoder(lm, prompts, faint_steering(lm, gated=False)),
        "gated": decoder(lm, prompts, faint_steering(lm, gated=True)),
    }
    equal = alike(sides)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1, rounds + 1):
        say(f"generation: round {turn} of {rounds}")
        for name, side in sides.items():
            taken[name].append(seconds_of(side))
    plain = taken["decode"]
    shared = {"equal": equal, "target": OVERHEAD, "at_most": True, "against": "plain decode"}
    return [
        ratio_row(
            taken["generate"],
            plain,
            what=f"generation, {model}",
            against=f"generate, sorted, batches of {batch}",
            equal=equal,
            target=FASTER,
        ),
        ratio_row(taken["steered"], plain, what="steered decode, time", **shared),
        ratio_row(taken["gated"], plain, what="gated decode, time", **shared | {"target": None}),
    ]


def measuring(model: str, *, rounds: int, threads: int, share: float) -> list[Row]:
    """Time `demur measure` as a user runs it: a new process, loading, judging and the report included.

    Once with an empty cache, and once more with the cache that holds every answer.
    """
    command = [str(Path(sys.executable).with_name("demur")), "measure", "--model", model, "--json"]
    command += ["--max-new-tokens", str(NEW_TOKENS)]
    command += list(itertools.chain.from_iterable(("--benchmark", part) for part in benchmarks(4 * share)))
    rates: dict[str, list[float]] = {"new": [], "known": []}
    for turn in range(1, rounds + 1):
        say(f"measure: round {turn} of {rounds}")
        with tempfile.TemporaryDirectory() as folder:
            env = os.environ | {"OMP_NUM_THREADS": str(threads), "DEMUR_CACHE": f"{folder}/cache"}
            for name, found in rates.items():
                started = time.perf_counter()
                subprocess.run([*command, "--out", f"{folder}/{name}"], check=True, stdout=subprocess.DEVNULL, env=env)
                took = time.perf_counter() - started
                with (Path(folder) / name / "responses.jsonl").open(encoding="utf-8") as lines:
                    found.append(sum(1 for _ in lines) / took)
            answers = [(Path(folder) / name / "responses.jsonl").read_bytes() for name in rates]
        if answers[0] != answers[1]:
            raise SystemExit("the answers from the cache are others")
    ones, what = [1.0] * rounds, f"demur measure, {model}"
    return [
        ratio_row(rates["new"], ones, what=what, against="end to end", equal="", unit=" answers/s"),
        ratio_row(
            rates["known"], rates["new"], what=f"{what}, from the cache", against="answered anew", equal="answers"
        ),
    ]


def memory(threads: int, share: float) -> Row:
    """Return how the peak memory at the end compares with that after `SETTLED` prompts."""
    model = make_model(SHAPES[0])
    count = MANY if share == 1 else MANY // 2
    say(f"memory: means and covariances over {count:,} prompts")
    command = [sys.executable, str(Path(__file__).with_name("_demur.py")), str(model), str(count)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with (OUT / "memory.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
    result = json.loads(done.stdout.splitlines()[-1])
    peaks = [peak for at, _, peak in result["samples"] if at >= SETTLED]
    ratios = [peak / peaks[0] for peak in peaks]
    return Row(
        what=f"peak memory, {result['count']:,} prompts",
        against=f"after {SETTLED:,}",
        equal="",
        value=ratios[-1],
        low=min(ratios),
        high=max(ratios),
        target=FLAT,
        at_most=True,
        note=f"{peaks[0]:.0f} → {peaks[-1]:.0f} MB",
    )


def run(parts: Iterable[str], *, model: str, rounds: int, threads: int, share: float) -> list[Row]:
    """Return the rows of the parts asked for."""
    import torch

    torch.set_num_threads(threads)
    rows: list[Row] = []
    if "generation" in parts:
        rows += generation(model, rounds=rounds, share=share)
    if "measure" in parts:
        rows += measuring(model, rounds=min(rounds, 3), threads=threads, share=share)
    if "memory" in parts:
        rows.append(memory(threads, share))
    return rows
