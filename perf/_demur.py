"""demur's own side of the capture comparison, and the memory run as a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import psutil
from _peak import peak

SAMPLES = 10


def capture_states(model_dir: str, ids: list[list[int]], layers: list[int]) -> Any:
    """Return the capture of the last prompt token at the output of `layers`."""
    from demur.lm import load
    from demur.residuals import capture

    lm = load(model_dir, device="cpu", dtype="float32")
    return lambda: capture(lm, ids, layers=layers, points="resid_post", positions="last_prompt").numpy()


def memory(model_dir: str, count: int) -> None:
    """Sum means and covariances over `count` prompts and print the resident memory ten times along the way."""
    from demur.lm import load
    from demur.residuals import moments
    from models import token_ids

    lm = load(model_dir, device="cpu", dtype="float32")
    process = psutil.Process()
    seen: list[list[float]] = []

    def prompts() -> Iterator[list[int]]:
        chunk = 1000
        for start in range(0, count, chunk):
            yield from token_ids(chunk, longest=24, seed=start)
            if (start + chunk) % (count // SAMPLES) == 0:
                seen.append([start + chunk, process.memory_info().rss / 2**20, peak() / 2**20])

    found = moments(lm, prompts())
    print(json.dumps({"count": found.count, "samples": seen}))


if __name__ == "__main__":
    memory(sys.argv[1], int(sys.argv[2]))
