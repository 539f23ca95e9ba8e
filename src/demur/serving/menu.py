"""The names that a request may ask for, and what stands behind each: a model, plain or with one intervention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from demur.errors import NotFound
from demur.serving.faults import Fault

PLAIN = ""
"""The name of no intervention."""
CACHED = 64
"""Plans at other strengths that are kept."""


class Prepared(NamedTuple):
    """A plan, the group of rows that it can run with, and how many rows it takes (see `engine.Answer`)."""

    plan: Any
    group: str = ""
    rows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What is known of the safety floor: never more than was measured on this very model and intervention."""

    state: Literal["base", "kept", "missed", "not measured"] = "not measured"
    """`base`: no intervention acts, so there is nothing to hold against the model."""
    verdict: str = ""


BASE = Floor(state="base", verdict="no intervention acts")
UNMEASURED = Floor(verdict="the safety floor was not measured for this model with this intervention")
OTHER_STRENGTH = Floor(verdict="the safety floor was not measured at this strength")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One intervention, or none."""

    name: str = PLAIN
    kind: str = ""
    lines: str = ""
    """What it does, in plain words."""
    fingerprint: str = ""
    floor: Floor = BASE
    prepared: Prepared
    fixed: str = ""
    """Why its strength cannot be changed; "" where it can."""
    tells: bool = False
    """Whether it changes what the conversation is read as: a system text, soft tokens, branches."""

    def floor_at(self, strength: float) -> Floor:
        """Return what is known of the floor at a strength: 1 is as saved and measured."""
        if self.name == PLAIN or strength == 0:
            return BASE
        return self.floor if strength == 1 else OTHER_STRENGTH


@dataclass(eq=False)
class Menu:
    """A model's name and its interventions."""

    model: str
    entries: Mapping[str, Entry]
    """By name; the plain model stands under ""."""
    scaled: Callable[[Entry, float], Prepared]
    """Makes the plan of an entry at another strength."""
    revision: str = ""
    _kept: dict[tuple[str, float], Prepared] = field(default_factory=dict)

    def ids(self) -> list[str]:
        """Return every name that `model` of a request may be."""
        return [self.id_of(entry) for entry in self.entries.values()]

    def id_of(self, entry: Entry) -> str:
        """Return `MODEL` or `MODEL+NAME`."""
        return f"{self.model}+{entry.name}" if entry.name else self.model

    def find(self, model: str, intervention: str | None) -> Entry:
        """Return what a request asks for.

        Args:
            model: `MODEL` or `MODEL+NAME`.
            intervention: a name, "" for none; None leaves it to `model`.

        Raises:
            Fault: 404 for an unknown name, with the nearest; 400 where the two name different interventions.
        """
        by_id = {self.id_of(entry): entry for entry in self.entries.values()}
        if model not in by_id:
            raise Fault(404, str(NotFound("model", model, by_id)), "model_not_found", "model")
        entry = by_id[model]
        if intervention is None or intervention == entry.name:
            return entry
        if intervention not in self.entries:
            known = [name for name in self.entries if name]
            raise Fault(
                404, str(NotFound("intervention", intervention, known)), "intervention_not_found", "intervention"
            )
        if entry.name:
            raise Fault(
                400, f"model names {entry.name!r}, intervention {intervention!r}; give one", None, "intervention"
            )
        return self.entries[intervention]

    def prepare(self, entry: Entry, strength: float) -> Prepared:
        """Return the plan of an entry at a strength: a factor on its own, 0 for none.

        Raises:
            Fault: 400 where its strength cannot be changed, or there is nothing that has one.
        """
        if strength not in (0, 1) and not entry.name:
            raise Fault(400, f"{self.model} has no intervention whose strength could be changed", None, "strength")
        if strength == 1 or not entry.name:
            return entry.prepared
        if strength == 0:
            return self.entries[PLAIN].prepared
        if entry.fixed:
            raise Fault(400, f"{entry.name} runs at strength 1 or 0 alone: {entry.fixed}", None, "strength")
        key = (entry.name, round(strength, 4))
        if key not in self._kept:
            while len(self._kept) >= CACHED:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self.scaled(entry, key[1])
        return self._kept[key]
