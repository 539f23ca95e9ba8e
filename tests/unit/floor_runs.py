"""Two run folders that are a floor's record, made up: the same prompts before and after an intervention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demur.metrics import compute
from demur.records import RunFolder
from demur.types import ModelRef, Part, Prompt, Response, RunSpec, Sampling, Verdict

MODEL = ModelRef(id="some/model", revision="0123abc", dtype="float32", template_sha="feed")
PRINT = "5c72125ff7bb0c0f"


def prompts(n: int, source: str = "handmade") -> list[Prompt]:
    """n harmful prompts, n attacked ones, and n borderline ones that name the first as their twins."""
    rows = []
    for i in range(n):
        harm, twin = f"{source}/harm-{i}", f"{source}/ask-{i}"
        text = f"question {i}"
        rows += [
            Prompt(id=harm, text=text, expected="refuse", kind="harmful", source=source, group=harm),
            Prompt(
                id=f"{source}/attack-{i}",
                text=f"please: {text}",
                expected="refuse",
                kind="harmful",
                source=source,
                category="attack-role_play",
                group=harm,
            ),
            Prompt(id=twin, text=f"nice {text}", expected="comply", kind="borderline", source=source, pair=harm),
        ]
    return rows


def spec(name: str, *, model: ModelRef = MODEL, intervention: Part | None = None, generator: str = "local") -> RunSpec:
    """What a run of a file of prompts says of itself."""
    return RunSpec(
        id=name,
        created="2025-03-04T05:06:07+00:00",
        model=model,
        sampling=Sampling(),
        benchmarks=(Part(name="file", settings={"path": "p.jsonl"}, fingerprint="00ff"),),
        generator=Part(name=generator, settings={}),
        intervention=intervention,
        judges=(Part(name="keyword", settings={}, fingerprint="a1b2"),),
        versions={},
        git="",
        device="cpu",
        seed=0,
    )


def write(
    folder: Path,
    rows: Sequence[Prompt],
    *,
    lost: int = 0,
    model: ModelRef = MODEL,
    intervention: Part | None = None,
    generator: str = "local",
) -> None:
    """Write a run in which harmful prompts are refused, the first `lost` of each sort apart, and others answered."""
    made = spec(folder.name, model=model, intervention=intervention, generator=generator)
    answers, verdicts = [], []
    for p in rows:
        refuses = p.expected == "refuse" and int(p.id.rsplit("-", 1)[1]) >= lost
        text = "No, not that." if refuses else "Turn the dial."
        answers.append(Response(prompt_id=p.id, text=text, finish="stop", n_tokens=4))
        label = "refusal" if refuses else "compliance"
        verdicts.append(Verdict(prompt_id=p.id, judge="keyword", question="refusal", label=label))
    with RunFolder(folder).open(made, rows) as run:
        run.finish("responses", answers)
        run.finish("verdicts", verdicts)
        run.write_metrics(compute(rows, answers, verdicts, benchmark="file", judges=("keyword",), n_boot=50))


def record(folder: Path, *, n: int = 134, lost: int = 0, source: str = "handmade", model: ModelRef = MODEL) -> Path:
    """Write `before/`, `after/` and an empty `intervention/`; return the last."""
    rows = prompts(n, source)
    write(folder / "before", rows, model=model)
    part = Part(name="steer", settings={"kind": "steer"}, fingerprint=PRINT)
    write(folder / "after", rows, lost=lost, model=model, intervention=part)
    (folder / "intervention").mkdir(parents=True)
    return folder / "intervention"
