"""Time and memory of mining synthetic candidates: `python perf/mining.py 250000 500000 1000000`.

Each number of candidates is mined by a process of its own. Seconds are of the processor, since a machine may be shared;
a straight line shows as an equal number of microseconds a candidate. Scores that a model must make come on top.

Half of the texts are fresh draws of words, a tenth are an earlier text with a word more, the rest come from templates,
as rewrites of a generator do. Judges and scores are made up; everything else is what `demur mine` runs.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from demur.judges.declared import Declared
from demur.mining.rows import Score
from demur.mining.selection import Selection
from demur.mining.sources import Rows
from demur.mining.stages import Mining, mine
from demur.types import Part, Prompt

CATEGORIES = 10


def write(path: Path, count: int) -> None:
    """Write `count` prompts, one in fifty of them harmful twins."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(5000)]
    frames = [" ".join(draw.choices(words, k=6)) for _ in range(1000)]
    recent: list[str] = []
    with path.open("w") as file:
        for n in range(count):
            if n % 10 == 9:
                text = f"{draw.choice(recent)} {draw.choice(words)}"
            elif n % 10 < 5:
                text = " ".join(draw.choices(words, k=draw.randint(8, 16)))
            else:
                text = f"{draw.choice(frames)} {' '.join(draw.choices(words, k=6))}"
            recent = [*recent[-999:], text]
            harmful = n % 50 == 0
            row = {"id": f"s/{n}", "text": text, "expected": "refuse" if harmful else "comply", "source": "synthetic"}
            row |= {"kind": "harmful" if harmful else "borderline", "category": f"c{n % CATEGORIES}"}
            file.write(json.dumps(row if harmful else row | {"pair": f"s/{n - n % 50}"}) + "\n")


class Drawn:
    """Distances drawn from the id."""

    record = {"scorer": "drawn"}  # noqa: RUF012

    def __call__(self, prompts: Sequence[Prompt]) -> list[Score]:
        """Score prompts."""
        made = []
        for p in prompts:
            d = random.Random(p.id).gauss(1.5 if p.kind == "harmful" else -0.5, 1.0)
            made.append(Score(prompt_id=p.id, d=d, t=d, r=d, refused=d > 0))
        return made


def one(count: int) -> None:
    """Mine, and print the counts, the seconds of each stage and the peak memory as JSON."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "candidates.jsonl"
        write(path, count)
        what = Mining(
            sources=(Rows(path=path),),
            judges=((Part(name="declared", settings={}), Declared()),),
            scorer=Drawn(),
            selection=Selection(per_category=300),
        )
        started = time.monotonic(), time.process_time()
        card = mine(what, folder / "out")
        spent = time.monotonic() - started[0], time.process_time() - started[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    stages = {name: seconds["cpu"] for name, seconds in card["seconds"].items()}
    print(json.dumps({"wall": spent[0], "cpu": spent[1], "peak": peak, "stages": stages, **card["counts"]}))


def main() -> None:
    """Print a table with a row for each number of candidates."""
    if sys.argv[1] == "--one":
        one(int(sys.argv[2]))
        return
    header = ""
    for count in map(int, sys.argv[1:]):
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(count)], check=True, capture_output=True, text=True
        )
        made = json.loads(done.stdout)
        if not header:
            header = f"| candidates | {' | '.join(made['stages'])} | all, CPU s | µs each | wall s | peak GiB | kept |"
            print(f"{header}\n{'|---' * (header.count('|') - 1)}|", flush=True)
        cells = [*made["stages"].values(), made["cpu"]]
        told = " | ".join(f"{value:.1f}" for value in (*cells, 1e6 * made["cpu"] / count, made["wall"]))
        print(f"| {count:,} | {told} | {made['peak']:.2f} | {made['kept']['distinct']:,} |", flush=True)


if __name__ == "__main__":
    main()
