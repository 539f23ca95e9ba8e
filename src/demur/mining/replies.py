"""Asking a generator once for each request, across kills, and what its replies say beside the wanted text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demur.files import RowWriter, read_rows
from demur.judges.keyword import Keyword
from demur.types import Generator, Prompt, Response, Sampling

_REFUSED = Keyword()


def ask(generator: Generator, requests: Sequence[Prompt], sampling: Sampling, path: Path) -> dict[str, Response]:
    """Return a reply for each request, by its id; those that stand in the file are not asked for again.

    A failed reply is not kept: it is asked for again by the next run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with RowWriter(path) as writer:
        held = {r.prompt_id: r for r in read_rows(path, Response, tolerate_torn=True)} if path.is_file() else {}
        for response in generator([p for p in requests if p.id not in held], sampling):
            held[response.prompt_id] = response
            if response.finish != "error":
                writer.write(response)
    return held


def missing(reply: Response | None) -> str:
    """Say why there is no text to read in a reply, or ""."""
    if reply is None:
        return "the generator gave no reply"
    if reply.finish == "error":
        return "the generator failed"
    if reply.finish == "filtered":
        return "the generator's system refused"
    return "" if reply.text.strip() else "empty reply"


def refuses(text: str) -> bool:
    """Say whether a text reads as a refusal."""
    return _REFUSED.label(text)[0] == "refusal"


def told(reply: Response | None) -> str:
    """Return what is kept of a reply as the detail of a dropped row."""
    return "" if reply is None else reply.error or reply.text[:200]
