"""A study with an objective that costs nothing: run as a process, so that it can be killed."""

import os
import sys
import time
from pathlib import Path

from demur.tuning.space import Axis, Point, Space
from demur.tuning.study import Scores, search

SPACE = Space(
    methods={
        "steering": (
            Axis(name="layer", layers=6, start=3),
            Axis(name="against", choices=("harmful", "borderline"), start="harmful"),
            Axis(name="scale", low=0.1, high=2.0, start=1.0),
        ),
        "ablation": (Axis(name="scale", low=0.1, high=1.0, start=1.0),),
    },
    fitted={"adapter": (Axis(name="scale", low=0.1, high=1.25, start=1.0),), "text": ()},
)


def worth(point: Point) -> Scores:
    """Answers rise with scale and layer, and so do the price and what is lost."""
    push = point.scale * (1 + 0.1 * int(point.settings.get("layer", 2)))
    return Scores(
        answered=min(1.0, 0.5 + 0.2 * push),
        price=0.01 * push**2,
        constraints={"held": push - 1.2},
        facts={"push": push},
    )


if __name__ == "__main__":
    os.fsync = lambda handle: None  # it guards against the machine's end, not the process's
    out, trials, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    def slowly(point: Point) -> Scores:
        with (out / "asked").open("a") as asked:
            asked.write(f"{point}\n")
        time.sleep(pause)
        return worth(point)

    search(SPACE, slowly, out, trials=trials, seed=3)
