"""The nouns of demur: frozen dataclasses that go to JSON and back. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from demur.convert import from_json as from_json
from demur.convert import to_json as to_json
from demur.errors import ConfigError, DataError

Expected = Literal["comply", "refuse", "contested"]
Kind = Literal["plain", "borderline", "harmful", ""]
Finish = Literal["stop", "length", "filtered", "error"]
Question = Literal["refusal", "answer_harm", "prompt_harm", "quality"]
Pairs = tuple[tuple[str, str], ...]
Turns = tuple[tuple[str, str], ...]

ATTACK = "attack-"
"""How the category of an attacked prompt begins."""

DEFAULT_JUDGE = "classifier"
"""The judge of every benchmark whose card names no other."""

LABELS: Mapping[str, tuple[str, ...]] = {
    "refusal": ("compliance", "partial_refusal", "refusal", "gibberish"),
    "answer_harm": ("harmless", "harmful"),
    "prompt_harm": ("benign", "harmful", "contested"),
    "quality": ("right", "partial", "wrong", "evasive"),
}
"""The closed set of labels for each question a judge can answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One thing asked of a model, and what a good model does with it."""

    id: str
    """Stable, unique in its benchmark: `source/row`."""
    text: str
    """The user's message."""
    expected: Expected | None
    """What a good model does; `contested` and None count in neither rate and are reported apart."""
    kind: Kind = ""
    source: str
    category: str = ""
    language: str = "en"
    pair: str = ""
    """On a benign row, the id of its harmful twin (many rows may share one)."""
    group: str = ""
    """What is resampled together: the item behind translations, templates, rewrites and the pair."""
    system: str | None = None
    history: Turns = ()
    """Earlier turns as (role, text)."""
    meta: Pairs = ()

    @property
    def cluster(self) -> str:
        """The group that intervals resample: `group`, else `pair`, else `id`."""
        return self.group or self.pair or self.id

    @property
    def role(self) -> Literal["user", "assistant"]:
        """Who wrote `text`: the user, or the assistant where `meta` says last_role=assistant (as a guard reads it)."""
        return "assistant" if self.get("last_role") == "assistant" else "user"

    def get(self, key: str, default: str = "") -> str:
        """Return the value of `key` in `meta`, or `default`."""
        return dict(self.meta).get(key, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer of a model, thinking text split off; an error is a row, not a crash."""

    prompt_id: str
    sample: int = 0
    text: str
    """The answer as its reader sees it, a prefill included."""
    reasoning: str = ""
    finish: Finish
    error: str = ""
    n_tokens: int = 0
    logprob: float | None = None
    """Mean log-probability of the answer's tokens, where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a judge says of one answer to one question: a label, or `unscored` with the reason."""

    prompt_id: str
    sample: int = 0
    judge: str
    question: Question
    label: str | None = None
    score: float | None = None
    """Probability of `refusal` (or of the positive class), where the judge has one."""
    reason: str = ""
    raw: str = ""
    unscored: str = ""

    def __post_init__(self) -> None:
        if self.question not in LABELS:
            raise DataError(f"verdict of {self.judge} on {self.prompt_id}: no question named {self.question!r}")
        if (self.label is None) == (not self.unscored):
            raise DataError(f"verdict of {self.judge} on {self.prompt_id}: set exactly one of label and unscored")
        if self.label is not None and self.label not in LABELS[self.question]:
            allowed = ", ".join(LABELS[self.question])
            raise DataError(f"verdict of {self.judge} on {self.prompt_id}: label {self.label!r} is not in {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number with its interval, the rows it rests on, and what made it."""

    name: str
    value: float | None
    """None where the slice is empty: never 0 for "no data"."""
    low: float | None
    high: float | None
    n: int
    groups: int
    n_unscored: int
    slice: str = "all"
    """`all`, or `key=value[&key=value]` over kind, category, language, benchmark."""
    judge: str
    benchmark: str
    interval: str
    """How low and high were made: `wilson`, `group-bootstrap`, or "" where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of data to fit on: the format of mined sets, `fit --data` and every exporter."""

    prompt: Prompt
    split: Literal["fit", "dev"]
    answer: str = ""
    rejected: str = ""
    label: str | None = None
    """What the model did with the prompt: a refusal label."""
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Which weights, exactly."""

    id: str
    revision: str = ""
    dtype: str = ""
    template_sha: str = ""
    adapter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn; temperature 0 is greedy."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0
    prefill: str = ""
    thinking: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        for name, value, fits, allowed in (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("samples", self.samples, self.samples >= 1, "at least 1"),
        ):
            if not fits:
                raise ConfigError(f"sampling.{name} is {value}; it must be {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A member of an open folder as it was used: name, settings, fingerprint."""

    name: str
    settings: Mapping[str, Any]
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """Everything that decides what a run folder holds."""

    id: str
    created: str
    model: ModelRef
    sampling: Sampling
    benchmarks: tuple[Part, ...]
    generator: Part
    intervention: Part | None = None
    judges: tuple[Part, ...]
    versions: Mapping[str, str]
    git: str = ""
    device: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFile:
    """One file of a benchmark, and how to know it."""

    name: str
    """Its path in the set's home, or its name in the folder DEMUR_DATA."""
    sha256: str = ""
    """Empty: not known; it is recorded when the file is first fetched, and verified ever after."""
    rows: int = 0
    """Records in it; 0: not known."""
    revision: str = ""
    """Commit, where it is not the card's."""
    mirror: bool = False
    """Whether it stands in the folder DEMUR_DATA rather than in the set's home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a benchmark is, where it comes from, and what to beware of."""

    title: str
    home: str
    """Public address of the set (`demur` for sets that the package makes)."""
    hub: str = ""
    """`owner/name` on the Hugging Face hub, where its files are taken from there."""
    repository: str = ""
    """`owner/name` on GitHub, where its files are taken from there."""
    revision: str = ""
    """Commit; empty: not known, the main branch is taken and what it gave is pinned."""
    files: tuple[CardFile, ...] = ()
    """Every file that may be read."""
    licence: str = ""
    access: str = ""
    """How to get the files, where they are gated or not public."""
    languages: tuple[str, ...] = ("en",)
    size: int | None = None
    """Number of prompts with default settings; None where the file decides."""
    sample: int | None = None
    """Number of prompts where the mirror's files are a sample of the set; else None."""
    kinds: tuple[Kind, ...] = ()
    """The kinds of its prompts."""
    citation: str = ""
    cautions: tuple[str, ...] = ()
    judge: str = DEFAULT_JUDGE
    """The default judge."""

    def file(self, name: str) -> CardFile:
        """Return the file of that name, without a checksum where the card does not list it."""
        return next((file for file in self.files if file.name == name), CardFile(name=name))


class Item(NamedTuple):
    """What a judge reads: the prompt and the answer to it."""

    prompt: Prompt
    response: Response


class Generator(Protocol):
    """Gives one `Response` per (prompt, sample), in any order; failures are rows with finish="error"."""

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Answer every prompt `sampling.samples` times."""
        ...


class Judge(Protocol):
    """Gives, for each item in order, one `Verdict` for each of its `questions`; never raises on a bad reply."""

    @property
    def questions(self) -> tuple[Question, ...]:
        """What it answers: the same for every item; a class variable will do."""
        ...

    def __call__(self, items: Sequence[Item]) -> Iterable[Verdict]:
        """Judge every item."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitData:
    """What a method fits on: labelled examples, a judge for its own checks, and a folder to resume from."""

    examples: tuple[Example, ...]
    judge: Judge | None = None
    out: Path | None = None
    """Where a method may keep checkpoints, and from where it must resume."""

    def of(self, kind: Kind, split: str, *, label: str | None = None, least: int = 1) -> list[Example]:
        """Return the examples of one prompt kind and split, and of one label where that is given.

        Raises:
            DataError: when there are fewer than `least`; the message holds the counts of what there is.
        """
        rows = [e for e in self.examples if e.prompt.kind == kind and e.split == split and label in (None, e.label)]
        if len(rows) < least:
            counts = Counter(f"{e.prompt.kind or 'no kind'}/{e.split}/{e.label or 'unscored'}" for e in self.examples)
            have = ", ".join(f"{name}: {n}" for name, n in sorted(counts.items())) or "no examples at all"
            what = f"{kind}/{split}" + (f"/{label}" if label else "")
            raise DataError(
                f"{len(rows)} examples of {what} (kind/split/how the model answered), at least {least} are needed; "
                f"there are {have}. Name more prompts of that kind with --{split}; a model that does not answer so "
                "leaves this method nothing to fit on"
            )
        return rows


class Benchmark(Protocol):
    """Gives its prompts, the same each time; says in `card` what it is."""

    card: ClassVar[Card]

    def __call__(self) -> Iterable[Prompt]:
        """Give the prompts in a fixed order."""
        ...
