"""Time and memory of mining synthetic candidates: `python perf/mining.py 100000 [FOLDER]`.

Half of the texts are fresh draws of words, a tenth are an earlier text with a word more, the rest come from templates,
as rewrites of a generator do. Judges and scores are made up; everything else is what `demur mine` runs.
"""

from __future__ import annotations

import json
import random
import resource
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


def main() -> None:
    """Mine, and print the seconds of each stage and the peak memory."""
    count = int(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{count}.jsonl"
    write(path, count)
    what = Mining(
        sources=(Rows(path=path),),
        judges=((Part(name="declared", settings={}), Declared()),),
        scorer=Drawn(),
        selection=Selection(per_category=300),
    )
    start = time.monotonic()
    card = mine(what, folder / str(count), overwrite=True)
    spent = {"seconds": round(time.monotonic() - start, 1), "cpu": round(time.process_time(), 1)}
    print(json.dumps({"candidates": count, **spent, "stages": card["seconds"]}))
    print(json.dumps(card["counts"]["kept"]), card["selection"]["benign"])
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
