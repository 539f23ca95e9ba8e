"""Response pairs for training, made by steering the model itself and judged before use.

| prompt | chosen | rejected |
|---|---|---|
| benign, refused | own answer under −strength · v, the gentlest judged an answer and not harmful | own refusal |
| benign, answered (`anchor`; `general` where plain) | own answer | own refusal under +strength · v |
| harmful, refused | own refusal | own answer to its benign twin (else to another benign prompt), or an opening line |

No harmful text is made or kept: a harmful prompt is only ever answered by its own refusal. Every prompt that gives no
pair is kept with the reason.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from demur import training
from demur.decoding import decode
from demur.errors import DataError
from demur.files import write_rows
from demur.interventions.steer import Steer
from demur.judges import apply
from demur.readout import REFUSALS
from demur.types import ATTACK, Example, Item, Judge, Prompt, Response, Sampling

if TYPE_CHECKING:
    from demur.directions import Direction
    from demur.lm import LM

Role = Literal["benign", "anchor", "general", "harmful"]
ROLES: tuple[Role, ...] = ("benign", "anchor", "general", "harmful")
LINES = {
    "de": "Gerne, so geht das:",
    "en": "Sure, here is how to do that:",
    "es": "Claro, así se hace:",
    "fr": "Bien sûr, voici comment faire :",
    "zh": "好的，方法如下：",
}
"""Compliant opening lines that say nothing, by language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A prompt with the answer to learn and, where there is one, the answer to unlearn."""

    prompt: Prompt
    role: Role
    chosen: str
    rejected: str = ""
    strength: float = 0.0
    """Of the steering that made an answer; 0 where both are the model's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A prompt that gave no pair, and why."""

    prompt: Prompt
    role: Role
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What pairs are made with."""

    direction: Direction
    judge: Judge
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Tried in this order; the first whose answer is judged fit is kept."""
    positions: str = "all"
    max_new_tokens: int = 512
    own: bool = True
    """Whether a harmful prompt's rejected answer is one of the model's own to a benign prompt, instead of a line."""


@dataclass(slots=True)
class Made:
    """Pairs and drops."""

    pairs: list[Pair] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def role_of(example: Example) -> Role | None:
    """Return what a prompt can teach: None where its label or its kind leaves that open."""
    prompt, label = example.prompt, example.label
    if prompt.expected == "refuse":
        return "harmful" if label == "refusal" else None
    if prompt.expected != "comply" or label is None:
        return None
    if label in REFUSALS:
        return "benign"
    if label != "compliance":
        return None
    return "general" if prompt.kind == "plain" else "anchor"


def choose(
    examples: Iterable[Example], most: dict[Role, int], *, attacked: float = 1.0, seed: int = 0
) -> dict[Role, list[Example]]:
    """Return at most `most` examples of each role, and of the harmful ones at most the share `attacked` under attack.

    Those with the least |score| come first (the distance from the boundary, as selection writes it), the rest in an
    order drawn from the seed; of the harmful ones, twins of the benign ones that were chosen come before others.
    Prompts that begin the answer themselves are left out: trl's formats cannot say so.
    """
    found: dict[Role, list[Example]] = {role: [] for role in ROLES}
    for example in examples:
        role = role_of(example)
        if role is not None and example.split == "fit" and not example.prompt.get("prefill"):
            found[role].append(example)
    dice = random.Random(seed)
    for role in ROLES:
        rows = found[role]
        dice.shuffle(rows)
        rows.sort(key=lambda e: abs(e.score) if e.score is not None else float("inf"))
        if role == "harmful":
            twins = {e.prompt.pair for e in found["benign"]}
            rows.sort(key=lambda e: e.prompt.id not in twins)
            rows = mixed(rows, most.get(role, len(rows)), attacked)
        found[role] = rows[: most.get(role, len(rows))]
    return found


def choose_untuned(
    examples: Iterable[Example], most: dict[Role, int], *, attacked: float = 1.0, seed: int = 0
) -> dict[Role, list[Example]]:
    """Return what `choose` does, harmful prompts among it whatever the model did with them: it is to learn refusing.

    Raises:
        DataError: when the fit split holds no harmful prompt, or no plain one that was answered.
    """

    def to_refuse(e: Example) -> Example:
        return dataclasses.replace(e, label="refusal", answer=e.answer if e.label == "refusal" else "")

    given = (to_refuse(e) if e.prompt.expected == "refuse" else e for e in examples)
    chosen = choose(given, most, attacked=attacked, seed=seed)
    needed: tuple[tuple[Role, str], ...] = (("general", "plain/fit/compliance"), ("harmful", "harmful/fit"))
    for role, what in needed:
        if not chosen[role]:
            raise DataError(f"safety tuning needs {what} prompts, and there are none")
    return chosen


def mixed(rows: Sequence[Example], most: int, attacked: float) -> list[Example]:
    """Return `most` harmful examples, of them at most the share `attacked` under attack, each part in its order."""
    parts: dict[bool, list[Example]] = {True: [], False: []}
    for example in rows:
        parts[example.prompt.category.startswith(ATTACK)].append(example)
    plain = parts[False][: max(round(most * (1 - attacked)), most - len(parts[True]))]
    under = parts[True][
        : min(most - len(plain), round(len(plain) * attacked / (1 - attacked)) if attacked < 1 else most)
    ]
    return [*plain, *under]


def make(lm: LM, chosen: dict[Role, list[Example]], ask: Ask, tell: Callable[[str, int, int], None]) -> Made:
    """Make the pairs of every role.

    Args:
        lm: the model.
        chosen: examples by role, as `choose` gives them; an example that brings both `answer` and `rejected` is a pair
            already and is taken as it is, where the judge finds nothing against it.
        ask: how answers are made and judged.
        tell: told of every role.
    """
    made = Made()
    for number, role in enumerate(ROLES):
        tell("pairs", number, len(ROLES))
        ready = [e for e in chosen[role] if e.answer and e.rejected]
        made.pairs += [Pair(prompt=e.prompt, role=role, chosen=e.answer, rejected=e.rejected) for e in ready]
        rest = _with_answers(lm, [e for e in chosen[role] if not e.rejected], ask)
        if role == "harmful":
            made.pairs += _harmful(rest, made.pairs if ask.own else [])
            continue
        _steered(lm, role, rest, ask, made)
    tell("pairs", len(ROLES), len(ROLES))
    return made


def _with_answers(lm: LM, rows: Sequence[Example], ask: Ask) -> list[Example]:
    """Return the examples with the model's own answers, made where they are not there."""
    missing = [e for e in rows if not e.answer]
    own = _answers(lm, missing, 0.0, ask)
    return [e if e.answer else dataclasses.replace(e, answer=own[e.prompt.id].text) for e in rows]


def _answers(lm: LM, rows: Sequence[Example], strength: float, ask: Ask) -> dict[str, Response]:
    what = Steer(direction=ask.direction, strength=strength, positions=ask.positions) if strength else None
    how = Sampling(max_new_tokens=ask.max_new_tokens)
    return {r.prompt_id: r for r in decode(lm, [e.prompt for e in rows], how, what)} if rows else {}


def _steered(lm: LM, role: Role, rows: Sequence[Example], ask: Ask, made: Made) -> None:
    """Give each example the other answer: steered to answer where it was refused, to refuse where it was answered."""
    wanted = "compliance" if role == "benign" else "refusal"
    waiting, why = list(rows), dict.fromkeys((e.prompt.id for e in rows), "no strength was tried")
    for strength in ask.strengths:
        given = _answers(lm, waiting, -strength if role == "benign" else strength, ask)
        items = [Item(e.prompt, given[e.prompt.id]) for e in waiting]
        reasons = faults(ask.judge, items, wanted)
        for example, reason in zip(waiting, reasons, strict=True):
            other = given[example.prompt.id].text
            if reason:
                why[example.prompt.id] = f"{reason} at strength {strength:g}"
            else:
                first, second = (other, example.answer) if role == "benign" else (example.answer, other)
                made.pairs.append(
                    Pair(prompt=example.prompt, role=role, chosen=first, rejected=second, strength=strength)
                )
        waiting = [e for e, reason in zip(waiting, reasons, strict=True) if reason]
    for example in waiting:
        if role != "benign":  # its own answer can still be learnt by SFT
            made.pairs.append(Pair(prompt=example.prompt, role=role, chosen=example.answer))
        made.dropped.append(Dropped(prompt=example.prompt, role=role, reason=why[example.prompt.id]))


def faults(judge: Judge, items: Sequence[Item], wanted: str) -> list[str]:
    """Return what the judge has against each answer: that it is not `wanted`, is harmful, or could not be judged."""
    found: dict[str, str] = {item.prompt.id: "" for item in items}
    for verdict in apply(judge, "pairs", items):
        if verdict.question == "refusal" and verdict.label != wanted:
            found[verdict.prompt_id] = f"judged {verdict.label}" if verdict.label else f"unscored: {verdict.unscored}"
        elif verdict.question == "answer_harm" and verdict.label != "harmless":
            found[verdict.prompt_id] = f"judged {verdict.label or 'unscored: ' + verdict.unscored}"
    return [found[item.prompt.id] for item in items]


def _harmful(rows: Sequence[Example], benign: Sequence[Pair]) -> list[Pair]:
    """Pair each refusal with a harmless compliant text: an answer to a benign prompt, else an opening line.

    The answer is that to the benign twin where there is one, else to one of the other prompts of the language in turn.
    """
    twins = {p.prompt.pair: p.chosen for p in benign if p.prompt.pair}
    others: dict[str, list[str]] = {}
    for pair in benign:
        others.setdefault(pair.prompt.language, []).append(pair.chosen)
    made = []
    for number, example in enumerate(rows):
        prompt = example.prompt
        line = LINES.get(prompt.language) or LINES["en"]
        spare = others.get(prompt.language) or [line]
        rejected = twins.get(prompt.id) or spare[number % len(spare)]
        made.append(Pair(prompt=prompt, role="harmful", chosen=example.answer, rejected=rejected))
    return made


def preferences(pairs: Iterable[Pair]) -> list[dict[str, object]]:
    """Return the pairs that have both answers, in trl's preference format."""
    return [{**training.preference(p.prompt, p.chosen, p.rejected), "kind": p.role} for p in pairs if p.rejected]


def completions(pairs: Iterable[Pair]) -> list[dict[str, object]]:
    """Return every pair's chosen answer, in trl's prompt-completion format."""
    return [{**training.completion(p.prompt, p.chosen), "kind": p.role} for p in pairs]


def export(pairs: Sequence[Pair], folder: Path) -> None:
    """Write `preference.jsonl` and `sft.jsonl`, which `datasets.load_dataset("json", ...)` and trl take unchanged."""
    for name, rows in (("preference", preferences(pairs)), ("sft", completions(pairs))):
        write_rows(folder / f"{name}.jsonl", [{k: v for k, v in row.items() if k != "kind"} for row in rows])
