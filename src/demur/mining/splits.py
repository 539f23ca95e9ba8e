"""Which rows of a mined set are trained on and which are held out: whole groups, never parts of one.

Rows belong together when they share an id, a pair, a group or a folded text, directly or through other rows: a harmful
twin with its rewrites and theirs with translations. What was selected is trained on; of the rows that the boundary
was calibrated on, those that share nothing with it are held out. Where there are none of these, a share of all groups
is drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

from demur.dedup import folded
from demur.types import Example, Prompt

Side = Literal["fit", "dev"]


def components(prompts: Iterable[Prompt]) -> list[int]:
    """Return for each prompt the number of the first one that it belongs together with."""
    owner: dict[str, int] = {}
    root: list[int] = []
    for row, prompt in enumerate(prompts):
        root.append(row)
        keys = {f"id {key}" for key in (prompt.id, prompt.pair, prompt.group) if key}
        for key in (*keys, f"text {folded(prompt.text)}"):
            a, b = _find(root, owner.setdefault(key, row)), _find(root, row)
            root[max(a, b)] = min(a, b)
    return [_find(root, row) for row in range(len(root))]


def sides(
    selected: Sequence[Prompt], beside: Sequence[Example], *, dev: float, seed: int
) -> tuple[list[Side], list[Side | None]]:
    """Return the split of each selected prompt and of each row beside them.

    Args:
        selected: what mining chose.
        beside: other rows, each with the split it comes from.
        dev: share of groups held out where no row beside is.
        seed: of that draw.

    Returns:
        the splits; None for a row beside that stands among the selected ones, or whose group is on the other side.
    """
    rows = [*selected, *(e.prompt for e in beside)]
    part = components(rows)
    own = part[len(selected) :]
    held = {c for c, e in zip(own, beside, strict=True) if e.split == "dev"} - set(part[: len(selected)])
    drawn = not held
    if drawn:
        held = {c for c in part if _drawn(rows[c].cluster, seed) < dev}
    of: dict[int, Side] = {c: "dev" if c in held else "fit" for c in part}
    known = {p.id for p in selected} | {folded(p.text) for p in selected}
    kept: list[Side | None] = []
    for c, e in zip(own, beside, strict=True):
        there = e.split == of[c] or (drawn and of[c] == "dev")
        stands = e.prompt.id in known or folded(e.prompt.text) in known
        kept.append(of[c] if there and not stands else None)
    return [of[c] for c in part[: len(selected)]], kept


def _find(root: list[int], row: int) -> int:
    while root[row] != row:
        root[row] = root[root[row]]
        row = root[row]
    return row


def _drawn(group: str, seed: int) -> float:
    return zlib.crc32(f"{seed}/{group}".encode("utf-8", "surrogatepass")) / 2**32
