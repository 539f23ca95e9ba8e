"""What methods that train on answers share: settings; the pairs, kept once made; the training; the choice.

A method's fields that are named as those of `training.How` are its settings of the training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from demur import responses, training
from demur.checkpoints import Checkpoint
from demur.errors import DataError
from demur.files import fingerprint, read_json, read_rows, write_json, write_rows
from demur.interventions.adapter import Adapter
from demur.lora import Lora
from demur.methods._contrast import Against, Contrast, Positions
from demur.methods._held_out import Aim, HeldOut
from demur.refusal_curve import RefusalCurve
from demur.responses import Ask, Dropped, Made, Pair, Role
from demur.training import How, Objective
from demur.types import DEFAULT_JUDGE, Example, FitData, Judge
from demur.world import phrases

if TYPE_CHECKING:
    from demur.lm import LM

FOLDER, PAIRS, KEY, RECORD = "training", "pairs.jsonl", "pairs.json", "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The settings of a method that fine-tunes on answers."""

    rate: float
    """The highest learning rate; a tiny model wants far more (1e-3)."""
    epochs: float = 1.0
    """Passes over the data."""
    batch: int = 32
    """Rows (of DPO: pairs of answers) per update, over all processes."""
    rank: int = 16
    """Rank of the adapter, on every linear layer of the blocks; 0 trains the weights themselves."""
    alpha: int = 32
    """The adapter's change is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout on the adapter's input."""
    checkpoints: int = 4
    """How many checkpoints are kept and measured."""
    weaker: tuple[float, ...] = (0.8, 0.6, 0.4)
    """Where the best checkpoint misses the floor, shares of its change that are tried instead."""
    max_new_tokens: int = 512
    """Longest answer to the dev split."""
    judge: str = ""
    """Judge of the dev split's answers; by default that of the fit, else `classifier`."""
    seed: int = 0
    """Of the order of the rows and the adapter's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered(Tuned):
    """The settings of one that is trained on answers, too, which the model gives to what it refuses when steered."""

    layer: int = 2
    """The block after which the steering that makes the answers acts."""
    against: Against = "harmful"
    """Whose refusals give the direction of that steering: those of harmful or of borderline prompts."""
    strengths: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5)
    """Strengths of the steering, tried in this order until an answer is judged fit."""
    positions: Positions = "last_prompt"
    """Which tokens the steering acts on."""
    max_new_tokens: int = 512
    """Longest answer that is made, to learn from and to the dev split."""
    judge: str = ""
    """Judge of the made answers; by default that of the fit, else `classifier`."""
    seed: int = 0
    """Of the choice of prompts, their order and the adapter's start."""

    def ask(self, lm: LM, data: FitData, judge: Judge, *, own: bool = True) -> Ask:
        """Return how answers are made; the direction comes from the fit split."""
        contrast = Contrast.of(lm, data, layers=(self.layer,))
        return Ask(
            direction=contrast.direction(self.against).at(self.layer),
            judge=judge,
            strengths=self.strengths,
            positions=self.positions,
            max_new_tokens=self.max_new_tokens,
            own=own,
        )


@contextlib.contextmanager
def folder(data: FitData) -> Iterator[Path]:
    """Give the folder of the training: `training/` in the fit's own, else one that is gone afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        out = (data.out or Path(temporary)) / FOLDER
        out.mkdir(parents=True, exist_ok=True)
        yield out


def judge_of(data: FitData, name: str = "") -> Judge:
    """Return the judge that is named, else that of the fit, else the usual one."""
    if data.judge is not None and not name:
        return data.judge
    from demur.settings import build, parse_part

    return cast(Judge, build("judges", parse_part(name or DEFAULT_JUDGE)))


def pairs(lm: LM, data: FitData, out: Path, making: Mapping[str, Any], make: Callable[[], Made]) -> list[Pair]:
    """Return the pairs of `pairs.jsonl`, made by the first process unless they were made from the same before.

    Args:
        lm: the model.
        data: what they are made from.
        out: the folder of the training; `dropped.jsonl` and trl's formats go there too.
        making: the settings that decide the pairs.
        make: makes them.
    """
    rows = [[e.prompt.id, e.prompt.text, e.split, e.label, e.answer, e.rejected, e.score] for e in data.examples]
    key = {"made_from": fingerprint([rows, dataclasses.asdict(lm.ref), dict(making)])}
    if training.processes()[0] == 0 and not _there(out, key):
        made = make()
        write_rows(out / "dropped.jsonl", made.dropped)
        responses.export(made.pairs, out)
        write_rows(out / PAIRS, made.pairs)
        write_json(out / KEY, key)
    training.wait()
    return read_rows(out / PAIRS, Pair)


def _there(out: Path, key: Mapping[str, Any]) -> bool:
    return (out / PAIRS).is_file() and (out / KEY).is_file() and read_json(out / KEY) == key


def tuned(
    method: Tuned,
    lm: LM,
    data: FitData,
    found: Sequence[Pair],
    out: Path,
    *,
    judge: Judge,
    objective: Objective = "sft",
    aim: Aim = "answered",
) -> Adapter:
    """Train on pairs and return the checkpoint that is best on the dev split, as `HeldOut.choose` says.

    `training.json` says what was tried; for a model that is given its safety (`aim` is `balance`), also how probable
    a refusal was along the training, by class of prompts.

    Raises:
        DataError: when there is nothing to train on.
        ModelError: when the loss is not finite.
    """
    rows = responses.completions(found) if objective == "sft" else responses.preferences(found)
    if not rows:
        raise DataError(
            f"{type(method).__name__.lower()}: nothing is left to train on; {out / 'dropped.jsonl'} says why"
        )
    held_out = HeldOut.of(data, judge, method.max_new_tokens)
    trained = training.train(
        lm,
        rows,
        out,
        objective=objective,
        how=how(method),
        score=lambda c: held_out.score(lm, adapter(c)),
        probe=RefusalCurve.of(lm, data, taught=taught(found), seed=method.seed) if aim == "balance" else None,
    )
    if training.processes()[0] != 0:
        return adapter(trained.checkpoints[-1])  # the first process alone chooses and saves
    chosen, table = held_out.choose(lm, trained.checkpoints, method.weaker, aim=aim)
    record = {"why": chosen.note, "tried": table, "losses": trained.losses, "curve": trained.curve}
    write_json(out / RECORD, {**record, "pairs": Counter(p.role for p in found)})
    return chosen


def taught(found: Sequence[Pair]) -> list[Example]:
    """Return the answers that are taught, each with what it is: the words in which a model learns to refuse."""
    return [
        Example(prompt=p.prompt, split="fit", answer=p.chosen, label="refusal" if p.role == "harmful" else "compliance")
        for p in found
    ]


def how(method: Tuned) -> How:
    """Return a method's settings of the training."""
    names = {f.name for f in dataclasses.fields(How)} & {f.name for f in dataclasses.fields(method)}
    return How(**{name: getattr(method, name) for name in names})


def adapter(checkpoint: Checkpoint) -> Adapter:
    """Read a checkpoint."""
    return Adapter(lora=Lora.read(checkpoint.folder))


def own(rows: Sequence[Example], role: Role) -> Made:
    """Take the answers that stand in the rows; those without one are dropped."""
    made = Made()
    for e in rows:
        if e.answer:
            made.pairs.append(Pair(prompt=e.prompt, role=role, chosen=e.answer))
        else:
            made.dropped.append(Dropped(prompt=e.prompt, role=role, reason="there is no answer to learn"))
    return made


def refused(rows: Sequence[Example]) -> Made:
    """Refuse harmful prompts: the row's own refusal where it holds one, else a stock wording of the language."""
    said: Counter[str] = Counter()
    made = Made()
    for e in rows:
        line = e.answer
        if e.label != "refusal" or not line:
            wordings = phrases.REFUSALS.get(e.prompt.language) or phrases.REFUSALS["en"]
            line = wordings[said[e.prompt.language] % len(wordings)]
            said[e.prompt.language] += 1
        made.pairs.append(Pair(prompt=e.prompt, role="harmful", chosen=line))
    return made


def freed(lm: LM, rows: Sequence[Example], ask: Callable[[], Ask]) -> Made:
    """Answer refused benign prompts by steering the model itself; answers that the judge faults are dropped."""
    if not rows:
        return Made()
    none: dict[Role, list[Example]] = {role: [] for role in responses.ROLES}
    return responses.make(lm, {**none, "benign": list(rows)}, ask(), lambda *_: None)


def joined(*parts: Made) -> Made:
    """Return all pairs and drops as one."""
    return Made([p for part in parts for p in part.pairs], [d for part in parts for d in part.dropped])
