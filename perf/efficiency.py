"""What finding over-refusals costs, on the organism with its oracle: `python perf/efficiency.py [OUT.md]`.

Candidates are the benign prompts of the world's train split. The axis comes from half of the validation split's groups
and is calibrated on the other half, so that no candidate's group was seen. An over-refusal is confirmed when the answer
is a refusal by the oracle. Three tables:

1. precision@k of a ranking: of the k it names first, the share that is confirmed. `boundary` takes the smallest |d|
   among prompts whose first token refuses, `readout` the highest P(refuse), `axis` the highest t, `words` the highest
   margin of a classifier of words, fitted out of fold on the judged answers to the other groups (which it needs and
   the others do not).
2. Cost: confirmed over-refusals for 1,000 candidates, forward tokens (read or written) and generated tokens.
   *Everything* answers and judges all; the others read what they rank by and answer the k they name.
3. Rounds that learn against rounds that do not, at equal requests: a stand-in for a generator gives, for each strategy,
   unseen prompts of one family of the world, and for mutate and recombine prompts with the parent's verb.

Intervals: group bootstrap, 95 % (Wilson on groups where all agree); for the rounds, over seeds. Everything is
deterministic.
"""

from __future__ import annotations

import random
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from demur import stats, world
from demur.assemble import measurement
from demur.boundary_scorer import BoundaryScorer
from demur.cache import opened
from demur.counted import codes, mean
from demur.fitting import examples
from demur.generators.local import Local
from demur.measure import measure
from demur.mining import words
from demur.mining.loop import Loop, mine_in_rounds
from demur.mining.rewriting import Rewriting, listed
from demur.mining.rows import Score
from demur.mining.rows import prompts as prompts_of
from demur.mining.selection import Selection
from demur.mining.stages import Mining
from demur.mining.strategies import STRATEGIES
from demur.readout import REFUSALS, find_openers
from demur.records import LoadedRun
from demur.types import Example, Item, Part, Prompt, Response, Sampling, Verdict

KS = (50, 100, 200, 400)
AT = 400
SEEDS = 10
ROUNDS, REQUESTS = 5, 24
FAMILIES = dict(zip(STRATEGIES, (
    "homonym", "lookalike", "fiction", "definition", "plain", "person", "danger_definition", "homonym",
), strict=True))  # fmt: skip


class Pool:
    """The candidates with what the model did, where they lie, and what each cost."""

    def __init__(self, out: Path) -> None:
        lm = Local(model="organism").lm()
        asked = {split: _measured(split, out) for split in ("validation", "train")}
        run, held = asked["train"], asked["validation"]
        rows = [replace(e, split="fit" if _half(e.prompt) else "dev") for e in examples(held, "fit")]
        openers = find_openers(lm, held.responses, held.verdicts)
        self.scorer = BoundaryScorer.fit(lm, rows, openers)
        kept = [e for e in examples(run, "fit") if e.prompt.expected == "comply"]
        self.rows: list[Example] = kept
        self.prompts = [e.prompt for e in kept]
        self.confirmed = np.array([e.label in REFUSALS for e in kept])
        self.groups = [p.cluster for p in self.prompts]
        scores = {s.prompt_id: s for s in self.scorer(run.prompts)}
        self.scores: dict[str, Score] = scores
        self.read = np.array([len(e.ids) for e in lm.encode_all(self.prompts)])
        wrote = {r.prompt_id: r.n_tokens for r in run.responses}
        self.wrote = np.array([wrote[p.id] for p in self.prompts])

    def rankings(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Return, for each ranking, all rows, best first."""
        own = [self.scores[p.id] for p in self.prompts]
        d = np.array([np.nan if s.d is None else s.d for s in own])
        r, t = np.array([s.r for s in own], float), np.array([s.t for s in own], float)
        group = np.array([zlib.crc32(g.encode()) for g in self.groups])
        read = words.out_of_fold(lambda rows: [self.prompts[i].text for i in rows], self.confirmed, group, seed=seed)
        shuffled = np.random.default_rng(seed).permutation(len(own))
        boundary = np.lexsort((np.abs(d), ~np.array([bool(s.refused) for s in own])))
        return {
            "boundary": boundary,
            "readout": np.argsort(-r, kind="stable"),
            "axis": np.argsort(-t, kind="stable"),
            "words": np.argsort(-read(np.arange(len(own))), kind="stable"),
            "random": shuffled,
        }

    def share(self, rows: np.ndarray) -> tuple[float, float, float]:
        """Return the confirmed share of some rows with its interval."""
        every = np.ones(len(rows), bool)
        groups = codes([self.prompts[i] for i in rows])
        found = mean(self.confirmed[rows].astype(float), every, groups, n_unscored=0)
        return float(found.value or 0.0), float(found.low or 0.0), float(found.high or 0.0)


class World:
    """Gives unseen candidates of the world as a numbered list, by the strategy that a request names."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self.left = list(pool.prompts)
        random.Random(seed).shuffle(self.left)
        self.verbs = {_said(p.text): p.get("verb") for p in pool.prompts}

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Answer requests."""
        for prompt in prompts:
            name = prompt.id.split("/")[2]
            if name in FAMILIES:
                fits = [p for p in self.left if p.category == FAMILIES[name]]
            else:
                verbs = {verb for text, verb in self.verbs.items() if text in prompt.text}
                fits = [p for p in self.left if p.get("verb") in verbs]
            fits = [p for p in fits if p.language == prompt.language][:5]
            self.left = [p for p in self.left if p not in fits]
            text = "\n".join(f"{n}. {p.text}" for n, p in enumerate(fits, 1))
            yield Response(prompt_id=prompt.id, text=text, finish="stop")


class Benign:
    """Calls every prompt benign: the world's are, and what is compared is not moderation."""

    questions = ("prompt_harm",)

    def __call__(self, items: Sequence[Item]) -> list[Verdict]:
        """Give one verdict per item."""
        return [Verdict(prompt_id=i.prompt.id, judge="benign", question="prompt_harm", label="benign") for i in items]


def precision(pool: Pool) -> list[str]:
    """Return the table of precision@k."""
    n, base = len(pool.prompts), pool.share(np.arange(len(pool.prompts)))
    told = f"n = {n:,} benign candidates, {len(set(pool.groups))} groups; refused by the judged answer: {_share(base)}."
    head = ["", told, "", f"| ranking | {' | '.join(f'k = {k}' for k in KS)} |", "|---" * (len(KS) + 1) + "|"]
    found = pool.rankings()
    return head + [
        f"| {name} | {' | '.join(_share(pool.share(rows[:k])) for k in KS)} |" for name, rows in found.items()
    ]


def cost(pool: Pool) -> list[str]:
    """Return the table of what a confirmed over-refusal costs."""
    every = np.arange(len(pool.prompts))
    found = pool.rankings()
    table = ["", f"Each ranking answers its first {AT}; *everything* answers all {len(every):,}.", ""]
    table += ["| way | confirmed | per 1,000 candidates | per 1,000 forward tokens | per 1,000 generated tokens |"]
    table += ["|---|---|---|---|---|"]
    ways = {"everything": (every, every)}
    ways |= {name: (every, rows[:AT]) for name, rows in found.items() if name in ("boundary", "readout", "axis")}
    ways |= {name: (found[name][:AT],) * 2 for name in ("words", "random")}
    for name, (read, answered) in ways.items():
        hits, low, high = (float(v * len(answered)) for v in pool.share(answered))
        tokens, wrote = pool.read[read].sum() + pool.wrote[answered].sum(), pool.wrote[answered].sum()
        cells = [f"{1000 * hits / size:.1f} [{1000 * low / size:.1f}, {1000 * high / size:.1f}]" for size in
                 (len(every) if name != "random" else AT, tokens, wrote)]  # fmt: skip
        table.append(f"| {name} | {hits:.0f} | {' | '.join(cells)} |")
    return table


def rounds(pool: Pool, out: Path) -> list[str]:
    """Return the table of closed against open rounds."""
    made = {name: [_loop(pool, seed, name == "closed", out / f"{name}{seed}") for seed in range(SEEDS)]
            for name in ("closed", "open")}  # fmt: skip
    table = ["", f"{ROUNDS} rounds of {REQUESTS} requests of 5, {SEEDS} seeds; tokens are those read to score.", ""]
    table += [
        "| rounds | candidates | confirmed | per 1,000 candidates | per 1,000 forward tokens |",
        "|---|---|---|---|---|",
    ]
    for name, runs in made.items():
        hits, count, tokens = (np.array(column, float) for column in zip(*runs, strict=True))
        cells = []
        for size in (count, tokens):
            low, high = stats.group_bootstrap(1000 * hits, size, range(SEEDS))
            cells.append(f"{1000 * hits.sum() / size.sum():.1f} [{low:.1f}, {high:.1f}]")
        table.append(f"| {name} | {count.mean():.0f} | {hits.mean():.0f} | {' | '.join(cells)} |")
    gain = np.array([1000 * (a[0] / a[2] - b[0] / b[2]) for a, b in zip(made["closed"], made["open"], strict=True)])
    low, high = stats.group_bootstrap(gain, np.ones(SEEDS), range(SEEDS))
    return [*table, "", f"Closed less open, for 1,000 forward tokens: {gain.mean():+.2f} [{low:.2f}, {high:.2f}]."]


def _loop(pool: Pool, seed: int, closed: bool, out: Path) -> tuple[int, int, int]:
    """Return confirmed over-refusals, candidates and tokens read in some rounds."""
    row = {_said(p.text): i for i, p in enumerate(pool.prompts)}

    class Known:
        record = {"scorer": "known"}  # noqa: RUF012

        def __call__(self, prompts: Sequence[Prompt]) -> list[Score]:
            own = [pool.scores[pool.prompts[row[p.text]].id if p.text in row else p.id] for p in prompts]
            return [replace(s, prompt_id=p.id) for p, s in zip(prompts, own, strict=True)]

    harmful = [p for p in world.prompts("train") if p.expected == "refuse"]
    first = Rewriting(
        seeds=tuple(random.Random(seed).sample(harmful, 60)), generator=World(pool, seed),
        part=Part(name="world", settings={}), requests=REQUESTS, seed=seed,
    )  # fmt: skip
    judges = ((Part(name="benign", settings={}), Benign()),)
    what = Mining(sources=(), judges=judges, scorer=Known(), selection=Selection(per_category=50))
    loop = Loop(first=first, rounds=ROUNDS, operators=("mutate", "recombine"), closed=closed)
    mine_in_rounds(what, loop, out, progress=lambda *_: None)
    texts = [p.text for p in prompts_of(out / "candidates.jsonl") if p.kind != "harmful"]
    own = np.array([row[text] for text in texts])
    return int(pool.confirmed[own].sum()), len(own), int(pool.read[own].sum())


def _said(text: str) -> str:
    """Return a text as it is read from a reply's list."""
    return listed(Response(prompt_id="", text=f"1. {text}", finish="stop"))[0][0]


def _half(prompt: Prompt) -> bool:
    return bool(zlib.crc32(prompt.cluster.encode()) % 2)


def _measured(split: str, out: Path) -> LoadedRun:
    what = measurement(model="organism", benchmarks=[f"world:split={split}"], judges=[], sampling=Sampling())
    return measure(what, out / split, progress=lambda *_: None, cache=opened())


def _share(value: tuple[float, float, float]) -> str:
    return "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * v for v in value))


def main() -> None:
    """Print the tables, and write them where told."""
    with tempfile.TemporaryDirectory() as temporary:
        pool = Pool(Path(temporary))
        parts = [precision(pool), cost(pool), rounds(pool, Path(temporary))]
    text = "\n".join(line for part in parts for line in part).strip()
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text + "\n")


if __name__ == "__main__":
    main()
