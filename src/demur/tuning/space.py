"""What may be searched: the settings of each method as its file declares them, and the scale of what is fitted already.

A method's file holds a table `SPACE`, read without importing it. Its keys are settings of the method, or `scale`: how
many times the fitted intervention's own strength is applied, which costs no new fit. Its values are

- `"layer"`: any layer of the model;
- `[a, b, ...]`: one of these (a single one is simply set);
- `(low, high)` or `(low, high, "log")`: a number between them.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from demur import registry
from demur.errors import ConfigError
from demur.settings import PartSpec, check, parse_part

SCALE = "scale"
CANDIDATE = "candidate"
"""The parameter that says which method or fitted intervention a trial takes."""
DIGITS = 3
"""Significant digits of a searched number."""


class Asks(Protocol):
    """What a trial of Optuna is to this file: it gives a value for each parameter."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Give one of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Give a number between two."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Give a whole number between two, both included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One searched setting: choices, whole numbers from 0 to `layers` - 1, or a range."""

    name: str
    choices: tuple[Any, ...] = ()
    layers: int = 0
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    start: Any = None
    """Where the search begins."""

    def ask(self, trial: Asks, prefix: str) -> Any:
        """Let a trial choose a value."""
        key = f"{prefix}.{self.name}"
        if self.choices:
            if len(self.choices) == 1:
                return self.choices[0]
            return json.loads(trial.suggest_categorical(key, [json.dumps(c) for c in self.choices]))
        if self.layers:
            return trial.suggest_int(key, 0, self.layers - 1) if self.layers > 1 else 0
        return rounded(trial.suggest_float(key, self.low, self.high, log=self.log))

    def first(self) -> Any:
        """Return where the search begins, as the study holds it; None for what is not searched."""
        if self.choices:
            return json.dumps(self.start) if len(self.choices) > 1 else None
        return self.start if self.layers != 1 else None

    def near_low(self) -> float:
        """Return the point at a sixth of a range."""
        if self.log:
            return rounded(self.low * (self.high / self.low) ** (1 / 6))
        return rounded(self.low + (self.high - self.low) / 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting of one method, or one scale of a fitted intervention."""

    candidate: str
    """The method's part as it was named, or the name of the fitted intervention."""
    settings: Mapping[str, Any]
    """Of the method; empty for a fitted intervention."""
    scale: float = 1.0

    def __str__(self) -> str:
        name = self.candidate.partition(":")[0]
        text = str(PartSpec(name, self.settings))
        return text if self.scale == 1 else f"{text} x{self.scale:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Everything that may be chosen."""

    methods: Mapping[str, tuple[Axis, ...]]
    """By part as it was named."""
    fitted: Mapping[str, tuple[Axis, ...]]
    """By name: its scale, where it has one."""

    @property
    def names(self) -> tuple[str, ...]:
        """All candidates."""
        return (*self.methods, *self.fitted)

    def suggest(self, trial: Asks) -> Point:
        """Let a trial choose a point."""
        names = self.names
        name = trial.suggest_categorical(CANDIDATE, list(names)) if len(names) > 1 else names[0]
        axes = self.methods.get(name) or self.fitted.get(name, ())
        values = {axis.name: axis.ask(trial, name) for axis in axes}
        scale = float(values.pop(SCALE, 1.0))
        fixed = parse_part(name).settings if name in self.methods else {}
        return Point(candidate=name, settings={**fixed, **values}, scale=scale)

    def starts(self) -> list[dict[str, Any]]:
        """Return the parameters of the first trials.

        Every candidate as it is by default, then with its own ranges near their low end, then at a low scale: where
        little is lost, so that the search knows of each method where it keeps the constraints. There every other choice
        is then taken once, one at a time.
        """
        every = {**self.methods, **self.fitted}
        made = [self._start(name, axes, ()) for name, axes in every.items()]
        for name, axes in every.items():
            ranges = [axis.name for axis in axes if axis.high > axis.low]
            own = tuple(axis for axis in ranges if axis != SCALE)
            made += [self._start(name, axes, low) for low in (own, (SCALE,) if SCALE in ranges else ()) if low]
        for name, axes in every.items():
            own = tuple(axis.name for axis in axes if axis.high > axis.low and axis.name != SCALE)
            for axis in axes:
                others = [c for c in axis.choices if c != axis.start]
                made += [self._start(name, axes, own, {axis.name: json.dumps(c)}) for c in others]
        return made

    def _start(
        self, name: str, axes: Sequence[Axis], low: Sequence[str], other: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the parameters of a candidate's default, some of its ranges near their low end, one choice another."""
        first = {f"{name}.{axis.name}": axis.near_low() if axis.name in low else axis.first() for axis in axes}
        first |= {f"{name}.{key}": value for key, value in (other or {}).items()}
        own = {CANDIDATE: name} if len(self.names) > 1 else {}
        return {**own, **{key: value for key, value in first.items() if value is not None}}


def searchable() -> tuple[str, ...]:
    """Return the methods that declare a space and are for more than comparison."""
    names = registry.names("methods")
    return tuple(n for n in names if registry.space(n) and not registry.comparison_only("methods", n))


def axes(text: str, n_layers: int) -> tuple[Axis, ...]:
    """Return the axes of a method, as its file declares them, less the settings that the part sets.

    Args:
        text: the method's part.
        n_layers: of the model.

    Raises:
        NotFound: for an unknown method or setting.
        ConfigError: for a method that declares no space, is for comparison only, or declares one that is malformed.
    """
    spec = parse_part(text)
    check("methods", spec)
    table = registry.space(spec.name)
    if not table:
        raise ConfigError(f"method {spec.name} declares no SPACE to search; there are {', '.join(searchable())}")
    if why := registry.comparison_only("methods", spec.name):
        raise ConfigError(f"method {spec.name} is for comparison only and is never chosen: {why}")
    defaults = {f.name: f.default for f in registry.fields("methods", spec.name)}
    made = []
    for name, value in table.items():
        if name != SCALE and name not in defaults:
            raise ConfigError(f"SPACE of method {spec.name} names {name!r}, which is none of its settings")
        if name not in spec.settings:
            made.append(_axis(name, value, n_layers, _literal(defaults.get(name)), spec.name))
    return tuple(made)


def scale_axis(low: float, high: float) -> tuple[Axis, ...]:
    """Return the axis of a fitted intervention: how many times its own strength."""
    return (Axis(name=SCALE, low=low, high=high, start=1.0),)


def rounded(value: float) -> float:
    """Return a number to `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _axis(name: str, value: Any, n_layers: int, default: Any, method: str) -> Axis:
    if value == "layer":
        return Axis(name=name, layers=n_layers, start=n_layers // 2)
    if isinstance(value, list) and value:
        return Axis(name=name, choices=tuple(value), start=default if default in value else value[0])
    if isinstance(value, tuple) and len(value) in (2, 3) and all(isinstance(v, int | float) for v in value[:2]):
        low, high, log = float(value[0]), float(value[1]), value[2:] == ("log",)
        if low < high and (low > 0 or not log):
            wanted = 1.0 if name == SCALE else default[0] if isinstance(default, tuple) and default else default
            inside = isinstance(wanted, int | float) and low <= wanted <= high
            middle = math.sqrt(low * high) if log else (low + high) / 2
            return Axis(name=name, low=low, high=high, log=log, start=float(wanted if inside else middle))
    raise ConfigError(
        f'SPACE of method {method}: {name} is {value!r}; write "layer", a list of values, (low, high) or '
        '(low, high, "log")'
    )


def _literal(source: str | None) -> Any:
    """Return a default value as written; None where it is no literal."""
    try:
        return None if source is None else ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return None
