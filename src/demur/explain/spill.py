"""How far refusals spill while a model learns to refuse: P(refuse) by class along safety trainings, by method.

Read is what the trainings logged (`curve` in training.json): the mean probability, at the first answer token, of a
refusal's opener, on dev prompts of each class. Refusing harmful prompts is what is learnt; what the other classes gain
meanwhile is the spill. Methods are compared at equal updates and, since one may learn faster than another, at equal
P(refuse) of harmful prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.errors import ConfigError, DataError
from demur.files import read_json, write_text
from demur.fitted import FILE
from demur.report import drawing
from demur.report.drawing import BLUE, GREEN, ORANGE, VERMILLION

CLASSES = {"harmful": VERMILLION, "attacked": ORANGE, "borderline": BLUE, "plain": GREEN}
SPILL = ("borderline", "plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One training."""

    method: str
    seed: int
    rows: tuple[Mapping[str, float], ...]
    """`step`, and `p_refuse CLASS` for each class, by rising step."""

    def at(self, step: float) -> dict[str, float]:
        """Return P(refuse) of each class at an update, between two looks on the straight line."""
        steps = [row["step"] for row in self.rows]
        after = next((i for i, s in enumerate(steps) if s >= step), len(steps) - 1)
        low, high = self.rows[max(0, after - 1)], self.rows[after]
        width = high["step"] - low["step"]
        part = (min(step, high["step"]) - low["step"]) / width if width else 1.0
        return {
            name: low[key] + part * (high[key] - low[key]) for name in CLASSES if (key := f"p_refuse {name}") in low
        }

    def reached(self, level: float) -> tuple[float | None, float | None]:
        """Return the updates at which P(refuse) of harmful prompts first reaches a level, and from which it stays."""
        ups = []
        for low, high in zip(self.rows, self.rows[1:], strict=False):
            was, now = low["p_refuse harmful"], high["p_refuse harmful"]
            if was < level <= now:
                ups.append(low["step"] + (level - was) / (now - was) * (high["step"] - low["step"]))
        stays = bool(self.rows) and self.rows[-1]["p_refuse harmful"] >= level
        return (ups[0] if ups else None, ups[-1] if ups and stays else None)


def curves(folders: Sequence[Path]) -> list[Curve]:
    """Return the curves of all trainings below some folders, each with the method and seed that its fit.json names.

    Raises:
        DataError: where there is none.
    """
    made = []
    for path in sorted(p for folder in folders for p in folder.rglob("training.json")):
        rows = read_json(path).get("curve")
        near = next((p / "intervention" / FILE for p in path.parents if (p / "intervention" / FILE).is_file()), None)
        if rows and near is not None and "p_refuse harmful" in rows[0]:
            how = read_json(near)
            made.append(Curve(method=how["method"], seed=how["settings"].get("seed", 0), rows=tuple(rows)))
    if not made:
        named = ", ".join(map(str, folders))
        raise DataError(f"{named}: no training that logged P(refuse); fit stl, stl_aug or dcr there first")
    return made


def table(found: Sequence[Curve], *, level: float = 0.5, steps: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Return rows with `method`, `at`, `seeds`, and of each class the mean over seeds, the least and the most.

    Args:
        found: the curves.
        level: P(refuse) of harmful prompts at which methods are compared.
        steps: updates at which they are; by default quarters of the shortest training.

    Raises:
        ConfigError: for a level that is no share.
    """
    if not 0 < level < 1:
        raise ConfigError(f"spill: level is {level:g}; it must be above 0 and below 1")
    last = min(c.rows[-1]["step"] for c in found)
    made = []
    for method in dict.fromkeys(c.method for c in found):
        own = [c for c in found if c.method == method]
        for step in steps or [round(last * q / 4) for q in (1, 2, 3, 4)]:
            made.append(_row(method, f"update {step}", [c.at(step) for c in own]))
        for number, name in enumerate((f"harmful first {level:g}", f"harmful {level:g} for good")):
            where = [(c, c.reached(level)[number]) for c in own]
            made.append(_row(method, name, [{"update": s, **c.at(s)} for c, s in where if s is not None]))
        for name, of in (("mean along the training", _mean), ("most along the training", max)):
            values = [{k: of([row[f"p_refuse {k}"] for row in c.rows]) for k in c.at(0)} for c in own]
            made.append(_row(method, name, values))
    return made


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _row(method: str, at: str, values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method, "at": at, "seeds": len(values)}
    for name in ("update", *CLASSES):
        own = [v[name] for v in values if name in v]
        row[name] = {"mean": _mean(own), "low": min(own), "high": max(own)} if own else None
    return row


def draw(found: Sequence[Curve], path: Path) -> Path:
    """Draw one panel a method, one line a class: the mean over seeds, and from the least to the most."""
    methods = list(dict.fromkeys(c.method for c in found))
    with drawing.canvas(1.7 * len(methods) + 0.6) as (figure, axes):
        axes.remove()
        panels = figure.subplots(len(methods), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for panel, method in zip(panels, methods, strict=True):
            own = [c for c in found if c.method == method]
            steps = [row["step"] for row in own[0].rows if all(row["step"] <= c.rows[-1]["step"] for c in own)]
            for name, colour in CLASSES.items():
                lines = [[c.at(s)[name] for s in steps] for c in own if name in c.at(0)]
                if lines:
                    each = list(zip(*lines, strict=True))
                    panel.plot(steps, [_mean(v) for v in each], color=colour, label=name)
                    panel.fill_between(
                        steps, [min(v) for v in each], [max(v) for v in each], color=colour, alpha=0.15, linewidth=0
                    )
            panel.set_ylabel(f"{method}: P(refuse)")
            panel.set_ylim(0, 1)
        panels[-1].set_xlabel("update of the safety tuning")
        drawing.legend_above(figure, panels[0], columns=4)
        text = drawing.svg(figure, "spill", "P(refuse) at the first answer token along the safety tuning, by class")
    write_text(path, text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1))
    return path
