"""`demur explain causes`: from a measured run to its sorted benign refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from demur.causes.asking import REFUSALS, Answers, Wording, belief
from demur.causes.evidence import Evidence, Sorted, SpanEffect, Thresholds, sort
from demur.causes.gather import Cutting, Elsewhere, Tell, span_effects, start, with_values
from demur.causes.record import record
from demur.causes.spans import Looks, Swaps
from demur.causes.triggers import Trigger, brief, triggers
from demur.counted import codes, mean
from demur.errors import ConfigError, DataError
from demur.files import lock, read_json, read_rows, write_json, write_rows
from demur.records import LoadedRun, RunFolder
from demur.settings import PartSpec, build, spec_of
from demur.types import Generator, Judge, Prompt, Sampling, to_json

SAMPLES = Sampling(samples=10, temperature=1.0)


class Inside(Protocol):
    """What can be read inside the model, where it is open."""

    def first(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """Return P(refuse) at the first answer token."""

    def harm(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """Return P(harmful) by the probe at the last instruction token; None where no probe is usable."""

    def record(self) -> dict[str, Any]:
        """Return the two directions, their angle, what steering each does, and how good the probe is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the evidence is collected."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    cutting: Cutting = field(default_factory=Cutting)
    samples: Sampling = SAMPLES
    """How answers are drawn to see whether they hesitate; samples 1: only the run's own samples count."""
    wording: Wording = "auto"
    limit: int = 500
    """Benign refusals that are sorted at most, evenly spread; 0: all."""
    control: int = 100
    """Refused harmful prompts whose spans are taken out too, to show what any removal does; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The sorted refusals, the spans, and both as JSON values."""

    rows: tuple[Sorted, ...]
    triggers: tuple[Trigger, ...]
    record: dict[str, Any]


def diagnose(
    run: LoadedRun,
    *,
    generator: Generator | None = None,
    judge: Judge | None = None,
    inside: Inside | None = None,
    known: Sequence[Prompt] = (),
    settings: Settings | None = None,
    tell: Tell = lambda stage, done, total: None,
) -> Diagnosis:
    """Sort the benign refusals of a run by their cause.

    Args:
        run: a measured run.
        generator: the model; by default the run's own generator, built anew from its record.
        judge: of refusals; by default the run's headline judge.
        inside: what can be read inside the model; None: black box.
        known: more harmful and plain prompts that say, with those of the run, which spans look harmful; never asked.
        settings: thresholds, spans, samples.
        tell: progress.

    Raises:
        DataError: when no prompt that deserves an answer was refused.
    """
    settings = settings or Settings()
    generator = generator or cast(Generator, build("generators", spec_of(run.spec.generator)))
    judge = judge or cast(Judge, build("judges", spec_of(run.spec.judges[0])))
    share, filtered = shares(run)
    benign = [p for p in run.prompts if p.expected == "comply"]
    refused = [p for p in benign if p.id in filtered or (share.get(p.id) or 0.0) > 0]
    if not refused:
        raise DataError(f"{run.path}: none of {len(benign)} prompts that deserve an answer was refused")
    chosen = _spread(refused, settings.limit)
    rows = [start(p, filtered=p.id in filtered) for p in chosen]
    open_ = [i for i, row in enumerate(rows) if not row.filtered]
    answered = [p for p in benign if share.get(p.id) == 0.0]
    swaps = Swaps.of(p for p in answered if p.kind != "borderline")
    looks = Looks.of([*run.prompts, *known], settings.cutting.longest)
    means = _Means(generator, judge, inside, swaps, looks)
    if open_:
        asked = [chosen[i] for i in open_]
        found = _evidence(asked, [rows[i] for i in open_], benign, share, means, settings, tell)
        for i, row in zip(open_, found, strict=True):
            rows[i] = row
    sorted_rows = tuple(sort(row, settings.thresholds) for row in rows)
    spans = triggers(rows, answered=answered, refused=refused, at=settings.thresholds)
    made = {
        "run": str(run.path),
        "model": run.spec.model.id,
        "judge": run.spec.judges[0].name,
        "n_benign": len(benign),
        "n_benign_refused": len(refused),
        **record(sorted_rows, settings.thresholds),
        "cutting": to_json(settings.cutting),
        "triggers": [to_json(t) for t in spans[:50]],
    }
    made["control"] = _control(run, share, means, settings, tell)
    if inside is not None:
        made["inside"] = inside.record()
    return Diagnosis(rows=sorted_rows, triggers=tuple(spans), record=made)


@dataclass(frozen=True, slots=True)
class _Means:
    """Through what the model is questioned."""

    generator: Generator
    judge: Judge
    inside: Inside | None
    swaps: Swaps
    looks: Looks

    def effects(self, prompts: Sequence[Prompt], cutting: Cutting, tell: Tell) -> list[tuple[SpanEffect, ...]]:
        """Return what taking each span out of each prompt does."""
        return span_effects(prompts, self.decide, swaps=self.swaps, looks=self.looks, cutting=cutting, tell=tell)

    def decide(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """Return P(refuse): at the first token where the model is open, else one greedy answer, judged."""
        if self.inside is not None:
            return self.inside.first(prompts)
        return Answers(self.generator, self.judge, Sampling())(prompts)


def _evidence(
    asked: Sequence[Prompt],
    rows: Sequence[Evidence],
    benign: Sequence[Prompt],
    share: dict[str, float | None],
    means: _Means,
    settings: Settings,
    tell: Tell,
) -> list[Evidence]:
    tell("samples", 0, len(asked))
    if settings.samples.samples > 1:
        drawn = Answers(means.generator, means.judge, settings.samples)(asked)
    else:
        drawn = [share.get(p.id) for p in asked] if _several(share) else [None] * len(asked)
    found = with_values(rows, "sampled", drawn)
    tell("belief", 0, len(asked))
    found = with_values(found, "asked", belief(means.generator, asked, Sampling(), wording=settings.wording))
    if means.inside is not None:
        found = with_values(found, "first", means.inside.first(asked))
        found = with_values(found, "probe", means.inside.harm(asked))
    found = with_values(found, "spans", means.effects(asked, settings.cutting, tell))
    elsewhere = Elsewhere(share, benign, settings.cutting.longest)
    found = with_values(found, "spans", [elsewhere.counted(row) for row in found])
    usual = _usual(benign, share, means.looks, settings)
    return with_values(found, "usual", [usual.get(p.language) for p in asked])


def _usual(
    benign: Sequence[Prompt], share: dict[str, float | None], looks: Looks, settings: Settings
) -> dict[str, float | None]:
    """Return, for each language, the share refused of the benign prompts that hold a harmful-looking span."""
    found: dict[str, list[float]] = {}
    for p in benign:
        if (refused := share.get(p.id)) is None:
            continue
        shown = (looks.of_span(p.language, span.key) for span in settings.cutting.of(p.text))
        if any(value is not None and value >= settings.thresholds.looks for value in shown):
            found.setdefault(p.language, []).append(refused)
    return {language: _mean(own) for language, own in found.items()}


def _several(share: dict[str, float | None]) -> bool:
    """Say whether the run itself drew several samples that differ."""
    return any(value not in (None, 0.0, 1.0) for value in share.values())


def _control(
    run: LoadedRun,
    share: dict[str, float | None],
    means: _Means,
    settings: Settings,
    tell: Tell,
) -> dict[str, Any]:
    """Say of how many refused *harmful* prompts some span's removal flips the refusal too."""
    held = [p for p in run.prompts if p.expected == "refuse" and share.get(p.id) == 1.0]
    chosen = _spread(held, settings.control) if settings.control else []
    if not chosen:
        return {"harmful_flipped": None, "n": 0}
    effects = means.effects(chosen, settings.cutting, tell)
    below = settings.thresholds.flip
    hit = np.array([any(s.after is not None and s.after < below for s in own) for own in effects])
    number = mean(hit, np.ones(len(hit), dtype=bool), codes(chosen), n_unscored=0)
    return {"harmful_flipped": number.value, "low": number.low, "high": number.high, "n": len(chosen)}


def shares(run: LoadedRun) -> tuple[dict[str, float | None], set[str]]:
    """Return each prompt's share of refused samples by the headline judge, and the prompts stopped by a filter."""
    name = run.spec.judges[0].name
    labels: dict[str, list[float]] = {}
    for v in run.verdicts:
        if v.judge == name and v.question == "refusal" and v.label is not None:
            labels.setdefault(v.prompt_id, []).append(float(v.label in REFUSALS))
    filtered = {r.prompt_id for r in run.responses if r.finish == "filtered"}
    return {p.id: _mean(labels.get(p.id, [])) for p in run.prompts}, filtered


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _spread(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    if not most or len(prompts) <= most:
        return list(prompts)
    return [prompts[int(i * len(prompts) / most)] for i in range(most)]


def write(found: Diagnosis, out: Path) -> None:
    """Write causes.json, causes.jsonl (one row per refusal, evidence included) and triggers.jsonl (the brief)."""
    with lock(out):
        write_json(out / "causes.json", found.record)
        write_rows(out / "causes.jsonl", [to_json(row) for row in found.rows])
        write_rows(out / "triggers.jsonl", brief(found.triggers))


def generator_of(run: LoadedRun, named: str, open_one: Callable[[PartSpec], Generator] | None = None) -> Generator:
    """Return the generator that a user named, or the run's own."""
    from demur.settings import parse_part

    wanted = parse_part(named) if named else spec_of(run.spec.generator)
    if run.spec.intervention is not None and not named and not wanted.settings.get("intervention"):
        raise ConfigError(
            f"{run.path} was measured under an intervention, and its generator does not name its folder; "
            "give --generator with intervention=FOLDER"
        )
    made = cast(Generator, open_one(wanted) if open_one else build("generators", wanted))
    return made


def spans_of(folder: Path, *, flip: float, least: int) -> list[Trigger]:
    """Rank the spans of a folder that `write` filled.

    Args:
        folder: holds causes.jsonl; the answered benign prompts come from the run that it was made from, if still there.
        flip: P(refuse) below which a removal has flipped the decision.
        least: groups that a span must stand in.

    Raises:
        ConfigError: when the folder holds no diagnosis.
    """
    if not (folder / "causes.jsonl").is_file():
        raise ConfigError(f"{folder} holds no causes.jsonl; make it with `demur explain causes RUN --out {folder}`")
    rows = read_rows(folder / "causes.jsonl", Sorted)
    source = Path(read_json(folder / "causes.json").get("run", ""))
    answered: list[Prompt] = []
    refused: list[Prompt] = []
    if source.is_dir() and RunFolder(source).exists():
        run = RunFolder.load(source)
        share, _ = shares(run)
        benign = [p for p in run.prompts if p.expected == "comply"]
        answered = [p for p in benign if share.get(p.id) == 0.0]
        refused = [p for p in benign if (share.get(p.id) or 0.0) > 0]
    evidence = [row.evidence for row in rows]
    return triggers(evidence, answered=answered, refused=refused, at=Thresholds(flip=flip), least=least)
