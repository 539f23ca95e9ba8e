"""From a point to an intervention: fitted once for each setting that a fit depends on, then scaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from demur import fitted
from demur.errors import ConfigError
from demur.files import fingerprint
from demur.interventions import load
from demur.interventions.gated import Gated
from demur.interventions.stack import Stack
from demur.settings import PartSpec, build
from demur.tuning.settings import Fitted
from demur.tuning.space import Axis, Point, scale_axis
from demur.types import FitData
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from pathlib import Path

    from demur.lm import LM
    from demur.methods._contrast import Contrast
    from demur.plan import Intervention

EXTRA = "tune"
SCALES: Mapping[str, tuple[float, float]] = {"adapter": (0.1, 1.25), "contrastive": (0.1, 1.25)}
"""Kind of intervention -> scales that are searched; weights and logits bear less than the stream does."""
USUAL = (0.25, 2.0)


@dataclass(kw_only=True)
class Fits:
    """Interventions by point, over one model and one set of examples.

    Mean differences, plain, gated and ablated, come from states that are captured once (`contrast`); every other
    method is fitted when its settings come up first and kept in `fits/` with what it wrote.
    """

    lm: LM
    data: FitData
    contrast: Contrast
    fitted: Mapping[str, Fitted]
    out: Path
    _made: dict[str, Intervention] = field(default_factory=dict, init=False)

    def of(self, point: Point) -> Intervention:
        """Return the intervention of a point.

        Raises:
            ConfigError: for a scale of something that has no strength.
            DataError: where the examples lack what the method needs.
        """
        name = fingerprint([point.candidate, dict(point.settings)])
        if name not in self._made:
            self._made[name] = self._whole(point, name)
        made = self._made[name]
        return made if point.scale == 1 else scaled(made, point.scale)

    def _whole(self, point: Point, name: str) -> Intervention:
        if point.candidate in self.fitted:
            return load(self.fitted[point.candidate].folder)
        part = self.part(point)
        method: Any = build("methods", part)
        if hasattr(method, "of"):
            return cast("Intervention", method.of(self.contrast))
        folder = self.out / "fits" / name
        if not (folder / "intervention" / "intervention.json").is_file():
            made = method.fit(self.lm, dataclasses.replace(self.data, out=folder))
            made.save(folder / "intervention")
            fitted.write(folder / "intervention", part)
        return load(folder / "intervention")

    def part(self, point: Point) -> PartSpec:
        """Return what stands in `fit.json`: the method with its settings, or that of the fitted intervention."""
        return PartSpec(point.candidate.partition(":")[0], dict(point.settings))

    def save(self, point: Point, folder: Path) -> None:
        """Save the intervention of a point, with how it came about."""
        self.of(point).save(folder)
        own = self.fitted.get(point.candidate)
        if own is None:
            fitted.write(folder, self.part(point))
        elif (own.folder / fitted.FILE).is_file():
            (folder / fitted.FILE).write_bytes((own.folder / fitted.FILE).read_bytes())


def check_fitted(lm: LM, found: Sequence[Fitted]) -> dict[str, tuple[Axis, ...]]:
    """Load fitted interventions, see that they fit the model, and return the axes of each: its scale, if it has one.

    Raises:
        ConfigError: for one that was made for another model.
    """
    axes: dict[str, tuple[Axis, ...]] = {}
    for one in found:
        made = load(one.folder)
        try:
            plan = made.plan(lm)
            lm.bound(plan)
            with swapped(lm, edits_of(plan)):
                pass
        except ConfigError as error:
            raise ConfigError(f"candidate {one.folder} does not fit {lm.ref.id}: {error}") from None
        inner = made.inner if isinstance(made, Gated) else made
        low, high = SCALES.get(str(inner.describe()["kind"]), USUAL)
        axes[one.name] = scale_axis(low, high) if _has_strength(made) else ()
    return axes


def scaled(what: Intervention, factor: float) -> Intervention:
    """Return an intervention with every strength multiplied; 0 changes nothing.

    Raises:
        ConfigError: where it has no strength whose 0 changes nothing.
    """
    if isinstance(what, Gated):
        return dataclasses.replace(what, inner=scaled(what.inner, factor))
    if isinstance(what, Stack):
        return dataclasses.replace(what, parts=tuple(scaled(part, factor) for part in what.parts))
    if not _has_strength(what):
        raise ConfigError(f"{what.describe()['kind']} has no strength that could be multiplied")
    own: Any = what
    changed: dict[str, Any] = {"strength": own.strength * factor}
    if getattr(own, "note", ""):
        changed["note"] = f"{own.note}; {factor:g} times that strength"
    return cast("Intervention", dataclasses.replace(own, **changed))


def _has_strength(what: Intervention) -> bool:
    if isinstance(what, Gated):
        return _has_strength(what.inner)
    if isinstance(what, Stack):
        return all(_has_strength(part) for part in what.parts)
    return hasattr(what, "strength") and what.describe()["kind"] != "reposition"
