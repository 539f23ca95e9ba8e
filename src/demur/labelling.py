"""Labels by a person on a run's own answers: which answers to ask for, and what the labels say of each judge.

A stratified random sample is drawn, by arm × class of prompt × verdict of the headline judge, with a known chance for
every answer, so that the labels can be weighted back to the whole run. Answers whose verdict changed between two arms
are asked for as well (a change is what a comparison hangs on), but count in no check unless they were drawn too:
disputed answers are harder than others. Labels lie in `labels.jsonl` in the run's folder, appended as they are given.
Where the headline judge's verdicts change so do the strata; a label counts again once its answer is drawn from these.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.agreement import checks_of
from demur.checks import CLASSES, Check, save_checks
from demur.errors import ConfigError, DataError
from demur.files import RowWriter, fingerprint, read_rows
from demur.labelled import Labelled
from demur.records import CHECK, LABELS, LoadedRun, RunFolder
from demur.types import Prompt, Response, Verdict

Key = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One row of `labels.jsonl`; the last row of an answer counts."""

    prompt_id: str
    sample: int = 0
    answer: str
    """Hash of the answer's text: a label of another answer does not count."""
    label: str | None = None
    """A label of the question `refusal`; None where the answer was skipped or the label taken back."""
    skipped: bool = False
    stratum: str
    size: int
    """Answers in the stratum."""
    drawn: bool
    """Whether the answer came by the random draw; only such labels count in a check."""
    probability: float
    """Its chance of being drawn."""
    draw: str = ""
    """Hash of the strata it was drawn from (`strata_hash`): a label from other strata counts in no check."""
    annotator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One answer to label."""

    run: Path
    prompt: Prompt
    response: Response
    stratum: str
    """`class/verdict` within the run."""
    size: int
    drawn: bool
    probability: float
    draw: str
    """Hash of the run's strata."""

    @property
    def harmful(self) -> bool:
        """Whether the text is shown only when asked for."""
        return self.prompt.expected == "refuse" or self.prompt.kind == "harmful"

    def labelled(self, label: str | None, *, skipped: bool = False, annotator: str = "") -> Label:
        """Return the row that records a label, a skip, or (with neither) a label taken back."""
        return Label(
            prompt_id=self.prompt.id,
            sample=self.response.sample,
            answer=answer_hash(self.response),
            label=label,
            skipped=skipped,
            stratum=self.stratum,
            size=self.size,
            drawn=self.drawn,
            probability=self.probability,
            draw=self.draw,
            annotator=annotator,
        )


def answer_hash(response: Response) -> str:
    """Return what a label is tied to: a hash of the answer's text."""
    return hashlib.sha256(response.text.encode("utf-8", "replace")).hexdigest()[:16]


def arms(path: Path, against: Path | None = None) -> tuple[LoadedRun, ...]:
    """Return the runs to label: one, two that are compared, or `before` and `after` of a recipe's folder.

    Raises:
        ConfigError: where there is no run.
    """
    inner = [path / name for name in ("before", "after") if RunFolder(path / name).exists()]
    paths = [path] if RunFolder(path).exists() or not inner else inner
    return tuple(RunFolder.load(p) for p in [*paths, *([against] if against else [])])


def plan(runs: Sequence[LoadedRun], *, n: int = 200, seed: int = 0, disputed: bool = True) -> list[Task]:
    """Choose the answers to label, in a random order that no verdict shows through.

    Strata are run × class of prompt × verdict; each gets an equal share of `n`, small ones all they have and the others
    what that leaves. Within a stratum the draw is by a hash of seed and answer, so a larger `n` keeps the earlier draw.

    Args:
        runs: one run, or two of the same prompts.
        n: answers in the random sample; at least one of each stratum is drawn.
        seed: of the draw and of the order.
        disputed: with two runs, also every prompt whose verdict differs between them.

    Raises:
        DataError: where no answer can be labelled.
    """
    rows = {(i, key): (p, r, verdict) for i, run in enumerate(runs) for key, (p, r, verdict) in _rows(run).items()}
    if not rows:
        raise DataError(f"no finished answers with a verdict to label in {', '.join(str(r.path) for r in runs)}")
    names = {at: (at[0], _stratum(row)) for at, row in rows.items()}
    draws = [strata_hash(run) for run in runs]
    sizes = Counter(names.values())
    chosen = dict(_shares(sizes, n))
    place: Counter[tuple[int, str]] = Counter()
    extra = _disputed(rows) if disputed else set()
    tasks = []
    for at in sorted(rows, key=lambda at: _order(seed, "draw", at)):
        stratum = names[at]
        drawn = place[stratum] < chosen[stratum]
        place[stratum] += 1
        if drawn or at in extra:
            prompt, response, _ = rows[at]
            made = Task(
                run=runs[at[0]].path,
                prompt=prompt,
                response=response,
                stratum=stratum[1],
                size=sizes[stratum],
                drawn=drawn,
                probability=chosen[stratum] / sizes[stratum],
                draw=draws[at[0]],
            )
            tasks.append((_order(seed, "show", at), made))
    return [task for _, task in sorted(tasks, key=lambda pair: pair[0])]


def labels_of(run: LoadedRun) -> dict[Key, Label]:
    """Return the labels of a run's present answers: the last row of each, those taken back left out.

    Raises:
        DataError: for a malformed row.
    """
    answers = {(r.prompt_id, r.sample): answer_hash(r) for r in run.responses}
    rows = read_rows(run.path / LABELS, Label, tolerate_torn=True)
    last = {(row.prompt_id, row.sample): row for row in rows if answers.get((row.prompt_id, row.sample)) == row.answer}
    return {key: row for key, row in last.items() if row.label is not None or row.skipped}


def waiting(tasks: Sequence[Task], runs: Sequence[LoadedRun]) -> list[Task]:
    """Return the tasks that have neither a label nor were skipped.

    An answer labelled before (as disputed, or drawn under verdicts that have changed since) that is now drawn is
    recorded anew with its present stratum: left out, it would bias the sample. So it would if it came in before its
    turn, so that is done up to the first drawn task without a label only; call this again after a session.
    """
    done = {run.path: labels_of(run) for run in runs}
    todo, reached = [], True
    for task in tasks:
        row = done[task.run].get((task.prompt.id, task.response.sample))
        if row is None:
            todo.append(task)
            reached = reached and not task.drawn
        elif reached and task.drawn and not (row.drawn and row.draw == task.draw):
            with RowWriter(task.run / LABELS) as write:
                write(task.labelled(row.label, skipped=row.skipped, annotator=row.annotator))
    return todo


def counted(run: LoadedRun) -> dict[Key, Label]:
    """Return the labels that count in a check: those drawn at random from the strata of the run's present verdicts."""
    present = strata_hash(run)
    given = labels_of(run).items()
    return {key: row for key, row in given if row.drawn and row.draw == present and row.label is not None}


def strata_hash(run: LoadedRun) -> str:
    """Return a hash of which answers lie in which stratum; it changes with the headline judge's verdicts."""
    return fingerprint(sorted([*key, _stratum(row)] for key, row in _rows(run).items()))


def checks_from_labels(run: LoadedRun) -> list[Check]:
    """Return what the labels of a run say of each of its judges, one check per language.

    Every label drawn at random stands for as many answers as its stratum has for each labelled one; labels of disputed
    answers that were not drawn, and of answers drawn under other verdicts, are left aside.

    Raises:
        ConfigError: where no drawn answer is labelled.
    """
    given = counted(run)
    if not given:
        raise ConfigError(
            f"{run.path} holds no labels of answers drawn at random under its present verdicts; "
            f"`demur judges label {run.path}` asks for some, and keeps those that still count"
        )
    each = Counter((row.stratum, row.size) for row in given.values())
    prompts = {p.id: p for p in run.prompts}
    style = "edited" if run.spec.intervention else "plain"
    rows = {
        key: Labelled(
            id=f"{key[0]}#{key[1]}",
            prompt=prompts[key[0]].cluster,  # labels of one group are alike, as answers to one prompt are
            response="",
            label=row.label or "",
            language=prompts[key[0]].language,
            expected=prompts[key[0]].expected,
            weight=row.size / each[row.stratum, row.size],
        )
        for key, row in given.items()
    }
    found: list[Check] = []
    for part in run.spec.judges:
        said = _refusals(run, part.name)
        pairs = [(rows[key], said[key]) for key in rows if key in said]
        if any(v.label is not None for _, v in pairs):
            labelled, verdicts = zip(*pairs, strict=True)
            source = f"{len(pairs)} labels by people of this run's own answers"
            found += checks_of(labelled, verdicts, part, source=source, style=style)
    return found


def keep_checks(run: LoadedRun) -> list[Check]:
    """Write `check.json` into the run's folder, and return the checks."""
    found = checks_from_labels(run)
    save_checks(run.path / CHECK, found)
    return found


def _rows(run: LoadedRun) -> dict[Key, tuple[Prompt, Response, str]]:
    """Finished answers to prompts of a known class, with the headline judge's verdict."""
    prompts = {p.id: p for p in run.prompts if p.expected in CLASSES}
    judge = next((part.name for part in run.spec.judges if _refusals(run, part.name)), "")
    said = _refusals(run, judge)
    return {
        (r.prompt_id, r.sample): (
            prompts[r.prompt_id],
            r,
            said[r.prompt_id, r.sample].label or "unscored",
        )
        for r in run.responses
        if r.finish == "stop" and r.prompt_id in prompts and (r.prompt_id, r.sample) in said
    }


def _stratum(row: tuple[Prompt, Response, str]) -> str:
    prompt, _, verdict = row
    return f"{prompt.expected}/{verdict}"


def _refusals(run: LoadedRun, judge: str) -> dict[Key, Verdict]:
    return {(v.prompt_id, v.sample): v for v in run.verdicts if v.judge == judge and v.question == "refusal"}


def _disputed(rows: Mapping[tuple[int, Key], tuple[Prompt, Response, str]]) -> set[tuple[int, Key]]:
    """Answers whose verdict differs from that on the other run's answer to the same prompt."""
    verdicts: dict[Key, dict[int, str]] = {}
    for (arm, key), (_, _, verdict) in rows.items():
        verdicts.setdefault(key, {})[arm] = verdict
    return {(arm, key) for key, said in verdicts.items() if len(set(said.values())) > 1 for arm in said}


def _shares(sizes: Mapping[tuple[int, str], int], n: int) -> Iterator[tuple[tuple[int, str], int]]:
    """How many answers to draw from each stratum: equal shares, what small strata leave going to the larger ones."""
    left = n
    waiting_ = sorted(sizes, key=lambda stratum: (sizes[stratum], stratum))
    for at, stratum in enumerate(waiting_):
        share = min(sizes[stratum], max(1, left // (len(waiting_) - at)))
        left = max(0, left - share)
        yield stratum, share


def _order(seed: int, purpose: str, at: tuple[int, Key]) -> str:
    arm, (prompt_id, sample) = at
    return hashlib.sha256(f"{seed}/{purpose}/{arm}/{prompt_id}/{sample}".encode()).hexdigest()
