"""What a report shows, as plain frozen records: made by `build`, read by `tables`, `figures` and the two writers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from demur.types import Metric

Unit = Literal["rate", "nats", "tokens"]
Change = Literal["fixed", "newly_held", "newly_broken", "newly_unsafe", "unchanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A number with its interval and what it rests on; `value` is None where there was nothing to count."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    groups: int | None = None
    n_unscored: int | None = None

    @classmethod
    def of(cls, value: Any) -> Rate | None:
        """Read a rate from JSON: a number, a mapping with `value` and perhaps `low, high, n, groups`; else None."""
        if isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            return cls(value=float(value))
        if isinstance(value, Mapping) and "value" in value:
            return cls(**{k: value.get(k) for k in ("value", "low", "high", "n", "groups", "n_unscored")})
        return None

    @classmethod
    def of_metric(cls, metric: Metric | None) -> Rate | None:
        """Return what a metric says, or None for none."""
        if metric is None:
            return None
        return cls(**{k: getattr(metric, k) for k in ("value", "low", "high", "n", "groups", "n_unscored")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure before and after, and the paired change where it was worked out."""

    name: str
    label: str
    meaning: str
    before: Rate | None
    after: Rate | None = None
    change: Rate | None = None
    unit: Unit = "rate"
    indent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Both axes for one category or one language, before and after."""

    name: str
    answered: tuple[Rate | None, Rate | None]
    held: tuple[Rate | None, Rate | None]


class Cell(NamedTuple):
    """Hits among scored prompts."""

    hits: int
    n: int

    @property
    def value(self) -> float | None:
        """The share, None where there is nothing to count."""
        return self.hits / self.n if self.n else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """One axis by category and language."""

    axis: Literal["answered", "held"]
    categories: tuple[str, ...]
    languages: tuple[str, ...]
    cells: Mapping[tuple[str, str], tuple[Cell, Cell]]
    """(before, after) by (category, language); both are the same run where there is no after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often two judges gave the same refusal label."""

    one: str
    other: str
    n: int
    same: int
    kappa: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Everything measured with one judge on one benchmark."""

    benchmark: str
    judge: str
    rows: tuple[Row, ...]
    categories: tuple[Slice, ...] = ()
    languages: tuple[Slice, ...] = ()
    interval: str = ""
    more: tuple[Row, ...] = ()
    """What rates do not show: pairs, readings of partial refusals, means, properties of the answers, flips."""
    notes: tuple[str, ...] = ()
    """Where its judge is not validated, and why."""

    def row(self, name: str) -> Row | None:
        """Return the row called `name`, or None."""
        return next((r for r in self.rows if r.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One intervention tried by the sweep: screened by first token, perhaps judged on whole answers."""

    id: str
    kind: str
    layer: int | None
    strength: float | None
    against: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Other settings that tell it from its like."""
    screen: tuple[Rate | None, Rate | None]
    """(answered, held) by first token."""
    judged: tuple[Rate | None, Rate | None]
    """(answered, held) on generated answers."""
    correct: Rate | None = None
    floor: str = ""
    floor_passed: bool | None = None

    @property
    def is_judged(self) -> bool:
        """Whether both axes were measured on whole answers."""
        return all(r is not None and r.value is not None for r in self.judged)

    @property
    def point(self) -> tuple[Rate, Rate] | None:
        """Both axes, from whole answers where there are any; None where neither was measured."""
        for pair in (self.judged, self.screen):
            answered, held = pair
            if answered is not None and held is not None and answered.value is not None and held.value is not None:
                return answered, held
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What was tried on the validation split, and what was chosen."""

    trials: tuple[Trial, ...]
    front: tuple[str, ...]
    choice: str | None
    reason: str
    margin: float | None
    base: tuple[Rate | None, Rate | None]
    base_screen: tuple[Rate | None, Rate | None]
    split: str
    n: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """The held rate of one stratum of the floor, before and after."""

    name: str
    n: int
    groups: int
    before: float | None
    after: float | None
    difference: float | None
    bound: float | None
    status: str
    passed: bool
    required: bool = True
    hcr: tuple[float | None, float | None] = (None, None)
    """Harmful compliance before and after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorView:
    """The safety floor as applied once, on the test split."""

    passed: bool
    margin: float
    strata: tuple[Stratum, ...]
    newly_unsafe: tuple[str, ...]
    severe: tuple[str, ...] = ()
    """Newly unsafe prompts of a severe category that nobody has cleared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate:
    """Where one prompt lies along the refusal direction, before and after (a row of `coordinates.jsonl`)."""

    prompt_id: str
    kind: str = ""
    group: str = ""
    t_before: float | None = None
    t_after: float | None = None
    refused_before: bool | None = None
    refused_after: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer and how it was judged."""

    text: str
    state: str
    """What became of the row, as in `metrics.State`."""
    reason: str = ""
    """Why it is unscored, where it is."""
    quality: str = ""
    harmful: bool = False
    """Whether it answers a prompt that must be refused, or a judge called it harmful: folded away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """One prompt with its answer before and after."""

    prompt_id: str
    sample: int
    text: str
    kind: str
    expected: str
    category: str
    language: str
    group: str
    before: Answer
    after: Answer | None
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcripts:
    """One list of transcripts under one heading."""

    name: str
    title: str
    note: str
    rows: tuple[Pairing, ...]
    total: int
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """How outcomes moved for one expectation: counts[before outcome][after outcome]."""

    expected: str
    outcomes: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscored:
    """One reason for which rows carry no label, and how many before and after."""

    reason: str
    fault: Literal["model", "judge"]
    before: int
    after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Where the numbers of one run come from."""

    name: str
    facts: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    """(file name, sha256)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything a report shows. Sections that were not measured are None or empty."""

    title: str
    model: str
    intervention: str
    created: str
    organism: bool
    off_world: tuple[str, ...]
    """Benchmarks outside the organism's world, when the model is the organism."""
    boards: tuple[Board, ...]
    """The first one is the headline."""
    compared: bool
    """Whether there is an after."""
    freed_correct: Rate | None = None
    heats: tuple[Heat, ...] = ()
    """Both axes by language and category, under the headline judge."""
    agreements: tuple[Agreement, ...] = ()
    disputed: Transcripts | None = None
    price: tuple[Row, ...] = ()
    price_by_position: tuple[Rate, ...] = ()
    """KL at each answer position, the first one first."""
    price_note: str = ""
    floor: FloorView | None = None
    sweep: Sweep | None = None
    boundary: Mapping[str, Any] | None = None
    """`explain.json` as it stands."""
    coordinates: tuple[Coordinate, ...] = ()
    transcripts: tuple[Transcripts, ...] = ()
    transitions: tuple[Transitions, ...] = ()
    unscored: tuple[Unscored, ...] = ()
    n_rows: int = 0
    runs: tuple[RunFacts, ...] = ()
    leaks: tuple[str, ...] = ()
    """What is tested on and was fitted or chosen on, pair by pair."""
    sides: tuple[str, str] = ("", "")
    """What two sides of a comparison are called, where they have names of their own."""
    recipe: str = ""
    command: str = ""

    @property
    def headline(self) -> Board | None:
        """The first judge on the first benchmark."""
        return self.boards[0] if self.boards else None
