"""Candidates written by a model: harmful seeds rewritten by strategies, found prompts mutated and recombined."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from demur.dedup import folded
from demur.errors import ConfigError, DataError
from demur.files import fingerprint
from demur.mining.replies import ask, missing, refuses, told
from demur.mining.rows import Dropped, digest
from demur.mining.sources import allowed
from demur.mining.strategies import OPERATORS, STRATEGIES, Templates, load
from demur.types import Generator, Part, Prompt, Response, Sampling, to_json

LONGEST, SHORTEST = 600, 8
"""Characters that a candidate may have (a third of them in Chinese, Japanese and Korean text)."""
_ITEM = re.compile(r"^\s*(?:\(?\d{1,3}\s*[.):、．]|[-*•])\s*(.+?)\s*$")
_QUOTES = "\"“”„«»「」'"


class _Job(NamedTuple):
    request: Prompt
    strategy: str
    seeds: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """Asks a generator for harmless rewrites of harmful seeds, and for variants of prompts found before.

    Each request is answered once; its reply is kept in the work folder, so that a cut-off run asks only what is left.
    A reply gives up to `k` candidates, each with its seed as harmful twin. Everything else is dropped with the reason:
    failed, filtered and refused requests, replies without a list, items that refuse, repeat the seed, or are too short
    or too long, and the last item of a reply that was cut off.
    """

    seeds: tuple[Prompt, ...]
    """Harmful prompts; each becomes a row of its own, the twin of its rewrites."""
    generator: Generator
    part: Part
    """The generator as it is recorded."""
    shares: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STRATEGIES, 1.0))
    """Strategy or operator -> its share of the requests; `mutate` and `recombine` need parents."""
    requests: int = 0
    """How many are sent; 0: as many as there are pairs of a seed and a strategy."""
    k: int = 5
    """Rewrites asked for in a request."""
    templates: str = ""
    """A TOML file of templates; empty: those of each seed's language."""
    examples: tuple[Prompt, ...] = ()
    """Prompts shown as the kind that is wanted, up to three of the seed's language in a request."""
    parents: tuple[Prompt, ...] = ()
    """What is mutated and recombined."""
    number: int = 0
    """Of the round."""
    seed: int = 0
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=1024, temperature=0.8, top_p=0.95))

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            if name not in (*STRATEGIES, *OPERATORS):
                raise ConfigError(f"no strategy named {name!r}; there are {', '.join((*STRATEGIES, *OPERATORS))}")
            if share < 0:
                raise ConfigError(f"strategy {name} has the share {share}; it must be 0 or more")
        if not any(self.shares.values()):
            raise ConfigError("rewriting has no strategy with a share above 0")
        if self.k < 1 or self.requests < 0:
            raise ConfigError(f"rewriting: k is {self.k} and requests {self.requests}; at least 1 and 0 are needed")
        if not self.seeds:
            raise DataError(
                "rewriting has no seeds; name a set with harmful prompts, as in --seeds file:path=own.jsonl"
            )

    @property
    def record(self) -> Mapping[str, Any]:
        """Generator, seeds, strategies, templates and sampling."""
        used = sorted({self._templates(p).sha for p in self.seeds})
        return {
            "kind": "rewriting",
            "generator": to_json(self.part),
            "seeds": {"prompts": len(self.seeds), "texts": digest(p.text for p in self.seeds)},
            "shares": dict(self.shares),
            "requests": self.requests,
            "k": self.k,
            "templates": used,
            "examples": fingerprint([p.text for p in self.examples]),
            "parents": fingerprint([p.text for p in self.parents]),
            "round": self.number,
            "seed": self.seed,
            "sampling": to_json(self.sampling),
        }

    def __call__(self, work: Path) -> Iterator[Prompt | Dropped]:
        """Yield the seeds, then what the generator made of them, in the order of the requests."""
        seeds = {p.id: _as_twin(p) for p in self.seeds}
        yield from seeds.values()
        jobs = list(self._jobs())
        path = work / f"generate.replies-{self.number}.jsonl"
        replies = ask(self.generator, [job.request for job in jobs], self.sampling, path)
        for job in jobs:
            yield from self._read(job, replies.get(job.request.id))

    def _templates(self, prompt: Prompt) -> Templates:
        return load(self.templates or prompt.language)

    def _jobs(self) -> Iterator[_Job]:
        names = [name for name in (*STRATEGIES, *OPERATORS) if self.shares.get(name, 0) > 0]
        names = [name for name in names if name in STRATEGIES or self.parents]
        total = self.requests or len(self.seeds) * len(names)
        for name, count in zip(names, apportioned([self.shares[n] for n in names], total), strict=True):
            draw = random.Random(f"{self.seed}/{self.number}/{name}")
            pool = list(self.seeds if name in STRATEGIES else self.parents)
            draw.shuffle(pool)
            for n, prompt in enumerate(islice(cycle(pool), count)):
                others = [p for p in pool if p.language == prompt.language and p.id != prompt.id]
                seeds = (prompt, draw.choice(others)) if name == "recombine" and others else (prompt,)
                shown = [p.text for p in self.examples if p.language == prompt.language]
                shown = draw.sample(shown, min(3, len(shown)))
                text = self._templates(prompt).ask(name, [p.text for p in seeds], self.k, shown)
                request = Prompt(
                    id=f"rewrite/{self.number}/{name}/{n}", text=text, expected=None, source="mining",
                    language=prompt.language,
                )  # fmt: skip
                yield _Job(request, name, seeds)

    def _read(self, job: _Job, reply: Response | None) -> Iterator[Prompt | Dropped]:
        """Turn one reply into candidates and dropped rows."""
        items, why = listed(reply)
        if why:
            yield Dropped(id=job.request.id, stage="generate", reason=why, detail=told(reply))
            return
        parent = job.seeds[0]
        twin = parent.id if job.strategy in STRATEGIES else parent.pair
        cut = reply is not None and reply.finish == "length"
        for n, text in enumerate(items):
            name = f"{job.request.id}/{n}"
            fault = "cut off" if cut and n == len(items) - 1 else "more than were asked for" if n >= self.k else ""
            fault = fault or flaw(text, [p.text for p in job.seeds])
            if fault:
                yield Dropped(id=name, stage="generate", reason=fault, text=text[:2000])
                continue
            meta = [("strategy", job.strategy), ("round", str(self.number))]
            meta += [("parents", " ".join(p.id for p in job.seeds))] if job.strategy in OPERATORS else []
            yield Prompt(
                id=name, text=text, expected=None, source="mining", category=parent.category,
                language=parent.language, pair=twin, group=parent.cluster, meta=tuple(meta),
            )  # fmt: skip


def listed(reply: Response | None) -> tuple[list[str], str]:
    """Return the items of a reply's list, or ([], why there are none)."""
    why = missing(reply)
    if why or reply is None:
        return [], why
    items = [match[1].strip().strip(_QUOTES).strip() for raw in reply.text.splitlines() if (match := _ITEM.match(raw))]
    items = [item for item in items if item]
    if items:
        return items, ""
    return [], "the generator refused" if refuses(reply.text) else "no list in the reply"


def flaw(text: str, seeds: Sequence[str]) -> str:
    """Say why a text is no candidate, or ""."""
    size = sum(3 if "\u3040" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7af" else 1 for char in text)
    if size < SHORTEST or size > LONGEST:
        return "too short" if size < SHORTEST else "too long"
    if folded(text) in {folded(seed) for seed in seeds}:
        return "repeats its seed"
    return "reads as a refusal" if refuses(text) else ""


def apportioned(shares: Sequence[float], total: int) -> list[int]:
    """Split a whole number by shares (largest remainders, earlier ones first among equals)."""
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    counts = [int(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _as_twin(seed: Prompt) -> Prompt:
    """Return a seed as the harmful row that its rewrites point to."""
    made = allowed(seed)
    values = {**to_json(made), "expected": "refuse", "kind": "harmful", "pair": "", "group": made.cluster}
    return Prompt(**{**values, "history": made.history, "meta": made.meta})
