"""Capture beside the peers: same token ids, states compared, then rounds in turn."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
from peers import Contender, python_of, say
from table import Row, ratio_row

from models import OUT, SHAPES, Shape, make_model, write_ids

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest value of the layer (fp32)."""
AFTER_NORM = ("naive loop", "batch-1 loop", "generate(1)", "repeng")
"""Sides that read `hidden_states`, whose last entry is taken after the final norm."""
TARGETS = {
    ("9M", "repeng"): 5.0,
    ("9M", "steering-vectors"): 5.0,
    ("67M", "repeng"): 1.6,
    ("67M", "naive loop"): 1.6,
    ("67M", "steering-vectors"): 1.15,
    ("67M", "batch-1 loop"): 1.15,
    ("67M", "generate(1)"): 1.15,
}
OTHERS = ("naive loop", "batch-1 loop", "generate(1)", "repeng", "steering-vectors", "steering-vectors, batch 32")
HALF = 0.65


def environment(name: str) -> Path:
    """Return the interpreter a side runs in."""
    peer = name.split(",")[0]
    return python_of(peer) if peer in ("repeng", "steering-vectors") else Path(sys.executable)


def difference(side: str, states: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest relative difference from the reference, the last layer by the side's own convention.

    The models' final norm is an RMSNorm of unit gain (they are untrained), so it is applied here by its formula.
    """
    if states.shape != wanted.shape:
        return float("inf")
    wanted = wanted.copy()
    if side in AFTER_NORM:
        last = wanted[:, -1].astype(np.float64)
        wanted[:, -1] = last / np.sqrt((last**2).mean(-1, keepdims=True) + 1e-6)
    scale = np.abs(wanted).max(axis=(0, 2))
    return float((np.abs(states - wanted).max(axis=(0, 2)) / scale).max())


def check_states(sides: dict[str, Contender]) -> float:
    """Compare every side's states with the reference; return the largest difference, or stop."""
    found = {}
    for name, side in sides.items():
        path = OUT / "states.npy"
        side.ask(do="states", out=str(path))
        found[name] = np.load(path)
    worst = 0.0
    for name, states in found.items():
        gap = difference(name, states, found["reference"])
        if gap > TOLERANCE:
            raise SystemExit(f"{name} captured other states than the reference: {gap:.1e} of the scale, nothing timed")
        worst = max(worst, gap)
    return worst


def compare(
    shape: Shape, *, base: str, others: tuple[str, ...], rounds: int, threads: int, share: float
) -> tuple[list[Row], dict[str, dict[str, str]]]:
    """Return the rows of one model and the versions of each side."""
    model, ids = make_model(shape), write_ids(shape, max(64, 2 * round(shape.prompts * share / 2)))
    every = list(range(shape.layers))
    with contextlib.ExitStack() as stack:

        def start(name: str, layers: list[int]) -> Contender:
            python = environment(name)
            say(f"{shape.name}: starting {name}")
            side = Contender(name, python=python, model=model, ids=ids, layers=layers, threads=threads)
            return stack.enter_context(side)

        sides = {name: start(name, every) for name in ("reference", base, *others)}
        worst = check_states(sides)
        versions = {name: side.versions for name, side in sides.items()}
        timed = {name: side for name, side in sides.items() if name != "reference"}
        timed["half"] = start(base, [shape.layers // 2 - 1])
        seconds = take_turns(timed, rounds, shape.name)
    equal = f"states, to {worst:.0e}"
    rows = [
        ratio_row(
            seconds[name],
            seconds[base],
            what=f"capture, {shape.name}, all layers",
            against=name,
            equal=equal,
            target=TARGETS.get((shape.name, name)),
        )
        for name in others
    ]
    what = f"capture, {shape.name}, output of block {shape.layers // 2} of {shape.layers}"
    rows.append(
        ratio_row(
            seconds["half"], seconds[base], what=what, against="all layers", equal=equal, target=HALF, at_most=True
        )
    )
    return rows, versions


def take_turns(sides: dict[str, Contender], rounds: int, label: str) -> dict[str, list[float]]:
    """Run every side once a round, one after the other, after one untimed round; return seconds by side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        say(f"{label}: {'warming up' if turn == 0 else f'round {turn} of {rounds}'}")
        for name, side in sides.items():
            took = side.ask(do="run")["seconds"]
            if turn:
                seconds[name].append(took)
    return seconds


def run(*, base: str, rounds: int, threads: int, share: float) -> tuple[list[Row], dict[str, dict[str, str]]]:
    """Return the capture rows of every model and the versions of every side."""
    rows: list[Row] = []
    versions: dict[str, dict[str, str]] = {}
    for shape in SHAPES:
        others = tuple(name for name in OTHERS if name != base)
        found, ran = compare(shape, base=base, others=others, rounds=rounds, threads=threads, share=share)
        rows += found
        versions |= ran
    return rows, versions
