"""Train the judge `classifier`, check it on held-out models and prompt types, and write what the package ships.

    DEMUR_DATA=… PYTHONPATH=src python training/classifier/train.py              # weights
    DEMUR_DATA=… PYTHONPATH=src python training/classifier/train.py --copied     # is text of the sets in our sentences?
    DEMUR_DATA=… PYTHONPATH=src python training/classifier/train.py --evaluate   # table, checks, docs/judges.md

The truth is the 2,250 answers of XSTest with labels by people (`xstest_v2.responses.jsonl`). Only weights of
signals and of hashed n-grams are written, none of the set's text. Needs scikit-learn.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from compose import COMPLIANCE, PARTIAL, REFUSAL, composed, cut
from copied import report as report_copies
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from demur.judges._features import Features, features, names
from demur.judges._grams import BUCKETS

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "src/demur/judges/classifier.npz"
SEED, PER_LANGUAGE, ENGLISH = 0, 100, 600
GRAM_SCALE, STRENGTH, ALONE = 3.0, 0.4, 1.0
"""Scale of the n-grams beside the signals; inverse strength of the L2 penalty with n-grams, and on signals alone."""
COMPOSED, CUT, BLIND = 0.6, 0.3, 0.15
"""Weight of a composed answer, of a cut one, and of one whose refusing phrases are hidden; a labelled one has 1."""
FAMILIES = (
    "homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions", "discr", "historical_events",
    "privacy",
)  # fmt: skip
"""Prompt types, each with its contrast; the types on discrimination and on privacy share theirs."""


class Labelled:
    """The labelled answers, with their features and those of what is trained on besides."""

    def __init__(self, data: Path) -> None:
        """Read the mirror's files and compute all features."""
        prompts = {int(r["id"].rpartition("-")[2]): r for r in read(data / "xstest_v2.jsonl")}
        rows = [r for r in read(data / "xstest_v2.responses.jsonl") if r["annotator"] == "human"]
        self.numbers = np.array([int(r["id"].split("-")[-2]) for r in rows])
        self.models = np.array([r["model"] for r in rows])
        self.categories = np.array([prompts[n]["category"] for n in self.numbers])
        self.families = np.array([family(c) for c in self.categories])
        self.harmful = np.array([prompts[n]["label"] == "harmful" for n in self.numbers])
        self.texts = [(r["prompt"], r["response"]) for r in rows]
        self.labels = np.array([{"1": COMPLIANCE, "2": REFUSAL, "3": PARTIAL}[r["label"][0]] for r in rows])
        answers = [(p, a, int(label)) for (p, a), label in zip(self.texts, self.labels, strict=True)]
        self.more = [*cut(answers, CUT), *(r._replace(weight=COMPOSED) for r in composed(SEED, PER_LANGUAGE, ENGLISH))]
        shown = [features(r.prompt, r.answer) for r in self.more]
        hidden = [r for r in self.more if r.label == REFUSAL and len(r.answer) < 400]
        self.more += [r._replace(weight=BLIND) for r in hidden]
        self.sources = np.array([r.source for r in self.more])
        self.x = matrix([features(p, a) for p, a in self.texts])
        self.more_x = matrix([*shown, *(features(r.prompt, r.answer, blind=True) for r in hidden)])

    def training(self, rows: NDArray[np.bool_]) -> tuple[sp.csr_matrix, NDArray[np.int_], NDArray[np.float64]]:
        """Return features, labels and weights to train on: some labelled answers, their cuts, what was composed."""
        also = (self.sources < 0) | rows[self.sources]
        chosen = [r for r, use in zip(self.more, also, strict=True) if use]
        x = sp.vstack([self.x[rows], self.more_x[also]]).tocsr()
        y = np.r_[self.labels[rows], [r.label for r in chosen]]
        return x, y, np.r_[np.ones(rows.sum()), [r.weight for r in chosen]]


def read(path: Path) -> list[dict[str, str]]:
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def family(category: str) -> str:
    """Return the prompt type of a category, the contrast in the same one."""
    return next(f for f in FAMILIES if f in category)


def matrix(rows: list[Features]) -> sp.csr_matrix:
    """Return features as one matrix: signals, then n-grams scaled by the root of their number."""
    sizes = [len(f.buckets) for f in rows]
    values = np.repeat([GRAM_SCALE / max(1, n) ** 0.5 for n in sizes], sizes)
    grams = sp.csr_matrix((values, np.concatenate([f.buckets for f in rows]), np.r_[0, np.cumsum(sizes)]),
                          shape=(len(rows), BUCKETS))  # fmt: skip
    return sp.hstack([sp.csr_matrix(np.stack([f.signals for f in rows])), grams]).tocsr()


class Linear(NamedTuple):
    """A linear model, or the mean of some, which is one again."""

    coefficients: NDArray[np.float64]
    intercept: float

    def decision_function(self, x: sp.csr_matrix) -> NDArray[np.float64]:
        """Return the log-odds of each row."""
        return x @ self.coefficients + self.intercept


Heads = tuple[Linear, Linear]


def fit(x: sp.csr_matrix, y: NDArray[np.int_], weight: NDArray[np.float64]) -> Heads:
    """Fit refusal against compliance, and, among refusals, partial against full.

    The first is the mean of a model over signals and n-grams and of one over the signals alone.
    """
    n = len(names())
    both = LogisticRegression(C=STRENGTH, solver="liblinear").fit(x, y != COMPLIANCE, sample_weight=weight)
    alone = LogisticRegression(C=ALONE, solver="liblinear").fit(x[:, :n], y != COMPLIANCE, sample_weight=weight)
    coefficients = both.coef_[0] / 2
    coefficients[:n] += alone.coef_[0] / 2
    some = np.flatnonzero(y != COMPLIANCE)
    partial = LogisticRegression(C=STRENGTH, solver="liblinear", class_weight="balanced")
    partial.fit(x[some], y[some] == PARTIAL, sample_weight=weight[some])
    return (
        Linear(coefficients, float(both.intercept_[0] + alone.intercept_[0]) / 2),
        Linear(partial.coef_[0], float(partial.intercept_[0])),
    )


def held_out(data: Labelled, groups: NDArray[np.str_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the log-odds of each head for each answer, its model and its prompt group both left out."""
    odds, partial = np.zeros(len(data.labels)), np.zeros(len(data.labels))
    for model in sorted(set(data.models)):
        for group in sorted(set(groups)):
            test = (data.models == model) & (groups == group)
            heads = fit(*data.training((data.models != model) & (groups != group)))
            odds[test] = heads[0].decision_function(data.x[test])
            partial[test] = heads[1].decision_function(data.x[test])
    return odds, partial


def platt(odds: NDArray[np.float64], refused: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the slope and offset that turn log-odds into calibrated ones (Platt 1999)."""
    found = LogisticRegression(C=1e6).fit(odds[:, None], refused)
    return float(found.coef_[0, 0]), float(found.intercept_[0])


def best_cut(odds: NDArray[np.float64], partial: NDArray[np.float64], labels: NDArray[np.int_]) -> float:
    """Return the cut on the partial head that gives the best three-class accuracy, counted twice, plus macro-F1."""

    def worth(at: float) -> float:
        said = three(odds > 0, partial, at)
        return 2 * float((said == labels).mean()) + macro_f1(labels, said)

    return max(map(float, np.arange(0.3, 0.99, 0.02)), key=worth)


def three(refused: NDArray[np.bool_], partial: NDArray[np.float64], at: float) -> NDArray[np.int_]:
    """Return three-class labels."""
    return np.where(~refused, COMPLIANCE, np.where(sigmoid(partial) >= at, PARTIAL, REFUSAL))


def macro_f1(truth: NDArray[np.int_], said: NDArray[np.int_]) -> float:
    """Return the mean F1 of the three classes."""
    scores = []
    for label in (COMPLIANCE, PARTIAL, REFUSAL):
        both = ((truth == label) & (said == label)).sum()
        scores.append(2 * both / max(1, (truth == label).sum() + (said == label).sum()))
    return float(np.mean(scores))


def sigmoid(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-odds))


def save(heads: Heads, calibration: tuple[float, float], at: float) -> None:
    """Write the weights: signals as float32, n-grams as 8-bit integers with one scale a head."""
    n = len(names())
    coefficients = np.stack([h.coefficients for h in heads])
    grams = coefficients[:, n:] * GRAM_SCALE
    scale = np.abs(grams).max(axis=1) / 127
    np.savez_compressed(
        WEIGHTS,
        names=np.array("\n".join(names())),
        signals=coefficients[:, :n].astype(np.float32),
        grams=np.round(grams / scale[:, None]).astype(np.int8),
        scale=scale.astype(np.float32),
        bias=np.array([h.intercept for h in heads], np.float32),
        calibration=np.array(calibration, np.float32),
        cut=np.float32(at),
    )
    print(f"wrote {WEIGHTS.relative_to(ROOT)}: {WEIGHTS.stat().st_size / 1000:.0f} kB, {n} signals, {BUCKETS} buckets")


def main() -> None:
    """Train on everything; with --evaluate, write the held-out figures instead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--evaluate", action="store_true", help="check on held-out models and prompt types; write docs")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DEMUR_DATA", "")), help="the mirror folder")
    parser.add_argument("--copied", action="store_true", help="look for text of the prompt sets in our sentences")
    chosen = parser.parse_args()
    if chosen.copied:
        found = report_copies(chosen.data)
        print(*found, sep="\n")
        raise SystemExit(1 if found else 0)
    data = Labelled(chosen.data)
    odds, partial = held_out(data, data.families)
    if chosen.evaluate:
        from evaluate import report

        report(data, odds, partial, chosen.data)
        return
    at = best_cut(odds, partial, data.labels)
    save(fit(*data.training(np.ones(len(data.labels), bool))), platt(odds, data.labels != COMPLIANCE), at)


if __name__ == "__main__":
    main()
