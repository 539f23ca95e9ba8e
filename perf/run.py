"""demur beside its peers: `python perf/run.py` (or `make perf`) prints one table of ratios, equality checked first.

Capture against a naive batched loop, a batch-1 loop, `generate(1)`, repeng and steering-vectors; generation against
`model.generate`; steering against none; sites, branches and baked weights per token, and an uncached loop; `demur
measure` end to end; memory over 100,000 prompts; the `http` generator against plain clients; `demur serve` under 64
clients against one at a time; the trainer against bare forward and backward passes; `demur estimate` against measured
memory; judging by two workers under Ray against one. The peers get environments of their own under `perf/.venvs/`.
Timings mean something only on an idle machine: the load is printed.

`--quick` takes a quarter of the prompts and two rounds, `--only capture` one part, `--base "naive loop"` compares
against another side than demur.
"""

from __future__ import annotations

import argparse
import os
import sys

import capturing
from peers import say
from table import Row, save, show

from models import OUT

PARTS = ("capture", "generation", "measure", "memory", "http", "serving", "branches", "training", "estimate", "ray")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, help="run this part (may be given again)")
    parser.add_argument("--rounds", type=int, default=0, help="timed rounds (default 5, quick 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of every side")
    parser.add_argument("--base", default="demur", help="the side of the capture part that the others are held against")
    parser.add_argument("--model", default="organism", help="what generation and measure run on")
    parser.add_argument("--quick", action="store_true", help="fewer prompts, fewer rounds")
    return parser.parse_args()


def main() -> int:
    """Run the parts, print the table, and return 1 if a target is missed."""
    args = arguments()
    rounds = args.rounds or (2 if args.quick else 5)
    share = 0.25 if args.quick else 1.0
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"the load is {load:.1f} before anything runs: these timings will mean little")
    OUT.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    versions: dict[str, dict[str, str]] = {}
    parts = args.only or PARTS
    if {"generation", "measure", "memory"} & set(parts):  # first: other parts leave this process's heap in pieces
        import ours

        rows += ours.run(parts, model=args.model, rounds=rounds, threads=args.threads, share=share)
    if "capture" in parts:
        found, versions = capturing.run(base=args.base, rounds=rounds, threads=args.threads, share=share)
        rows += found
    if "http" in parts:
        import endpoint

        rows += endpoint.run(rounds=rounds, share=share)
    if "serving" in parts:
        import serving

        rows += serving.run(model=args.model, rounds=rounds, threads=args.threads, share=share)
    if "branches" in parts:
        import branching

        rows += branching.run(rounds=rounds, share=share)
    if "training" in parts:
        import training

        rows += training.run(rounds=rounds)
    if "estimate" in parts:
        import estimating

        rows += estimating.run(threads=args.threads)
    if "ray" in parts:
        import spreading

        rows += spreading.run(rounds=rounds, share=share)
    conditions = f"{args.threads} threads, {rounds} rounds, fp32, CPU, load {load:.1f} at the start"
    show(rows, versions, conditions)
    save(OUT / "perf.json", rows, versions, conditions)
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
