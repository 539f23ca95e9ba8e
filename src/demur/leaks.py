"""Whether prompts that are fitted or chosen on stand in what is tested on; kept beside the results.

A training set that stands in an evaluation set stops the job, unless it was told to go on; the report then shows it in
red. What is chosen on and returns in the test is warned of.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from demur.cache import LABEL
from demur.dedup import Overlap, overlap
from demur.errors import DataError
from demur.files import write_json
from demur.types import Prompt, to_json

FILE = "overlap.json"
"""A list, one record for each pair of benchmarks that share something; empty: looked for, nothing found."""

TRAINED = "fit"
"""The stage whose prompts must not return."""
_EXAMPLES = 20
_NAMED = 5


class OverlapWarning(UserWarning):
    """What is tested on is partly what was fitted on, so the result is better than it would be on new prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """What an earlier stage's benchmark and a later stage's share."""

    earlier: str
    """The stage whose prompts must not return: `fit` or `validation`."""
    later: str
    """`validation`, `dev` or `test`."""
    overlap: Overlap
    """`a` is the earlier benchmark, `b` the later one."""
    grouped: int
    """Prompts of the later one whose group (the item behind translations or rewrites) stands in the earlier one."""
    returned: tuple[str, ...] = ()
    """The ids of these."""

    def record(self) -> dict[str, Any]:
        """Return the leak as JSON values: counts and shares, and the ids of the best-matched prompts."""
        made = {
            "earlier": self.earlier,
            "later": self.later,
            **to_json(self.overlap),
            "grouped": self.grouped,
            "returned": list(self.returned[:_EXAMPLES]),
        }
        made |= {"share_a": self.overlap.share_a, "share_b": self.overlap.share_b}
        return {**made, "matches": made["matches"][:_EXAMPLES]}

    @property
    def ids(self) -> str:
        """The ids of the first prompts that return, in words."""
        found = [match.b for match in self.overlap.matches] or list(self.returned)
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return ", ".join(found[:_NAMED]) + more

    def __str__(self) -> str:
        """Return the leak as a sentence."""
        o = self.overlap
        counts = [(o.exact_b, "exactly"), (o.near_b, "nearly"), (self.grouped, "by their group")]
        found = ", ".join(f"{n} {how}" for n, how in counts if n)
        return f"of {o.size_b} prompts of {o.b} ({self.later}) some stand in {o.a} ({self.earlier}): {found}"


def check(stages: Mapping[str, Sequence[Prompt]], out: Path, *, allowed: bool = True) -> tuple[Leak, ...]:
    """Compare the prompts of every stage with those of later ones; write `overlap.json`, and warn where some return.

    Prompts of the synthetic world resemble each other by construction and its splits share no item, so among
    themselves they are compared for equal texts and groups alone.

    Args:
        stages: prompts by stage, in the order in which they are used: fit, validation, test.
        out: the folder of the results.
        allowed: go on where prompts of the stage `fit` return; else they stop the job.

    Returns:
        a leak for each pair of benchmarks that share something.

    Raises:
        DataError: where prompts of the stage `fit` return and that is not allowed, with their ids.
    """
    found = [
        leak
        for (earlier, before), (later, after) in combinations(stages.items(), 2)
        for one in _by_benchmark(before).items()
        for two in _by_benchmark(after).items()
        if (leak := _compared(earlier, one, later, two))
    ]
    write_json(out / FILE, [leak.record() for leak in found])
    trained = [leak for leak in found if leak.earlier == TRAINED]
    if trained and not allowed:
        listed = "; ".join(f"{leak} ({leak.ids})" for leak in trained)
        raise DataError(
            f"the training set overlaps what it is evaluated on, so the result would flatter: {listed}. More ids are "
            f"in {out / FILE}. Take these prompts out, or go on with --allow-overlap: the report then says so in red."
        )
    if found:
        listed = "; ".join(map(str, found))
        warnings.warn(
            f"what is tested on was partly fitted or chosen on, so the result flatters: {listed}. "
            f"The ids are in {out / FILE}; take other prompts, or read the result as one on known ones.",
            OverlapWarning,
            stacklevel=2,
        )
    return tuple(found)


def _by_benchmark(prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    parts: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        parts.setdefault(prompt.get(LABEL) or prompt.source, []).append(prompt)
    return parts


def _compared(earlier: str, one: tuple[str, list[Prompt]], later: str, two: tuple[str, list[Prompt]]) -> Leak | None:
    world = {p.source for p in one[1]} == {p.source for p in two[1]} == {"world"}
    shared = overlap(one[1], two[1], names=(one[0], two[0]), near=not world)
    groups = {(p.source, p.group) for p in one[1] if p.group}
    matched = {match.b for match in shared.matches}
    grouped = tuple(p.id for p in two[1] if (p.source, p.group) in groups and p.id not in matched)
    if not matched and not grouped:
        return None
    return Leak(earlier=earlier, later=later, overlap=shared, grouped=len(grouped), returned=grouped)
