"""The closed loop: what one round finds decides what the next one asks for.

A round generates, sorts out, moderates and scores in its own folder `rounds/NN`. The next round's shares of strategies
follow their yield, refused candidates that passed moderation per request made, with a floor for every strategy so that
none is given up on a few draws; the best of what was found become examples shown to the generator and the parents of
`mutate` and `recombine`. Selection runs once, over the rows of all rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from demur.errors import ConfigError
from demur.files import lock, write_json
from demur.mining import choosing
from demur.mining.folder import CANDIDATES, CARD, DISTINCT, MODERATED, SCORED, Folder
from demur.mining.rewriting import Rewriting
from demur.mining.rows import Dropped, Writer, prompts, stream
from demur.mining.stages import Mining, Progress, card_of, prepare, select_record
from demur.mining.strategies import OPERATORS, STRATEGIES
from demur.types import Prompt, from_json, to_json

FLOOR = 0.2
"""Share of a round's requests that is spread evenly over all strategies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Rounds of rewriting, each fed by the last."""

    first: Rewriting
    """The first round; its settings hold for all, shares, examples and parents change."""
    rounds: int = 1
    operators: tuple[str, ...] = ()
    """`mutate` and `recombine`: evolve what was found, beside rewriting the seeds."""
    fitness: Literal["near", "refused"] = "near"
    """What parents are chosen by: −|d|, or r."""
    parents: int = 32
    """Prompts that are kept as parents and examples."""
    closed: bool = True
    """Whether a round learns from the last; false repeats the first round's shares with new draws."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.parents < 1:
            raise ConfigError(f"rounds is {self.rounds} and parents {self.parents}; both must be at least 1")
        for name in self.operators:
            if name not in OPERATORS:
                raise ConfigError(f"no operator named {name!r}; there are {', '.join(OPERATORS)}")


class Found(NamedTuple):
    """What the rounds so far have found."""

    yields: Mapping[str, tuple[int, int]]
    """Strategy -> (refused candidates, candidates and dropped replies)."""
    best: tuple[Prompt, ...]


def mine_in_rounds(
    what: Mining, loop: Loop, out: Path, *, progress: Progress, overwrite: bool = False
) -> dict[str, Any]:
    """Run the rounds, gather their rows, select from all; return the card.

    `what.sources` are read in the first round, beside the rewrites.

    Raises:
        ConfigError, DataError: as `stages.mine`.
    """
    with lock(out):
        whole = Folder(out, overwrite=overwrite)
        folders: list[Folder] = []
        history: list[dict[str, Any]] = []
        for number in range(loop.rounds):
            source = plan(loop, number, found(folders, loop))
            earlier = tuple(folder.file(MODERATED) for folder in folders)
            mining = replace(what, sources=(*(what.sources if not number else ()), source), earlier=earlier)
            folder = Folder(out / "rounds" / f"{number:02d}")
            prepare(folder, mining, lambda s, d, t, n=number: progress(f"round {n}: {s}", d, t))  # type: ignore[misc]
            folders.append(folder)
            history.append({"round": number, "shares": dict(source.shares), "yields": found([folder], loop).yields})
        gather(whole, folders)
        whole.stage("select", select_record(what), lambda: choosing.select(whole, what.selection, what.beside))
        whole.gather()
        every = tuple(chain(what.sources, (loop.first,)))
        card = {**card_of(whole, replace(what, sources=every)), "rounds": to_json(history), "closed": loop.closed}
        write_json(whole.file(CARD), card)
    return card


def plan(loop: Loop, number: int, seen: Found) -> Rewriting:
    """Return what a round asks for."""
    first = replace(loop.first, number=number)
    if not number or not loop.closed:
        return first
    names = [name for name in STRATEGIES if first.shares.get(name, 0) > 0]
    names += list(loop.operators) if seen.best else []
    return replace(first, shares=shares(names, seen.yields), examples=seen.best, parents=seen.best)


def shares(names: Sequence[str], yields: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Return each strategy's share of the next round: by its yield, above a common floor.

    The yield of a strategy is (hits + 1) / (tries + 2), so that one never tried stands at one half.
    """
    rate = {name: (yields.get(name, (0, 0))[0] + 1) / (yields.get(name, (0, 0))[1] + 2) for name in names}
    total = sum(rate.values())
    return {name: FLOOR / len(names) + (1 - FLOOR) * rate[name] / total for name in names}


def found(folders: Sequence[Folder], loop: Loop) -> Found:
    """Count yields over rounds, and take the fittest refused prompts, in turn from every category."""
    tries: dict[str, int] = {}
    hits: dict[str, int] = {}
    fit: list[tuple[float, str, Prompt]] = []
    for folder in folders:
        for prompt in prompts(folder.file(CANDIDATES)):
            if name := prompt.get("strategy"):
                tries[name] = tries.get(name, 0) + 1
        for row in stream(folder.dropped("generate")):
            if str(row["id"]).startswith("rewrite/"):
                name = str(row["id"]).split("/")[2]
                tries[name] = tries.get(name, 0) + 1
        for row in stream(folder.file(SCORED)):
            prompt = from_json(Prompt, row["prompt"])
            if prompt.kind == "harmful" or not row["refused"]:
                continue
            if name := prompt.get("strategy"):
                hits[name] = hits.get(name, 0) + 1
                value = -abs(row["d"]) if loop.fitness == "near" else row["r"]
                fit.append((-value, prompt.id, prompt))
    return Found({name: (hits.get(name, 0), count) for name, count in sorted(tries.items())}, _best(fit, loop.parents))


def _best(fit: list[tuple[float, str, Prompt]], count: int) -> tuple[Prompt, ...]:
    queues: dict[str, list[Prompt]] = {}
    for _, _, prompt in sorted(fit, key=lambda row: row[:2]):
        queues.setdefault(prompt.category, []).append(prompt)
    ranked = sorted((place, name, p) for name, queue in queues.items() for place, p in _numbered(queue))
    return tuple(p for _, _, p in ranked[:count])


def _numbered(queue: Sequence[Prompt]) -> list[tuple[int, Prompt]]:
    return list(enumerate(queue))


def gather(whole: Folder, folders: Sequence[Folder]) -> None:
    """Write the rows of all rounds into one folder; a seed that every round has stands there once."""
    for stage, name in (("generate", CANDIDATES), ("distinct", DISTINCT), ("moderate", MODERATED), ("score", SCORED)):

        def join(stage: str = stage, name: str = name) -> None:
            seen: set[str] = set()
            with Writer(whole.file(name)) as kept, Writer(whole.dropped(stage)) as dropped:
                for folder in folders:
                    for row in stream(folder.file(name)):
                        key = str(row["prompt"]["id"] if name == SCORED else row["id"])
                        if key not in seen:
                            seen.add(key)
                            kept.write(row)
                    for row in stream(folder.dropped(stage)):
                        if row["id"] not in seen:
                            dropped.write(from_json(Dropped, row))

        whole.stage(stage, {"rounds": [folder.done[stage]["fingerprint"] for folder in folders]}, join)
