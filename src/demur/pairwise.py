"""Every pair of many runs on the same prompts: paired differences of both rates, whole and by kind of prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur import paired
from demur.counted import Mask, codes, slices
from demur.metrics import Outcome
from demur.types import Prompt

AXES = (("answered_rate", "comply"), ("held_rate", "refuse"))
"""Each headline rate and the prompts that it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One rate of a later run minus that of an earlier one, on the same rows.

    A row that could not be judged, or is missing, counts as a success of the earlier run and a failure of the later.
    """

    one: int
    """The earlier run, by its place."""
    other: int
    rate: str
    slice: str
    """`all`, or `kind=`, `category=` or `language=` and a value."""
    n: int
    groups: int
    before: float
    after: float
    value: float
    low: float | None = None
    """Of the 95 % interval, which is not corrected for the number of tests; only for the slice `all`."""
    high: float | None = None
    interval: str = ""
    gains: int
    losses: int
    p: float
    """`paired.sign_flip` over groups."""
    p_holm: float | None = None
    """Corrected over its family: the `all` slices of every pair and rate, or all other slices of them."""


class Grid(NamedTuple):
    """The outcomes of runs as columns over the union of their rows."""

    prompts: list[Prompt]
    """Of each row."""
    samples: list[int]
    outcomes: list[list[Outcome | None]]
    """run -> row."""
    success: dict[str, NDArray[np.int8]]
    """rate -> shape (run, row): 1, 0, or -1 where it could not be judged."""
    complied: Mask
    """Shape (run, row)."""


def grid(runs: Sequence[Sequence[Outcome]]) -> Grid:
    """Line up the outcomes of runs by prompt and sample; the rows stand in the order of the first run.

    Args:
        runs: of each run, as `metrics.outcomes` gives them.
    """
    by_key = [{(o.prompt.id, o.sample): o for o in run} for run in runs]
    keys = list(dict.fromkeys(key for run in by_key for key in run))
    rows = [[run.get(key) for key in keys] for run in by_key]
    first = [next(o for o in column if o is not None) for column in zip(*rows, strict=True)]

    def coded(name: str) -> NDArray[np.int8]:
        found = [[-1 if o is None or not o.measured else int(getattr(o, name)) for o in run] for run in rows]
        return np.array(found, dtype=np.int8).reshape(len(rows), len(keys))

    return Grid(
        prompts=[o.prompt for o in first],
        samples=[key[1] for key in keys],
        outcomes=rows,
        success={"answered_rate": coded("answered"), "held_rate": coded("held")},
        complied=np.array([[o is not None and o.complied for o in run] for run in rows], dtype=bool),
    )


def contrasts(rows: Grid) -> tuple[Contrast, ...]:
    """Return the difference of every pair of runs, in both rates and every slice.

    The p-values are corrected by Holm's step-down in two families: whole rates, and slices.
    """
    groups = codes(rows.prompts)
    found: list[Contrast] = []
    for label, mask in slices(rows.prompts, crossed=False):
        for rate, expected in AXES:
            wanted = np.array([p.expected == expected for p in rows.prompts], dtype=bool)
            found += _of_slice(rows.success[rate][:, mask & wanted], groups[mask & wanted], rate, label)
    whole = [c for c in found if c.slice == "all"]
    parts = [c for c in found if c.slice != "all"]
    return (*_corrected(whole), *_corrected(parts))


def unsafe(rows: Grid) -> tuple[list[str], Mask]:
    """Return the ids of harmful prompts, and which runs complied with each in some sample: shape (run, prompt).

    What another run is newly unsafe on against run `one` is `found[other] & ~found[one]`.
    """
    places: dict[str, int] = {}
    at = [i for i, prompt in enumerate(rows.prompts) if prompt.expected == "refuse"]
    index = [places.setdefault(rows.prompts[i].id, len(places)) for i in at]
    found = np.zeros((len(rows.complied), len(places)), dtype=bool)
    for run, complied in zip(found, rows.complied, strict=True):
        np.logical_or.at(run, index, complied[at])
    return list(places), found


def _of_slice(success: NDArray[np.int8], groups: NDArray[np.intp], rate: str, label: str) -> Iterator[Contrast]:
    n = len(groups)
    if not n:
        return
    group = np.unique(groups, return_inverse=True)[1].ravel()
    before, after = np.where(success < 0, 1, success), np.where(success < 0, 0, success)
    for one, other in combinations(range(len(success)), 2):
        change = (after[other] - before[one]).astype(np.float64)
        bounds, made = paired.interval(change, group) if label == "all" else (None, "")
        yield Contrast(
            one=one,
            other=other,
            rate=rate,
            slice=label,
            n=n,
            groups=int(group.max()) + 1,
            before=float(before[one].mean()),
            after=float(after[other].mean()),
            value=float(change.mean()),
            low=bounds.low if bounds else None,
            high=bounds.high if bounds else None,
            interval=made,
            gains=int((change > 0).sum()),
            losses=int((change < 0).sum()),
            p=paired.sign_flip(np.bincount(group, weights=change)),
        )


def _corrected(family: Sequence[Contrast]) -> list[Contrast]:
    return [replace(c, p_holm=p) for c, p in zip(family, paired.holm([c.p for c in family]), strict=True)]
