"""Triage: what one's own unlabelled traffic says about over-refusal, without any of it leaving the machine.

`triage` reads nothing but the logs it is given and writes nothing but its folder. Refusals are found by a judge;
whether a refused prompt deserved an answer is asked of a second judge where one is named, and of a person through the
review queue. Without labels there is no estimate, only counts by the judges. Whatever is shown, queued or sent to a
judge elsewhere is redacted first.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur import judges as judging
from demur import registry
from demur.addresses import host, is_loopback
from demur.errors import ConfigError
from demur.files import RowWriter, fingerprint, read_lines, write_json
from demur.measure import Progress
from demur.metrics import COHERENT, REFUSED, Outcome, outcomes
from demur.triage import groups, queue
from demur.triage.estimate import Estimate, Stratum, over_refusals
from demur.triage.logs import Logs, read_logs
from demur.triage.redact import Redactor, redactor
from demur.types import Item, Judge, Part, Question, Verdict, from_json, to_json

__all__ = ["Estimate", "Stratum", "Triage", "Work", "read_logs", "redactor", "remote", "triage", "works_at"]


QUEUE = 200
"""Rows in the review queue."""

EXAMPLES = 3
"""Prompts shown of each group, redacted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to triage with."""

    judge: tuple[Part, Judge]
    """Answers the question `refusal`."""
    harm: tuple[Part, Judge] | None = None
    """Answers the question `prompt_harm`, on refused prompts; None leaves it to the person who labels."""
    redact: Redactor = dataclasses.field(default_factory=Redactor)
    queue: int = QUEUE
    seed: int = 0
    labels: Path | None = None
    """A labelled queue; None: the one in the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Refused prompts that share a trigger or a topic."""

    name: str
    refused: int
    answered: int | None
    """Answered prompts with the trigger; None for a topic."""
    z: float | None
    """The trigger's z-score against answered prompts; None for a topic."""
    examples: tuple[str, ...]
    """Redacted prompts; none that a judge calls harmful."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Triage:
    """Everything `demur triage` shows."""

    rows: int
    skipped: int
    first_skipped: tuple[tuple[str, str], ...]
    """(where, why) of the first few rows that were no prompt with an answer."""
    states: Mapping[str, int]
    """How many answers are what: refusal labels, truncated, filtered, unscored."""
    scored: int
    """Answers whose outcome is known: all but those that a judge or the transport failed on."""
    refused: int | None
    """Refusals, partial refusals and filtered answers; None where the judge read no answer at all."""
    likely_over_refusals: int | None
    """Refused prompts that the harm judge calls benign, uncorrected; None where it labelled none, or there is none."""
    judges: tuple[tuple[str, str], ...]
    """(judge, where it works) as `works_at` says it."""
    grouped: str
    """Which prompts triggers and topics are taken from."""
    triggers: tuple[Group, ...]
    topics: tuple[Group, ...]
    strata: tuple[Stratum, ...]
    estimate: Estimate
    verdict: str
    queue: str
    """The review queue's file."""
    labelled: int


def triage(logs: Logs, out: Path, work: Work, *, overwrite: bool = False, progress: Progress | None = None) -> Triage:
    """Judge a log, group its refusals, keep the review queue, and estimate from the labels there are.

    Args:
        logs: as `read_logs` gives them.
        out: folder for `judged.jsonl` (verdicts are reused), `queue.csv`, `queue-key.json` and `triage.json`.
        work: judges, redaction, queue.
        overwrite: replace a queue that holds labels of another draw.
        progress: told of every verdict.

    Raises:
        ConfigError: where a judge does not answer its question, or the queue holds labels of another draw.
        DataError: for malformed labels.
    """
    tell = progress or (lambda stage, done, total: None)
    out.mkdir(parents=True, exist_ok=True)
    verdicts = list(_verdicts(logs.rows, work.judge, "refusal", work, out, tell))
    found = outcomes(
        [i.prompt for i in logs.rows], [i.response for i in logs.rows], verdicts, judges=[work.judge[0].name]
    )
    refused = [i for i, o in zip(logs.rows, found, strict=True) if o.state in REFUSED]
    harm: dict[str, str] = {}
    if work.harm is not None:
        asked = _verdicts(refused, work.harm, "prompt_harm", work, out, tell)
        harm = {v.prompt_id: v.label or "" for v in asked}
    key, path = _queue(logs, found, harm, work, out, overwrite)
    labels = queue.read_labels(work.labels or path)
    strata = queue.strata_of(key, labels)
    made = _result(logs, found, harm, work, strata, str(path))
    write_json(out / "triage.json", to_json(made))
    return made


def remote(part: Part) -> tuple[str, ...]:
    """Return the addresses outside this machine that a judge with these settings would send texts to."""
    return tuple(dict.fromkeys(_addresses({"name": part.name, **part.settings})))


def works_at(part: Part) -> str:
    """Say where a judge works: `this machine`, addresses, or that a file of the user's own decides."""
    if any(registry.is_path(name) for name in _names({"name": part.name, **part.settings})):
        return "a file of your own: what it sends is up to it"
    return ", ".join(remote(part)) or "this machine"


def _names(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the name of a part and of all parts inside it."""
    if isinstance(name := settings.get("name"), str):
        yield name
    for inner in _tables(settings):
        yield from _names(inner)


def _tables(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the tables among settings: the parts inside a part."""
    for value in settings.values():
        yield from (v for v in (value if isinstance(value, list | tuple) else (value,)) if isinstance(v, Mapping))


def _addresses(settings: Mapping[str, Any]) -> Iterator[str]:
    named = [key for key in settings if key.endswith("url")]
    if settings.get("name") == "http" and not any(settings[key] for key in named):
        yield "its server's default address"
    for key, value in settings.items():
        if key in named and isinstance(value, str) and value and not is_loopback(value):
            yield host(value)
    for inner in _tables(settings):
        yield from _addresses(inner)


def _verdicts(
    items: Sequence[Item], judge: tuple[Part, Judge], question: Question, work: Work, out: Path, tell: Progress
) -> Iterator[Verdict]:
    """Yield one verdict per item; those that the folder holds of the same judge and texts are not asked for again."""
    part, instance = judge
    if question not in instance.questions:
        raise ConfigError(
            f"judge {part.name} answers {', '.join(instance.questions)}, not {question}; `demur show {part.name}`"
        )
    if remote(part):
        items = [_redacted(item, work.redact) for item in items]
    kept = out / "judged.jsonl"
    held = {row["key"]: row["verdict"] for _, row in read_lines(kept, tolerate_torn=True)}
    keys = [_key(part, question, item) for item in items]
    todo = list({key: item for key, item in zip(keys, items, strict=True) if key not in held}.items())
    stage = {"refusal": "refusals", "prompt_harm": "prompt harm"}.get(question, question)
    tell(stage, len(items) - len(todo), len(items))
    with RowWriter(kept) as write:
        asked = iter(key for key, _ in todo)
        made = (v for v in judging.apply(instance, part.name, [i for _, i in todo]) if v.question == question)
        for done, (key, verdict) in enumerate(zip(asked, made, strict=True), start=len(items) - len(todo) + 1):
            held[key] = to_json(verdict)
            if not verdict.unscored.startswith(("judge: ", "error: ")):
                write({"key": key, "verdict": held[key]})
            tell(stage, done, len(items))
    for key, item in zip(keys, items, strict=True):
        yield dataclasses.replace(from_json(Verdict, held[key], where=str(kept)), prompt_id=item.prompt.id)


def _key(part: Part, question: str, item: Item) -> str:
    """Return what decides a verdict: the judge, the question, the conversation and the answer."""
    prompt, response = item
    texts = [prompt.system, list(prompt.history), prompt.text, prompt.language, response.text, response.finish]
    return fingerprint([part.name, part.fingerprint, question, texts])


def _redacted(item: Item, redact: Redactor) -> Item:
    prompt, response = item
    system = None if prompt.system is None else redact(prompt.system)
    history = tuple((role, redact(text)) for role, text in prompt.history)
    return Item(
        dataclasses.replace(prompt, text=redact(prompt.text), system=system, history=history),
        dataclasses.replace(response, text=redact(response.text)),
    )


def _stratum(outcome: Outcome, harm: Mapping[str, str]) -> str:
    """Return the stratum of a row: what the judges said of it."""
    if outcome.state in REFUSED:
        said = harm.get(outcome.prompt.id, "")
        return f"refused, judged {said}" if said in ("benign", "harmful") else "refused"
    return "answered" if outcome.state == "compliance" else "other"


def _queue(
    logs: Logs, found: Sequence[Outcome], harm: Mapping[str, str], work: Work, out: Path, overwrite: bool
) -> tuple[queue.Key, Path]:
    """Draw the queue and write it, or leave an equal one alone."""
    if work.queue < 1:
        raise ConfigError(f"a review queue of {work.queue} rows is none; give --queue a number of 1 or more")
    strata = {o.prompt.id: _stratum(o, harm) for o in found}
    log = fingerprint([[i.prompt.id, i.prompt.text, i.response.text, strata[i.prompt.id]] for i in logs.rows])
    key = queue.draw(strata, work.queue, log=log, seed=work.seed)
    items = {i.prompt.id: i for i in logs.rows if i.prompt.id in key.drawn}
    texts = {name: (_shown(i, work.redact), work.redact(i.response.text)) for name, i in items.items()}
    return key, queue.write_queue(out, key, texts, overwrite=overwrite)


def _shown(item: Item, redact: Redactor) -> str:
    """Return what a reviewer reads as the prompt: earlier turns included, since they decide what it means."""
    turns = [f"[{role}] {text}" for role, text in item.prompt.history]
    return redact("\n".join([*turns, f"[user] {item.prompt.text}"] if turns else [item.prompt.text]))


def _result(
    logs: Logs,
    found: Sequence[Outcome],
    harm: Mapping[str, str],
    work: Work,
    strata: Sequence[Stratum],
    path: str,
) -> Triage:
    refused = [o.prompt for o in found if o.state in REFUSED]
    read = any(o.state in COHERENT or o.state in REFUSED for o in found)
    benign = [p for p in refused if harm.get(p.id) == "benign"]
    told = work.harm is not None and (any(harm.values()) or not refused)
    chosen = benign if work.harm is not None else refused
    texts = [work.redact(p.text) for p in chosen]
    answered = [work.redact(o.prompt.text) for o in found if o.state == "compliance"]
    estimate = over_refusals(strata)
    asked = [part for part, _ in (work.judge, work.harm or work.judge)[: 2 if work.harm else 1]]
    return Triage(
        rows=len(logs.rows),
        skipped=len(logs.skipped),
        first_skipped=tuple((s.where, s.reason) for s in logs.skipped[:5]),
        states=dict(Counter(o.state for o in found).most_common()),
        scored=sum(o.measured for o in found),
        refused=len(refused) if read else None,
        likely_over_refusals=len(benign) if read and told else None,
        judges=tuple((part.name, works_at(part)) for part in asked),
        grouped="refused prompts that the harm judge calls benign"
        if work.harm
        else "refused prompts, harmful among them",
        triggers=tuple(_trigger(t, texts) for t in groups.triggers(texts, answered)),
        topics=tuple(_topic(t, texts) for t in groups.topics(texts, answered, work.seed)),
        strata=tuple(strata),
        estimate=estimate,
        verdict=_verdict(estimate, path),
        queue=path,
        labelled=estimate.n,
    )


def _trigger(t: groups.Trigger, texts: Sequence[str]) -> Group:
    return Group(name=t.word, refused=t.refused, answered=t.answered, z=t.z, examples=_examples(t.rows, texts))


def _topic(t: groups.Topic, texts: Sequence[str]) -> Group:
    return Group(name=", ".join(t.words), refused=len(t.rows), answered=None, z=None, examples=_examples(t.rows, texts))


def _examples(rows: Iterable[int], texts: Sequence[str]) -> tuple[str, ...]:
    distinct = dict.fromkeys(texts[i][:300] for i in rows)
    return tuple(distinct)[:EXAMPLES]


def _verdict(e: Estimate, path: str) -> str:
    """Say in words what is known."""
    if e.value is None or e.low is None or e.high is None:
        return f"over-refusals not measured ({e.reason}): label {path}, then run the same command again"
    counts = f"{e.n} of {e.rows} rows labelled"
    between = f"between {e.low:.1f} and {e.high:.1f} per 1,000 requests (95 %, {counts})"
    if e.low > 0:
        return f"over-refusals shown: {e.value:.1f}, {between}"
    return f"no over-refusal among the labelled rows: {between}"
