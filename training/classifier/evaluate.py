"""Agreement with people on held-out models and prompt types: the tables of docs/judges.md and the judges' checks."""

# ruff: noqa: T201
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from compose import COMPLIANCE, PARTIAL, REFUSAL
from numpy.typing import NDArray

from demur.agreement import checks_of
from demur.checks import save_checks
from demur.judges.classifier import Classifier
from demur.judges.keyword import Keyword
from demur.labelled import Labelled as Row
from demur.settings import build, part_of
from demur.types import Verdict

if TYPE_CHECKING:
    from train import Labelled

ROOT = Path(__file__).resolve().parents[2]
PAGE, CHECKS = ROOT / "docs/judges.md", ROOT / "src/demur/judges/checks"
HEAD, TAIL = "<!-- figures: made by training/classifier/train.py --evaluate -->", "<!-- end of figures -->"
CLASSES = {"compliance": COMPLIANCE, "partial_refusal": PARTIAL, "refusal": REFUSAL, "gibberish": COMPLIANCE}
SOURCE = "xstest_v2.responses, labels of people"
HELD_OUT = "leave one answering model and one prompt type with its contrasts out together (5 x 8 folds)"
Bools, Ints, Floats = NDArray[np.bool_], NDArray[np.int_], NDArray[np.float64]


def report(data: Labelled, odds: Floats, partial: Floats, mirror: Path) -> None:
    """Print every table, write the checks and the figures in docs/judges.md."""
    from train import best_cut, held_out, macro_f1, platt, sigmoid, three

    refused = data.labels != COMPLIANCE
    cuts, p = np.zeros(len(odds)), np.zeros(len(odds))
    for model in sorted(set(data.models)):
        test = data.models == model
        slope, offset = platt(odds[~test], refused[~test])
        p[test] = sigmoid(slope * odds[test] + offset)
        cuts[test] = best_cut(odds[~test], partial[~test], data.labels[~test])
    said = three(p > 0.5, partial, 0.0) * 0
    for cut in set(cuts):
        rows = cuts == cut
        said[rows] = three(p[rows] > 0.5, partial[rows], cut)
    finer, _ = held_out(data, data.categories)
    keyword = np.array([CLASSES[Keyword().label(a)[0]] for _, a in data.texts])
    others = _others(mirror, data)
    columns = {
        "`classifier`, model and type with contrasts left out": said != COMPLIANCE,
        "`classifier`, model and one of the 18 categories left out": finer > 0,
        "`keyword`": keyword != COMPLIANCE,
        "string match of the set": others["string-match"],
        "GPT-4 labels of the set": others["gpt4"],
        "only the prompt's class": data.harmful,
    }
    lines = [HEAD, "", *_agreement(data, refused, columns), ""]
    lines += _three_class({"`classifier`": said, "`keyword`": keyword}, data.labels, macro_f1)
    lines += ["", *_confidence(p, refused), "", *_elsewhere(mirror), "", *_speed(data), "", TAIL]
    text = "\n".join(lines)
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(HEAD)[0], page.split(TAIL)[1]
    PAGE.write_text(before + text + after, encoding="utf-8")
    _write_check("classifier", HELD_OUT, data, said)
    _write_check("keyword", "not held out: phrases written looking at half of these answers", data, keyword)


def _others(mirror: Path, data: Labelled) -> dict[str, Bools]:
    """Return what the set's own string match and its GPT-4 labels say, row by row."""
    from train import read

    said: dict[tuple[str, str, int], str] = {}
    for row in read(mirror / "xstest_v2.responses.jsonl"):
        said[row["annotator"], row["model"], int(row["id"].split("-")[-2])] = row["label"]
    keys = list(zip(data.models, data.numbers, strict=True))
    return {a: np.array([said[a, m, int(n)][:1] in "23" for m, n in keys]) for a in ("string-match", "gpt4")}


def _agreement(data: Labelled, truth: Bools, columns: dict[str, Bools]) -> list[str]:
    models = sorted(set(data.models))
    out = ["Agreement with people on refusal (full or partial) against compliance, in percent; every answer is scored. "
           "Safe / unsafe prompts, 250 / 200 answers each.", "",
           "| judge | all | worst model | worst cell | " + " | ".join(models) + " |",
           "|---|---|---|---|" + "---|" * len(models)]  # fmt: skip
    for name, said in columns.items():
        good = said == truth
        cells = {(m, h): good[(data.models == m) & (data.harmful == h)].mean() * 100 for m in models for h in (0, 1)}
        worst = min(good[data.models == m].mean() * 100 for m in models)
        out.append(f"| {name} | {good.mean() * 100:.1f} | {worst:.1f} | {min(cells.values()):.1f} | "
                   + " | ".join(f"{cells[m, 0]:.1f} / {cells[m, 1]:.1f}" for m in models) + " |")  # fmt: skip
    odd = data.numbers % 2 == 1
    halves = next(iter(columns.values())) == truth
    looked = "The errors on prompts with odd numbers were read while the signals were written, the others were not"
    out += ["", f"{looked}: {halves[odd].mean() * 100:.1f} % and {halves[~odd].mean() * 100:.1f} %."]
    return out


def _three_class(judges: dict[str, Ints], truth: Ints, f1: Callable[[Ints, Ints], float]) -> list[str]:
    out = [
        "| judge | recall of partial refusals | precision | three-class accuracy | macro-F1 |",
        "|---|---|---|---|---|",
    ]
    for name, said in judges.items():
        right, given = ((said == PARTIAL) & (truth == PARTIAL)).sum(), max(1, (said == PARTIAL).sum())
        out.append(f"| {name} | {right / (truth == PARTIAL).sum():.2f} | {right / given:.2f} | "
                   f"{(said == truth).mean():.3f} | {f1(truth, said):.3f} |")  # fmt: skip
    return out


def _confidence(p: Floats, truth: Bools) -> list[str]:
    """Tabulate abstention and reliability; the calibration of each model was fitted on the other four."""
    sure, good = np.maximum(p, 1 - p), (p > 0.5) == truth
    out = [
        "| `least_confidence` | unscored, % | agreement of the scored, % | unscored as errors, % |",
        "|---|---|---|---|",
    ]
    for least in (0.5, 0.6, 0.7, 0.8, 0.9):
        kept = sure >= least
        out.append(f"| {least} | {(1 - kept.mean()) * 100:.1f} | {good[kept].mean() * 100:.1f} | "
                   f"{(good & kept).mean() * 100:.1f} |")  # fmt: skip
    out += ["", "| probability | answers | mean probability | share refused |", "|---|---|---|---|"]
    error = 0.0
    for low in np.arange(0, 1, 0.1):
        rows = (p >= low) & (p < low + 0.1 + (low > 0.85))
        if rows.any():
            error += abs(p[rows].mean() - truth[rows].mean()) * rows.mean()
            out.append(
                f"| {low:.1f}-{low + 0.1:.1f} | {rows.sum()} | {p[rows].mean():.2f} | {truth[rows].mean():.2f} |"
            )
    return [
        *out,
        "",
        f"Expected calibration error (10 bins): {error:.3f}; Brier score {((p - truth) ** 2).mean():.3f}.",
    ]


def _elsewhere(mirror: Path) -> list[str]:
    """Compare both judges with the labels of other sets, none made by people; the shipped weights are used."""
    from train import read

    korean = [(r["annotator"], r, r["label"] != "compliance") for r in read(mirror / "xstest_ko.responses.jsonl")]
    english = [("substring match (English)", r, "substring_matching=0" in r["label"])
               for r in read(mirror / "refusal_direction.responses.jsonl")]  # fmt: skip
    out = ["| labels by | answers | `classifier`, % | `keyword`, % |", "|---|---|---|---|"]
    for name in dict.fromkeys(row[0] for row in [*korean, *english]):
        rows = [(r, refused) for who, r, refused in [*korean, *english] if who == name]
        one = [
            (Classifier().label(r["prompt"], r["response"]).label in ("refusal", "partial_refusal")) == t
            for r, t in rows
        ]
        two = [(Keyword().label(r["response"])[0] in ("refusal", "partial_refusal")) == t for r, t in rows]
        where = name if "English" in name else f"{name} (Korean)"
        out.append(f"| {where} | {len(rows)} | {np.mean(one) * 100:.1f} | {np.mean(two) * 100:.1f} |")
    return out


def _speed(data: Labelled) -> list[str]:
    Classifier().label(*data.texts[0])
    start = time.process_time()
    for prompt, answer in data.texts[:500]:
        Classifier().label(prompt, answer)
    spent = (time.process_time() - start) / 500 * 1e6
    size = (ROOT / "src/demur/judges/classifier.npz").stat().st_size / 1000
    return [f"One answer of these takes {spent:.0f} µs of CPU time; the weights are {size:.0f} kB."]


def _write_check(judge: str, held_out: str, data: Labelled, said: Ints) -> None:
    """Write the check of a judge (`checks/<judge>.json`): effective counts, since five answers share a prompt."""
    names = {COMPLIANCE: "compliance", PARTIAL: "partial_refusal", REFUSAL: "refusal"}
    part = part_of("judges", build("judges", judge))
    rows, verdicts = [], []
    for at, (prompt, answer) in enumerate(data.texts):
        expected = "refuse" if data.harmful[at] else "comply"
        label = names[int(data.labels[at])]
        rows.append(Row(id=str(at), prompt=prompt, response=answer, label=label, expected=expected, language="en"))
        verdicts.append(Verdict(prompt_id=str(at), judge=judge, question="refusal", label=names[int(said[at])]))
    (check,) = checks_of(rows, verdicts, part, source=SOURCE)
    CHECKS.mkdir(exist_ok=True)
    save_checks(CHECKS / f"{judge}.json", [replace(check, held_out=held_out)])
