"""`demur estimate` against the measured peak memory of every stage, on the organism and the larger random model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from peers import say
from table import Row

from models import OUT, SHAPES, make_model

SIZES = {"words": 56, "prompts": 64, "new_tokens": 24, "rows": 16, "at_once": 8}
OFF = 0.2
STAGES = ("load", "generation", "capture", "training")


def _answer(command: list[str], threads: int) -> Any:
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with (OUT / "estimate.log").open("a", encoding="utf-8") as log:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
    return json.loads(done.stdout[done.stdout.index("{") :])


def compare(name: str, model: str, threads: int) -> list[Row]:
    """Measure one model, estimate it with the lengths found, and return a row for each stage."""
    say(f"estimate: {name}")
    found = _answer([sys.executable, str(Path(__file__).with_name("_peak.py")), model, json.dumps(SIZES)], threads)
    options = {
        "prompts": SIZES["prompts"],
        "prompt-tokens": found["prompt_tokens"],
        "max-new-tokens": SIZES["new_tokens"],
        "rows": SIZES["rows"],
        "row-tokens": found["row_tokens"],
        "learnt-tokens": found["row_tokens"] - found["prompt_tokens"],
    }
    command = [sys.executable, "-m", "demur.cli", "estimate", model, "--device=cpu", "--dtype=float32", "--json"]
    guess = _answer([*command, *(f"--{k}={v}" for k, v in options.items())], threads)
    rows = []
    for need in guess["needs"]:
        said, real = need["memory"], found[need["stage"]]
        own, own_real = said - need["libraries"], real - need["libraries"]
        rows.append(
            Row(
                what=f"estimate, {name}, {need['stage']}",
                against="measured peak",
                equal="",
                value=abs(said / real - 1),
                low=said / real,
                high=said / real,
                unit=" off",
                target=OFF,
                at_most=True,
                note=f"{said / 2**20:.0f} said, {real / 2**20:.0f} MiB measured; "
                f"without libraries {own / 2**20:.0f} and {own_real / 2**20:.0f}",
            )
        )
    return rows


def run(*, threads: int) -> list[Row]:
    """Return the rows of both models."""
    return [*compare("organism", "organism", threads), *compare("67M", str(make_model(SHAPES[1])), threads)]
