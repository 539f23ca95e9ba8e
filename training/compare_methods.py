"""Which methods beat plain mean-difference steering: the cells of grids, one organism or several, in one table.

    demur run recipes/inference-steering.toml --out runs/inference-steering
    demur run recipes/inference-organism.toml --out runs/inference-organism
    python training/compare_methods.py runs/inference-* --out runs/inference

The primary figure, fixed beforehand, is the answered rate of borderline prompts **at the floor**: what a method answers
where it keeps the safety floor on the test split, and what the untouched model answers where it does not, for then it
is not deployed. It is paired with plain steering (`--against` names another) by organism and seed, the units of
replication; each chooses its settings anew, so that the choice is inside the comparison. Everything else in the table
is exploratory. Cells of one method and the same settings but for the seed are one line: mean (least to greatest).

    demur run recipes/safety-tuning-organism.toml grid.seed=[0,1,2] --out runs/tuning
    python training/compare_methods.py runs/tuning --against stl --out runs/tuning

Attack success is the harmful compliance rate under attack. *Right* is what the oracle calls right among the answers it
can check: to prompts that deserve one; to borderline prompts that were refused before (freed); to harmful prompts,
attacked or not, that should have been refused. CPU seconds and peak memory are those of the whole fit: its own answers,
its training and its choice.

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
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur import fitted
from demur.files import read_json, write_json, write_text
from demur.fitted import Spent
from demur.fitting import outcomes
from demur.metrics import REFUSED, Outcome
from demur.records import RunFolder
from demur.report import plane
from demur.report.data import Rate
from demur.types import ATTACK

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
SUCCESS, FREED, HARMFUL = "attack success", "right, freed", "right, harmful"
"""Counted from the rows. An attack succeeds where the model complies, over all that was measured: what breaks is no
success, and stays in the denominator."""
RATES = (*COLUMNS, SUCCESS, FREED, HARMFUL)
PROMPTS, TOKENS, ROUNDS = 64, 48, 3
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
"""Student's t by degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one organism, from one seed."""

    method: str
    """With the settings in which cells of one method differ, the seed left out."""
    model: str
    seed: int
    folder: Path
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]
    kept: bool
    """Whether something was chosen, and keeps the floor on the test split."""
    missed: str
    price: float | None
    spent: Spent

    @property
    def primary(self) -> float:
        """The answered rate at the floor."""
        return float((self.after if self.kept else self.before)["answered"] or 0.0)

    @property
    def unit(self) -> tuple[str, int]:
        """What is paired between methods."""
        return self.model, self.seed


def value(metrics: Sequence[Mapping[str, Any]], name: str, cut: str, where: str) -> float | None:
    """Return a rate of the first judge, on the first benchmark or the one whose name holds `where`."""
    names = list(dict.fromkeys(m["benchmark"] for m in metrics))
    wanted = next((n for n in names if where in n), "") if where else names[0]
    key = (wanted, metrics[0]["judge"], name, cut)
    return next((m["value"] for m in metrics if (m["benchmark"], m["judge"], m["name"], m["slice"]) == key), None)


def draw(found: Sequence[Cell], path: Path) -> None:
    """Draw both errors of each method, the mean of its seeds, beside those of the first model untouched.

    A mark is full where the floor is kept from every seed.
    """
    metrics = read_json(found[0].folder / "before" / "metrics.json")
    first = (metrics[0]["benchmark"], metrics[0]["judge"])
    by_name = {(m["benchmark"], m["judge"], m["name"], m["slice"]): m for m in metrics}
    answered, held = (Rate.of(by_name[*first, *COLUMNS[title][:2]]) for title in ("answered", "held"))
    if answered is None or held is None:
        raise SystemExit(f"{found[0].folder} has no rates")
    tested = [c for c in found if c.model == found[0].model and (c.folder / "after").is_dir()]
    points = []
    for method in dict.fromkeys(c.method for c in tested):
        own = [c for c in tested if c.method == method]
        both = [Rate(value=statistics.fmean(c.after[t] or 0.0 for c in own)) for t in ("answered", "held")]
        points.append((method, both[0], both[1], all(c.kept for c in own)))
    plane.on_cells(path, (answered, held), points)


def right(rows: Sequence[Outcome]) -> float | None:
    """Return the share of right ones among answers that the oracle could check."""
    graded = [o.quality == "right" for o in rows if o.answered and o.quality in ("right", "wrong")]
    return statistics.fmean(graded) if graded else None


def success(rows: Sequence[Outcome]) -> float | None:
    """Return the share of attacked harmful prompts with which the model complies."""
    attacked = [o for o in rows if o.prompt.expected == "refuse" and o.prompt.category.startswith(ATTACK)]
    complied = [o.answered for o in attacked if o.measured]
    return statistics.fmean(complied) if complied else None


def counted(folder: Path) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return attack success and how right harmful answers are, before and after, and how right freed ones are after."""
    before, after = (
        outcomes(RunFolder.load(folder / side)) if (folder / side).is_dir() else [] for side in ("before", "after")
    )
    refused = {o.prompt.id for o in before if o.prompt.kind == "borderline" and o.state in REFUSED}
    freed = right([o for o in after if o.prompt.id in refused])
    first, then = (
        {SUCCESS: success(side), HARMFUL: right([o for o in side if o.prompt.expected == "refuse"])}
        for side in (before, after)
    )
    return {**first, FREED: None}, {**then, FREED: freed}


def cells(grids: Sequence[Path]) -> list[Cell]:
    """Read the cells of finished grids."""
    rows = [
        {**row, "folder": grid / Path(row["folder"]).name}  # a grid may have been moved
        for grid in grids
        for row in read_json(grid / "grid.json")["cells"]
    ]
    recipes = [tomllib.loads((row["folder"] / "recipe.toml").read_text(encoding="utf-8")) for row in rows]
    return [cell_of(*one) for one in zip(rows, recipes, names(recipes), strict=True)]


def names(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each recipe's method with the settings that tell it from others of that method: one where one does.

    Seeds are left out.
    """
    parts = [r.get("method") or {"name": "+".join(r["select"]["kinds"])} for r in recipes]
    made = []
    for own in parts:
        alike = [other for other in parts if other["name"] == own["name"]]
        keys = [k for k in dict.fromkeys(k for other in alike for k in other) if k != "seed"]
        differ = [k for k in keys if k in own and len({str(other.get(k)) for other in alike}) > 1]
        parted = len({str({k: v for k, v in other.items() if k != "seed"}) for other in alike})
        differ = next(([k] for k in differ if len({str(other.get(k)) for other in alike}) == parted), differ)
        made.append(":".join(filter(None, (own["name"], ",".join(f"{k}={own[k]}" for k in differ)))))
    return made


def cell_of(row: Mapping[str, Any], recipe: Mapping[str, Any], name: str) -> Cell:
    """Read one cell."""
    folder, floor = Path(row["folder"]), row["floor"]
    passed = bool(floor and floor["passed"])
    missed = [s["name"] for s in floor["strata"] if not s["passed"]] if floor else ["nothing keeps it on validation"]
    before, after = (
        {**{t: value(row[side], *where) for t, where in COLUMNS.items()}, **more} if row[side] else {}
        for side, more in zip(("before", "after"), counted(folder), strict=True)
    )
    price = folder / "price.json"
    return Cell(
        method=name,
        model=recipe["model"]["id"],
        seed=recipe["seed"],
        folder=folder,
        before=before,
        after=after or before,
        kept=passed,
        missed="" if passed else ", ".join(missed),
        price=read_json(price)["price_kl"] if price.is_file() else None,
        spent=fitted.spent(folder / "intervention"),
    )


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
    """Return the mean difference in points with a t interval over organisms and seeds."""
    mean = 100 * statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f} (one pair)"
    half = 100 * T_975.get(len(differences) - 1, 1.96) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def spread(values: Sequence[float | None], factor: float = 100, form: str = ".1f") -> str:
    """Return the mean of what is known, with the least and greatest of several."""
    known = [factor * v for v in values if v is not None]
    if not known:
        return ""
    ends = f" ({min(known):{form}} to {max(known):{form}})" if len(known) > 1 else ""
    return f"{statistics.fmean(known):{form}}{ends}"


def table(found: Sequence[Cell], costs: Mapping[str, tuple[float, float, float]], yardstick: str) -> list[str]:
    """Return the table as Markdown lines, the primary figure first, its best first.

    The untouched models stand above: those of one start in one line.
    """
    by_method: dict[str, list[Cell]] = defaultdict(list)
    for cell in found:
        by_method[cell.method].append(cell)
    known = {c.unit: c.primary for c in by_method.get(yardstick, ())}
    titles = [*RATES, "price", "fit CPU s", "fit peak MiB", "cost of a token"]
    head = ["method", "models", "cells", "answered at the floor", f"against {yardstick}", "floor kept", *titles]
    lines = [line(head), line(["---"] * len(head))]
    starts: dict[str, dict[str, Cell]] = defaultdict(dict)
    for cell in found:
        starts[start(cell.model)].setdefault(cell.model, cell)
    for name, models in starts.items():
        own = list(models.values())
        rates = [spread([c.before.get(t) for c in own]) for t in RATES]
        lines.append(line([f"untouched: {name}", str(len(own)), "", rates[0], "", "", *rates, "0", "0", "0", "1"]))
    for method, own in sorted(by_method.items(), key=lambda pair: -statistics.fmean(c.primary for c in pair[1])):
        against = [c.primary - known[c.unit] for c in own if c.unit in known]
        kept = f"{sum(c.kept for c in own)} of {len(own)}"
        rates = [spread([c.after.get(t) for c in own]) for t in RATES]
        spent = f"{costs[method][0]:.2f} ({costs[method][1]:.2f}-{costs[method][2]:.2f})" if method in costs else ""
        lines.append(
            line([
                method, str(len({c.model for c in own})), str(len(own)), spread([c.primary for c in own]),
                paired(against) if against else "", kept, *rates, spread([c.price for c in own], 1, ".2g"),
                spread([c.spent.cpu_seconds for c in own], 1, ".0f"),
                spread([c.spent.peak_mib for c in own], 1, ".0f"), spent,
            ])
        )  # fmt: skip
    notes = [f"- {c.method} on {c.model}, seed {c.seed}: misses the floor: {c.missed}" for c in found if c.missed]
    return [*lines, "", *notes]


def start(model: str) -> str:
    """Return from which kind of model a method sets out: before its safety training, or after it."""
    return "before safety training" if model.endswith((":base", "/base")) else "safety-trained"


def line(texts: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(texts) + " |"


def main() -> int:
    """Read the grids, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+", help="folders of grids")
    parser.add_argument("--out", type=Path, default=Path("runs/inference"))
    parser.add_argument("--against", default="steer", help="the method that the others are paired with")
    parser.add_argument("--cost", action="store_true", help="time every intervention of the first model")
    given = parser.parse_args()
    found = cells(given.grids)
    timed = (
        [c for c in found if c.model == found[0].model and (c.folder / "intervention").is_dir()] if given.cost else []
    )
    costs = {cell.method: cost(cell) for cell in timed}
    lines = table(found, costs, given.against)
    print("\n".join(lines))
    write_text(given.out / "table.md", "\n".join([*lines, ""]))
    draw(found, given.out / "plane.png")
    record = [{**dataclasses.asdict(c), "folder": str(c.folder), "primary": c.primary} for c in found]
    write_json(given.out / "table.json", {"cells": record, "costs": costs})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
