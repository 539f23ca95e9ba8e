"""What an intervention costs for each generated token, against plain decoding and against an uncached loop.

Sixteen prompts; end tokens are off, so that all sides write equally many tokens. *In steps* leaves out what reading the
prompts and drawing the first token takes. Times are those of the process, so that other work on the machine matters
less. *Bare* is the forward pass alone, on 32 rows against 16: no two branches in one batch can cost less than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from peers import say
from table import Row, ratio_row

from models import SHAPES, make_model, token_ids

ROWS, WINDOW, TOKENS, NAIVE = 16, 10, 128, 64
SITE, IN_WINDOW, OVERALL, TWICE, WEIGHTS, FASTER = 1.05, 1.35, 1.10, 1.9, 1.05, 8.0
STEPS = 20
"""Single steps that the bare forward pass is timed on, of which the fastest counts."""

Answers = dict[str, tuple[str, int]]


def prompts_of(model: str) -> list[Any]:
    """Return sixteen prompts that the model's tokenizer knows."""
    from demur.benchmarks.world import World
    from demur.types import Prompt

    if model == "organism":
        return list(World(limit=ROWS)())
    texts = [" ".join(f"w{token}" for token in ids) for ids in token_ids(ROWS, shortest=16, longest=40)]
    return [Prompt(id=str(i), text=text, expected=None, source="random") for i, text in enumerate(texts)]


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time that something takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def sides_of(lm: Any) -> dict[str, Any]:
    """Return what is compared with plain decoding."""
    from ours import faint_steering

    from demur.methods.adacd import Adacd
    from demur.methods.selfcd import Selfcd

    return {
        "plain": None,
        "one site": faint_steering(lm, gated=False),
        "AdaCD": Adacd(horizon=WINDOW).intervention(),
        "Self-CD": Selfcd().intervention(),
        "baked weights": None,
    }


def faint_edit(lm: Any) -> Any:
    """Return an edit of the weights too faint to change an answer."""
    import torch

    from demur.directions import Direction
    from demur.interventions.ablate import Ablate

    direction = Direction(vectors=torch.ones(1, lm.d_model), layers=(0,), model=lm.ref, estimator="none")
    return Ablate(direction=direction, strength=1e-7, by="weights")


def decoder(lm: Any, prompts: list[Any], side: str, tokens: int) -> Callable[[], Answers]:
    """Return one side: it writes `tokens` tokens for each prompt."""
    from demur.decoding import decode
    from demur.types import Sampling

    plan, how = sides_of(lm)[side], Sampling(max_new_tokens=tokens)
    return lambda: {r.prompt_id: (r.text, r.n_tokens) for r in decode(lm, prompts, how, plan)}


def taken(lm: Any, prompts: list[Any], rounds: int) -> dict[tuple[str, int], list[float]]:
    """Time every side at 1, `WINDOW` and `TOKENS` tokens, in interleaved rounds."""
    from demur.lm import attach

    found: dict[tuple[str, int], list[float]] = {}
    for turn in range(1, rounds + 1):
        say(f"branches: {lm.ref.id.rpartition('/')[2]}, round {turn} of {rounds}")
        for tokens in (1, WINDOW, TOKENS):
            for side in sides_of(lm):
                with ExitStack() as stack:
                    if side == "baked weights":
                        stack.enter_context(attach(lm, faint_edit(lm)))
                    found.setdefault((side, tokens), []).append(seconds(decoder(lm, prompts, side, tokens)))
    return found


def bare(lm: Any, prompts: list[Any], rows: int) -> float:
    """Return the processor time of one step of the forward pass and the head."""
    import torch

    from demur.plan import Plan
    from demur.slots import Slots

    encoded = lm.encode_all(prompts) * (rows // len(prompts))
    slots = Slots(lm.n_layers, rows, columns=TOKENS)
    ids, held, lengths = lm.batch(encoded, [Plan()] * rows)
    slots.aim(0, held.start, ids.shape[1], longest=0)
    lm.forward(ids, held, cache=slots)
    held.start, held.longest, held.decoding = lengths, int(lengths.max()), True
    last, found = torch.ones(rows, 1, dtype=torch.long), []
    for _ in range(STEPS):
        slots.aim(0, held.start, 1, longest=held.longest)
        found.append(seconds(lambda: lm.head(lm.forward(last, held, cache=slots)[:, 0])))
    return min(found)


def naive(lm: Any, prompts: list[Any], tokens: int) -> Answers:
    """Self-CD as two whole forward passes for each token, without a cache, all rows in one left-padded batch."""
    import torch
    from contender import padded

    from demur.methods.selfcd import Selfcd

    what = Selfcd()
    both = [lm.encode_all(prompts), lm.chats.encode(prompts, system=what.text)]
    written: list[list[int]] = [[] for _ in prompts]
    for _ in range(tokens):
        z = []
        for side in both:
            inputs = padded([[*one.ids, *mine] for one, mine in zip(side, written, strict=True)], "left")
            places = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            with torch.no_grad():
                z.append(lm.module(**inputs, position_ids=places, use_cache=False, logits_to_keep=1).logits[:, -1])
        for mine, token in zip(written, torch.lerp(z[0], z[1], 1 - what.ratio).argmax(-1).tolist(), strict=True):
            mine.append(token)
    texts = [lm.tokenizer.decode(mine, skip_special_tokens=True).strip() for mine in written]
    return {p.id: (text, len(mine)) for p, text, mine in zip(prompts, texts, written, strict=True)}


def rows_of(name: str, lm: Any, prompts: list[Any], rounds: int) -> list[Row]:
    """Return the rows of one model."""
    from demur.lm import attach

    plain = decoder(lm, prompts, "plain", TOKENS)()
    with attach(lm, faint_edit(lm)):
        baked = decoder(lm, prompts, "baked weights", TOKENS)()
    if not plain == baked == decoder(lm, prompts, "one site", TOKENS)():
        raise SystemExit(f"{name}: faint edits change answers")
    times = taken(lm, prompts, rounds)

    def row(side: str, tokens: int, target: float, *, steps: bool, equal: str = "") -> Row:
        less = {s: times[s, 1] if steps else [0.0] * rounds for s in (side, "plain")}
        spent = {s: [a - b for a, b in zip(times[s, tokens], less[s], strict=True)] for s in less}
        what = f"{side}, {tokens} tokens{', in steps' if steps else ''}, {name}"
        return ratio_row(
            spent[side], spent["plain"], what=what, against="plain decode", equal=equal, target=target, at_most=True
        )

    same = "answers of plain"
    steps = [[bare(lm, prompts, rows) for _ in range(rounds)] for rows in (2 * ROWS, ROWS)]
    return [
        row("one site", TOKENS, SITE, steps=False, equal=same),
        row("baked weights", TOKENS, WEIGHTS, steps=False, equal=same),
        row("AdaCD", WINDOW, IN_WINDOW, steps=True),
        row("AdaCD", WINDOW, IN_WINDOW, steps=False),
        row("AdaCD", TOKENS, OVERALL, steps=False),
        row("Self-CD", TOKENS, TWICE, steps=True),
        row("Self-CD", TOKENS, TWICE, steps=False),
        ratio_row(*steps, what=f"bare step, {2 * ROWS} rows, {name}", against=f"{ROWS} rows", equal=""),
    ]


def against_naive(lm: Any, prompts: list[Any], rounds: int) -> Row:
    """Compare Self-CD with the uncached loop of two passes, on the same answers."""
    side = decoder(lm, prompts, "Self-CD", NAIVE)
    if (wanted := naive(lm, prompts, NAIVE)) != {k: (text.strip(), n) for k, (text, n) in side().items()}:
        raise SystemExit("Self-CD and the uncached loop differ")
    ours, theirs = [], []
    for turn in range(1, min(rounds, 3) + 1):
        say(f"branches: uncached loop, round {turn}")
        theirs.append(seconds(lambda: naive(lm, prompts, NAIVE)))
        ours.append(seconds(side))
    return ratio_row(
        theirs,
        ours,
        what=f"Self-CD, {NAIVE} tokens, organism",
        against="two uncached passes per token",
        equal=f"{len(wanted)} answers",
        target=FASTER,
    )


def run(*, rounds: int, share: float) -> list[Row]:
    """Return the rows: the embedded model, the uncached loop, and a model whose body outweighs the rest."""
    import torch

    from demur.lm import load

    torch.set_num_threads(1)
    found: list[Row] = []
    for name, place in (("organism", "organism"), (SHAPES[1].name, str(make_model(SHAPES[1])))):
        lm, prompts = load(place, device="cpu", dtype="float32"), prompts_of(name)
        lm.stops = frozenset()
        found += rows_of(name, lm, prompts, rounds if name == "organism" else max(1, round(rounds * share / 2)))
        if name == "organism":
            found.append(against_naive(lm, prompts, rounds))
    return found
