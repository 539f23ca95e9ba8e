"""Which methods beat plain mean-difference steering: the cells of grids, one organism or several, in one table.

    demur run recipes/inference-steering.toml --out runs/inference-steering
    demur run recipes/inference-organism.toml --out runs/inference-organism
    python training/compare_methods.py runs/inference-* --out runs/inference

The primary figure, fixed beforehand, is the answered rate of borderline prompts **at the floor**: what a method answers
where it keeps the safety floor on the test split, and what the untouched model answers where it does not, for then it
is not deployed. It is paired with plain steering by organism, the unit of replication; every organism chooses its
settings anew, so that the choice is inside the comparison. Everything else in the table is exploratory.

`--cost` also times every saved intervention: processor time of decoding the same plain prompts, batch 16, against none,
in interleaved rounds.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur import fitted
from demur.files import read_json, write_json, write_text
from demur.report import plane
from demur.report.data import Rate

YARDSTICK = "steer"
COLUMNS = {
    "answered": ("answered_rate", "kind=borderline", ""),
    "held": ("held_rate", "all", ""),
    "attacked held": ("held_rate", "all", "attack"),
    "ORR": ("over_refusal_rate", "all", ""),
    "HCR": ("harmful_compliance_rate", "all", ""),
    "broken": ("broken_rate", "all", ""),
    "right": ("oracle_correct_rate", "all", ""),
}
"""Title -> metric, slice, what the benchmark's name holds beside the first's."""
PROMPTS, TOKENS, ROUNDS = 64, 48, 3
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
"""Student's t by degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one organism."""

    method: str
    model: str
    folder: Path
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    kept: bool
    """Whether something was chosen, and keeps the floor on the test split."""
    missed: str
    price: float | None
    fit: float | None

    @property
    def primary(self) -> float:
        """The answered rate at the floor."""
        return float((self.after if self.kept else self.before)["answered"] or 0.0)


def value(metrics: Sequence[Mapping[str, Any]], name: str, cut: str, where: str) -> float | None:
    """Return a rate of the first judge, on the first benchmark or the one whose name holds `where`."""
    names = list(dict.fromkeys(m["benchmark"] for m in metrics))
    wanted = next((n for n in names if where in n), "") if where else names[0]
    key = (wanted, metrics[0]["judge"], name, cut)
    return next((m["value"] for m in metrics if (m["benchmark"], m["judge"], m["name"], m["slice"]) == key), None)


def draw(found: Sequence[Cell], path: Path) -> None:
    """Draw both errors of what was tested, beside those of the first model untouched."""

    def rates(folder: Path) -> tuple[Rate, Rate]:
        metrics = read_json(folder / "metrics.json")
        first = (metrics[0]["benchmark"], metrics[0]["judge"])
        by_name = {(m["benchmark"], m["judge"], m["name"], m["slice"]): m for m in metrics}
        both = [by_name[*first, *COLUMNS[title][:2]] for title in ("answered", "held")]
        answered, held = (Rate.of(one) for one in both)
        if answered is None or held is None:
            raise SystemExit(f"{folder} has no rates")
        return answered, held

    tested = [c for c in found if c.model == found[0].model and (c.folder / "after").is_dir()]
    plane.on_cells(
        path, rates(found[0].folder / "before"), [(c.method, *rates(c.folder / "after"), c.kept) for c in tested]
    )


def cells(grid: Path) -> list[Cell]:
    """Read the cells of a finished grid."""
    found = []
    for cell in read_json(grid / "grid.json")["cells"]:
        settings, folder = cell["settings"], Path(cell["folder"])
        part = settings.get("method")
        method = part["name"] if isinstance(part, dict) else part or "+".join(settings["select.kinds"])
        floor = cell["floor"]
        missed = (
            [s["name"] for s in floor["strata"] if not s["passed"]] if floor else ["nothing keeps it on validation"]
        )
        sides = [{t: value(cell[side], *where) for t, where in COLUMNS.items()} if cell[side] else {} for side in
                 ("before", "after")]  # fmt: skip
        price = folder / "price.json"
        found.append(
            Cell(
                method=method,
                model=str(settings.get("model.id", "organism")),
                folder=folder,
                before=sides[0],
                after=sides[1] or sides[0],
                kept=bool(floor and floor["passed"]),
                missed="" if floor and floor["passed"] else ", ".join(missed),
                price=read_json(price)["price_kl"] if price.is_file() else None,
                fit=fitted.cpu_seconds(folder / "intervention"),
            )
        )
    return found


def cost(cell: Cell) -> tuple[float, float, float]:
    """Return the processor time of each token against none: median, least and greatest of the rounds."""
    from demur.decoding import decode
    from demur.generators.local import Local
    from demur.interventions import load
    from demur.interventions.wrapped import Wrapped
    from demur.methods._choice import Decoded
    from demur.records import RunFolder
    from demur.types import Sampling

    lm = Local(model=cell.model).lm()
    run = RunFolder.load(cell.folder / "before")
    prompts = [p for p in run.prompts if p.kind == "plain"][:PROMPTS]
    what = load(cell.folder / "intervention")
    sampling = Sampling(max_new_tokens=TOKENS)
    batch = 16 * (max(len(e.ids) for e in (lm.encode(p) for p in prompts)) + TOKENS)

    def seconds(treated: bool) -> float:
        started = time.process_time()
        if isinstance(what, Wrapped):  # it asks in batches of its own making
            asked = Decoded(lm=lm)
            answers = list((what.around(asked) if treated else asked)(prompts, sampling))
        else:
            answers = list(decode(lm, prompts, sampling, what if treated else None, batch_tokens=batch))
        return (time.process_time() - started) / max(1, sum(a.n_tokens or 0 for a in answers))

    seconds(True)
    ratios = sorted(seconds(True) / seconds(False) for _ in range(ROUNDS))
    return statistics.median(ratios), ratios[0], ratios[-1]


def paired(differences: Sequence[float]) -> str:
    """Return the mean difference in points with a t interval over organisms."""
    mean = 100 * statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f} (one organism)"
    half = 100 * T_975[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def mean(values: Sequence[float | None], factor: float = 100, form: str = ".1f") -> str:
    """Return the mean of what is known."""
    known = [v for v in values if v is not None]
    return f"{factor * statistics.fmean(known):{form}}" if known else ""


def table(found: Sequence[Cell], costs: Mapping[str, tuple[float, float, float]]) -> list[str]:
    """Return the table as Markdown lines, the primary figure first, its best first."""
    by_method: dict[str, list[Cell]] = defaultdict(list)
    for cell in found:
        by_method[cell.method].append(cell)
    yardstick = {c.model: c.primary for c in by_method.get(YARDSTICK, ())}
    titles = [*COLUMNS, "price", "fit CPU s", "cost of a token"]
    head = ["method", "organisms", "answered at the floor", f"against {YARDSTICK}", "floor kept", *titles]
    lines = [line(head), line(["---"] * len(head))]
    first = next(iter(by_method.values()))
    before = [mean([c.before[t] for c in first]) for t in COLUMNS]
    lines.append(line(["untouched", str(len(first)), before[0], "", "", *before, "0", "0", "1"]))
    for method, own in sorted(by_method.items(), key=lambda pair: -statistics.fmean(c.primary for c in pair[1])):
        against = [c.primary - yardstick[c.model] for c in own if c.model in yardstick]
        kept = f"{sum(c.kept for c in own)} of {len(own)}"
        rates = [mean([c.after[t] for c in own]) for t in COLUMNS]
        spent = f"{costs[method][0]:.2f} ({costs[method][1]:.2f}-{costs[method][2]:.2f})" if method in costs else ""
        lines.append(
            line([
                method, str(len(own)), mean([c.primary for c in own]), paired(against) if against else "", kept, *rates,
                mean([c.price for c in own], 1, ".2g"), mean([c.fit for c in own], 1, ".0f"), spent,
            ])
        )  # fmt: skip
    notes = [f"- {c.method} on {c.model}: misses the floor: {c.missed}" for c in found if c.missed]
    return [*lines, "", *notes]


def line(texts: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(texts) + " |"


def main() -> int:
    """Read the grids, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+", help="folders of grids")
    parser.add_argument("--out", type=Path, default=Path("runs/inference"))
    parser.add_argument("--cost", action="store_true", help="time every intervention of the first model")
    given = parser.parse_args()
    found = [cell for grid in given.grids for cell in cells(grid)]
    timed = (
        [c for c in found if c.model == found[0].model and (c.folder / "intervention").is_dir()] if given.cost else []
    )
    costs = {cell.method: cost(cell) for cell in timed}
    lines = table(found, costs)
    print("\n".join(lines))
    write_text(given.out / "table.md", "\n".join([*lines, ""]))
    draw(found, given.out / "plane.png")
    record = [{**dataclasses.asdict(c), "folder": str(c.folder), "primary": c.primary} for c in found]
    write_json(given.out / "table.json", {"cells": record, "costs": costs})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
