"""Which rows `sft` and `dpo` learn from: those of a file, or of the fit split, whose answer is what was wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from demur.ecosystem.trl_rows import fault
from demur.errors import DataError
from demur.files import read_lines
from demur.responses import Dropped, Made, Pair, Role
from demur.types import Example, Prompt, from_json


def rows(path: Path) -> list[Example]:
    """Read JSONL: each row an `Example`, or a row in trl's conversational formats, as `preference.jsonl` holds them.

    Raises:
        DataError: for a row that is neither, by its number.
    """
    made = []
    for number, row in read_lines(path):
        where = f"{path}:{number}"
        if isinstance(row, Mapping) and isinstance(row.get("prompt"), list):
            made.append(_of_messages(row, where))
        else:
            made.append(from_json(Example, row, where=where))
    return made


def _of_messages(row: Mapping[str, Any], where: str) -> Example:
    """Read a row of trl's prompt-completion or preference format."""
    try:
        turns = [(m["role"], m["content"]) for m in row["prompt"]]
        answer = (row.get("completion") or row["chosen"])[0]["content"]
        rejected = row["rejected"][0]["content"] if "rejected" in row else ""
        *before, (_, text) = turns
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{where}: no row in trl's conversational formats: {error!r} is missing") from None
    system = next((content for role, content in before if role == "system"), None)
    history = tuple(turn for turn in before if turn[0] != "system")
    prompt = Prompt(id=where, text=text, expected=None, source="file", system=system, history=history)
    return Example(prompt=prompt, split="fit", answer=answer, rejected=rejected)


def learnable(examples: Iterable[Example], *, paired: bool) -> Made:
    """Return what can be learnt from the fit split, and what not with the reason.

    A row without a label is taken as it is; one with a label must be what a good model would do.

    Args:
        examples: rows.
        paired: whether the answer to unlearn is needed, too.
    """
    made = Made()
    for e in examples:
        if e.split != "fit":
            continue
        role = _role(e.prompt)
        reason = fault(e, paired)
        if reason:
            made.dropped.append(Dropped(prompt=e.prompt, role=role, reason=reason))
        else:
            made.pairs.append(Pair(prompt=e.prompt, role=role, chosen=e.answer, rejected=e.rejected if paired else ""))
    return made


def _role(prompt: Prompt) -> Role:
    if prompt.expected == "refuse":
        return "harmful"
    return "benign" if prompt.kind == "borderline" else "general"
