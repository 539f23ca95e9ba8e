"""`demur mine` for one model: fit its boundary, then run the stages of `demur.mining`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from demur.assemble import build_benchmarks, measurement
from demur.boundary_scorer import BoundaryScorer
from demur.cache import opened
from demur.embeddings import Embedder, embedder
from demur.engines import Mapper, Spread
from demur.errors import ConfigError
from demur.fitting import examples
from demur.generators.local import Local
from demur.measure import measure
from demur.mining.loop import Loop, mine_in_rounds
from demur.mining.sources import Rows, Set, Source
from demur.mining.stages import Mining, Progress, mine
from demur.mining.translating import Translating
from demur.readout import find_openers
from demur.settings import build, part_of
from demur.types import ATTACK, Example, Generator, Judge, Part, Prompt, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """How the boundary of a model is found."""

    fit: tuple[str, ...] = ("world:split=train", "world:split=train,attack=all,limit=600")
    """Benchmarks the axis comes from (attacked prompts are left out there), and that stand beside what is mined."""
    dev: tuple[str, ...] = ("world:split=validation", "world:split=validation,attack=all,limit=900")
    """Benchmarks it is calibrated on (attacked prompts are left out there), and held out where a set is trained on."""
    general: tuple[str, ...] = ()
    """Benchmarks whose answered benign prompts stand in the mined set, as general prompts, beside those of `fit`."""
    judges: tuple[str, ...] = ()
    """Judges of the answers; none: the cards' own."""
    layer: int | None = None
    """None: by the rules of `demur.layers`, else where it best tells refused from answered benign prompts."""
    expected: bool = False
    """Take what is expected for what the model did, and generate nothing: for trying the pipeline on a model that
    refuses nothing. The distances then say nothing about refusal."""
    unusable: bool = False
    """Go on where the axis does not separate refused from answered benign prompts."""


def scorer(
    model: str, how: Boundary, out: Path, progress: Progress, over: Mapper | None = None
) -> tuple[BoundaryScorer, tuple[Example, ...]]:
    """Fit the boundary of a model on answers it gives to the fit and dev benchmarks.

    Returns:
        the scorer, and every row that the model answered for it, with what it did.

    Raises:
        DataError: where the model refuses, or answers, too few of them.
    """
    lm = Local(model=model).lm()
    rows: list[Example] = []
    openers = None
    splits: tuple[tuple[str, Literal["fit", "dev"], tuple[str, ...]], ...]
    splits = (("fit", "fit", how.fit), ("dev", "dev", how.dev), ("general", "fit", tuple(map(_set, how.general))))
    for name, split, parts in splits:
        if how.expected or not parts:
            prompts = [p for _, benchmark in build_benchmarks(parts) for p in benchmark()]
            made = [Example(prompt=_plain(p), split=split, label=_expected(p)) for p in prompts]
        else:
            what = measurement(model=model, benchmarks=parts, judges=how.judges, sampling=Sampling())
            tell = lambda s, d, t, n=name: progress(f"{n}: {s}", d, t)  # noqa: E731
            run = measure(what, out / name, progress=tell, cache=opened(), over=over)
            made = examples(run, split)
            openers = openers or find_openers(lm, run.responses, run.verdicts)
        rows += [replace(e, prompt=_general(e.prompt)) for e in made] if name == "general" else made
    fitted = [e for e in rows if not e.prompt.category.startswith(ATTACK)]
    unusable = how.unusable or how.expected
    return BoundaryScorer.fit(lm, fitted, openers, layer=how.layer, unusable=unusable), tuple(rows)


def beside(rows: Sequence[Example], *, export_answered: bool = False) -> tuple[Example, ...]:
    """Return the rows that a mined set needs to be trained on: what the model did is known of each.

    Of the fit split the answered plain prompts and the refused harmful ones, which a method's direction comes from and
    which hold the model where it is; of the dev split all, to choose a checkpoint on. Harmful prompts that were
    answered are left out of both, unless they may be exported.
    """
    return tuple(e for e in rows if _usable(e, export_answered))


def sources(texts: Sequence[str]) -> tuple[Source, ...]:
    """Build sources from what the user wrote: a JSONL file, or a benchmark part."""
    made: list[Source] = []
    for text in texts:
        if text.endswith((".jsonl", ".ndjson")) and not text.startswith("file:"):
            made.append(Rows(path=Path(text)))
        else:
            part, benchmark = build_benchmarks([text])[0]
            made.append(Set(part=part, benchmark=benchmark))
    return tuple(made)


def generator(text: str, over: Mapper | None = None) -> tuple[Part, Generator]:
    """Build the generator that rewrites seeds, spread over an engine where one is given."""
    made: Generator = build("generators", text)
    return part_of("generators", made), Spread(made, over) if over else made


def translated(
    given: Sequence[Source], to: Sequence[str], text: str, least: float, over: Mapper | None = None
) -> tuple[Source, ...]:
    """Return sources that give their candidates in other languages too, translated by a generator."""
    part, made = generator(text, over)
    return tuple(Translating(source=s, to=tuple(to), generator=made, part=part, least=least) for s in given)


def harmful(texts: Sequence[str]) -> tuple[Prompt, ...]:
    """Read the harmful prompts of sets, in their order, each once."""
    found = {p.id: p for _, b in build_benchmarks(texts) for p in b() if p.expected == "refuse"}
    return tuple(found.values())


def moderators(texts: Sequence[str]) -> tuple[tuple[Part, Judge], ...]:
    """Build the judges of `prompt_harm`."""
    made: list[Judge] = [build("judges", text) for text in texts]
    return tuple((part_of("judges", judge), judge) for judge in made)


def evaluation(texts: Sequence[str]) -> Mapping[str, Sequence[Prompt]]:
    """Read the sets that mined prompts must be kept away from."""
    return {text: list(b()) for text, (_, b) in zip(texts, build_benchmarks(texts), strict=True)}


def sentences(name: str) -> Embedder | None:
    """Return a sentence model by name; None for "".

    Raises:
        ConfigError: for `shingles`, which see wording alone, as the comparison without a model does.
        Unavailable: where it cannot be loaded.
    """
    if name == "shingles":
        raise ConfigError("--embedder shingles adds nothing to the comparison of wording; name a sentence model")
    return embedder(name) if name else None


def mine_model(
    what: Mining, *, model: str, how: Boundary, out: Path, progress: Progress, loop: Loop | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Mine for one model, over the engine `what.over` where it is given; `what.scorer` is replaced by the model's own.

    Raises:
        ConfigError, DataError: as `mining.stages.mine` and `scorer` do.
    """
    if not what.sources and loop is None:
        raise ConfigError("nothing to mine from: name a benchmark or a JSONL file, or --seeds with --generator")
    made, rows = scorer(model, how, out / "boundary", progress, what.over)
    fitted = replace(what, scorer=made, beside=beside(rows, export_answered=what.export_answered))
    if loop is None:
        return mine(fitted, out, progress=progress, overwrite=overwrite)
    return mine_in_rounds(fitted, loop, out, progress=progress, overwrite=overwrite)


def _expected(prompt: Prompt) -> str | None:
    return {"refuse": "refusal", "comply": "compliance"}.get(prompt.expected or "")


def _set(text: str) -> str:
    return f"file:path={text}" if text.endswith((".jsonl", ".csv")) and ":" not in text else text


def _usable(example: Example, export_answered: bool) -> bool:
    prompt, label = example.prompt, example.label
    if label is None or prompt.expected not in ("comply", "refuse"):
        return False
    if prompt.expected == "refuse":
        return label == "refusal" or (export_answered and example.split == "dev")
    return example.split == "dev" or (prompt.kind == "plain" and label == "compliance")


def _general(prompt: Prompt) -> Prompt:
    """Return a prompt that the user named as general; one of no known expectation is taken as benign."""
    return prompt if prompt.expected == "refuse" else replace(prompt, kind="plain", expected="comply")


def _plain(prompt: Prompt) -> Prompt:
    return replace(prompt, kind="plain") if prompt.expected == "comply" and not prompt.kind else prompt
