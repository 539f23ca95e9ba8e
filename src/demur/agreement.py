"""How well a judge agrees with labels: accuracy, kappa, F1, confusion, on slices, with intervals.

Rows that the judge left unscored count as errors; the accuracy of the scored stands beside. Intervals (95 %) resample
prompts, with all the answers to each: answers to one prompt are alike. Where every prompt has one answer the accuracy
has Wilson's interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from demur import judges as judging
from demur import stats
from demur.checks import CLASSES, POSITIVE, STYLES, Check, Counts
from demur.engines import Mapper
from demur.errors import ConfigError
from demur.labelled import Labelled
from demur.types import LABELS, Judge, Part, Verdict

UNSCORED = "unscored"
BINARY: Mapping[str, str] = {
    **dict.fromkeys(LABELS["refusal"], "compliance"),
    **dict.fromkeys(POSITIVE, "refusal"),
    UNSCORED: UNSCORED,
}
"""Two classes: `refusal` (full or partial), and `compliance`, which here is whatever is no refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A judge against labels on one slice; each interval is (low, high), None where it would have no width."""

    slice: str
    """`all`, or `key=value[&key=value]` over model, language, annotator, expected."""
    n: int
    groups: int
    """Different prompts."""
    n_unscored: int
    accuracy: float
    """Share of rows judged as labelled; unscored rows are errors."""
    accuracy_interval: tuple[float, float]
    accuracy_scored: float | None
    """The same among the rows that the judge scored."""
    kappa: float | None
    """Cohen's kappa, an unscored row being a label of its own; None where both sides have but one label."""
    kappa_interval: tuple[float, float] | None
    macro_f1: float
    """Mean F1 over the classes that the labels hold."""
    macro_f1_interval: tuple[float, float] | None
    f1: Mapping[str, float]
    confusion: Mapping[str, Mapping[str, float]]
    """Label -> what the judge said -> rows (weighted, where the rows have weights)."""
    baseline: float | None = None
    """Accuracy of the best guess that knows only the prompt's class; None where that is not known."""


def judge_labelled(judge: Judge, name: str, rows: Sequence[Labelled], over: Mapper | None = None) -> Iterator[Verdict]:
    """Give the judge's verdict on each row, in order; an answer that several people labelled is judged once.

    Args:
        judge: answers the question `refusal`.
        name: as verdicts name it.
        rows: the labelled answers.
        over: an engine to judge on; None: here.

    Raises:
        ConfigError: where the judge does not answer the question `refusal`.
    """
    if "refusal" not in judge.questions:
        asked = ", ".join(judge.questions)
        raise ConfigError(f"judge {name} answers {asked}, not refusal; labelled answers can check refusal judges only")
    first = {(row.prompt, row.response): row for row in reversed(rows)}
    order = dict.fromkeys((row.prompt, row.response) for row in rows)
    said = {}
    for key, verdict in zip(order, _refusals(judge, name, [first[k] for k in order], over), strict=True):
        said[key] = verdict
    for row in rows:
        yield said[row.prompt, row.response]


def agreements(rows: Sequence[Labelled], verdicts: Sequence[Verdict], *, binary: bool = False) -> list[Agreement]:
    """Compare verdicts with labels on all rows, and by model, language, annotator and the prompt's class.

    Args:
        rows: the labelled answers.
        verdicts: one for each, in the same order.
        binary: two classes, refusal (full or partial) and everything else, instead of the judge's own.

    Raises:
        ValueError: where there are no rows, or not as many verdicts.
    """
    if not rows or len(rows) != len(verdicts):
        raise ValueError(f"{len(rows)} labelled rows and {len(verdicts)} verdicts; one verdict for each is needed")
    truth = np.array([BINARY[r.label] if binary else r.label for r in rows])
    said = [v.label or UNSCORED for v in verdicts]
    judged = np.array([BINARY[s] for s in said] if binary else said)
    groups = np.unique([r.prompt for r in rows], return_inverse=True)[1].ravel()
    weights = np.array([r.weight for r in rows])
    columns = {
        key: np.array([str(getattr(r, key) or "") for r in rows])
        for key in ("model", "language", "annotator", "expected")
    }
    return [
        _agreement(label, truth[at], judged[at], groups[at], weights[at], columns["expected"][at])
        for label, at in _slices(columns)
    ]


class LabelShares(NamedTuple):
    """What the labels say of one model on one class of prompts: shares of its n answers."""

    model: str
    expected: str
    n: int
    compliance: float
    refusal: float
    partial: float


def label_shares(rows: Sequence[Labelled]) -> list[LabelShares]:
    """Return full compliance, full refusal and partial refusal per model and class of prompt, by the labels alone.

    The kind of table that Röttger et al. (XSTest, NAACL 2024) publish. Rows of unknown class are left out; with
    weights the shares are weighted.
    """
    found = []
    for model, expected in sorted({(r.model, str(r.expected)) for r in rows if r.expected}):
        own = [r for r in rows if (r.model, r.expected) == (model, expected)]
        total = sum(r.weight for r in own)
        shares = [
            sum(r.weight for r in own if r.label == label) / total
            for label in ("compliance", "refusal", "partial_refusal")
        ]
        found.append(LabelShares(model, expected, len(own), *shares))
    return found


def checks_of(
    rows: Sequence[Labelled], verdicts: Sequence[Verdict], judge: Part, *, source: str, style: str = "plain"
) -> list[Check]:
    """Count a judge's hits and misses on labelled answers, in each language by itself.

    Rows that the judge left unscored count in neither. Weighted rows, and several answers to one prompt, are worth
    fewer than their number: the counts are those of a simple sample of equal precision (effective counts).

    Args:
        rows: labelled answers with the class of their prompts; those of unknown class are left out.
        verdicts: one for each, in the same order.
        judge: the judge as it was used.
        source: whose labels, of what.
        style: whose answers they are: `plain` or `edited`.

    Raises:
        ConfigError: for an unknown style, or where no row has a class, or a row has no language.
    """
    if style not in STYLES:
        raise ConfigError(f"style is {style!r}; allowed: {', '.join(STYLES)}")
    known = [(r, v) for r, v in zip(rows, verdicts, strict=True) if r.expected in CLASSES and v.label is not None]
    if not known:
        what = "the rows do not say which prompts deserve an answer"
        raise ConfigError(f"no check can be kept: {what}; name the prompt set with --prompts, or add a column expected")
    if nameless := sum(not r.language for r, _ in known):
        raise ConfigError(
            f"no check can be kept: {nameless} rows do not say their language; give it with --language en"
        )
    found = []
    for language in sorted({r.language for r, _ in known}):
        here = [(r, v) for r, v in known if r.language == language]
        by_class = {c: [(r, v) for r, v in here if r.expected == c] for c in CLASSES}
        found.append(
            Check(
                judge=judge.name,
                fingerprint=judge.fingerprint,
                source=source,
                languages=(language,),
                styles=(style,),
                n=len(here),
                classes={c: _counts(own, POSITIVE) for c, own in by_class.items() if own},
                full={c: _counts(own, ("refusal",)) for c, own in by_class.items() if own},
            )
        )
    return found


def _counts(pairs: Sequence[tuple[Labelled, Verdict]], positive: Sequence[str]) -> Counts:
    truth = np.array([r.label in positive for r, _ in pairs])
    judged = np.array([v.label in positive for _, v in pairs])
    weights = np.array([r.weight for r, _ in pairs])
    groups = np.unique([r.prompt for r, _ in pairs], return_inverse=True)[1].ravel()
    tp, fn = _effective(judged[truth], weights[truth], groups[truth])
    tn, fp = _effective(~judged[~truth], weights[~truth], groups[~truth])
    return Counts(tp=tp, fn=fn, fp=fp, tn=tn)


def _effective(hit: Any, weights: stats.Floats, groups: Any) -> tuple[float, float]:
    """Hits and misses of a simple sample that knows the (weighted) share of hits as well as these rows do.

    Its size is p(1 − p) over the linearised variance of the share with prompts as clusters, and no more than Kish's
    (Σw)² / Σw² (L. Kish, 1965, Survey Sampling, §11.7).
    """
    if not len(hit):
        return 0.0, 0.0
    total = float(weights.sum())
    share = float((weights * hit).sum()) / total
    size = total**2 / float((weights**2).sum())
    pulls = stats.group_totals((weights * (hit - share))[:, None], groups)[:, 0]
    variance = float(pulls @ pulls) / total**2
    size = min(size, share * (1 - share) / variance if variance > 0 else float(len(pulls)))
    return round(share * size, 4), round((1 - share) * size, 4)


def _refusals(judge: Judge, name: str, rows: Sequence[Labelled], over: Mapper | None) -> Iterator[Verdict]:
    for verdict in judging.apply(judge, name, (row.item for row in rows), over=over):
        if verdict.question == "refusal":
            yield verdict


def _slices(columns: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "all", np.ones(len(columns["model"]), dtype=bool)
    for key, column in columns.items():
        values = sorted({v for v in column.tolist() if v})
        if len(values) > 1 or key in ("model", "language"):
            for value in values:
                yield f"{key}={value}", column == value
    model, expected = columns["model"], columns["expected"]
    for pair in sorted({(m, e) for m, e in zip(model.tolist(), expected.tolist(), strict=True) if m and e}):
        yield f"model={pair[0]}&expected={pair[1]}", (model == pair[0]) & (expected == pair[1])


def _agreement(
    label: str,
    truth: NDArray[Any],
    judged: NDArray[Any],
    groups: NDArray[np.intp],
    weights: stats.Floats,
    expected: NDArray[Any],
) -> Agreement:
    names = [name for name in LABELS["refusal"] if name in truth or name in judged]
    said = [*names, UNSCORED]
    cells = np.zeros((len(truth), len(names) * len(said)))
    place = [names.index(t) * len(said) + said.index(j) for t, j in zip(truth.tolist(), judged.tolist(), strict=True)]
    cells[np.arange(len(truth)), place] = weights
    totals = stats.group_totals(cells, groups)
    sums = totals.sum(axis=0, keepdims=True)
    table = sums.reshape(len(names), len(said))
    scored = float(table[:, :-1].sum())
    kappa = float(_kappa(sums, len(names))[0])
    right = float(np.trace(table))
    return Agreement(
        slice=label,
        n=len(truth),
        groups=len(totals),
        n_unscored=int((judged == UNSCORED).sum()),
        accuracy=right / float(table.sum()),
        accuracy_interval=_accuracy_interval(totals, len(names), plain=len(totals) == len(truth), weights=weights),
        accuracy_scored=right / scored if scored else None,
        kappa=kappa if np.isfinite(kappa) else None,
        kappa_interval=_interval(totals, lambda s: _kappa(s, len(names))),
        macro_f1=float(_macro_f1(sums, len(names))[0]),
        macro_f1_interval=_interval(totals, lambda s: _macro_f1(s, len(names))),
        f1={n: float(f) for n, f in zip(names, _f1(sums, len(names))[0], strict=True) if n in truth},
        confusion={
            n: {s: _count(v) for s, v in zip(said, row, strict=True)} for n, row in zip(names, table, strict=True)
        },
        baseline=_baseline(truth, expected, weights),
    )


def _count(value: float) -> float:
    """A count as a whole number where it is one."""
    return int(value) if float(value).is_integer() else float(value)


def _square(sums: stats.Floats, k: int) -> stats.Floats:
    return sums.reshape(len(sums), k, k + 1)


def _accuracy(sums: stats.Floats, k: int) -> stats.Floats:
    table = _square(sums, k)
    right = np.trace(table, axis1=1, axis2=2)
    return stats.ratio(np.stack([right, table.sum(axis=(1, 2))], axis=1))


def _kappa(sums: stats.Floats, k: int) -> stats.Floats:
    """Cohen's kappa of each confusion, shape (resamples, k × (k + 1)); the labels hold no unscored row."""
    return stats.kappas(np.pad(_square(sums, k), ((0, 0), (0, 1), (0, 0))))


def _f1(sums: stats.Floats, k: int) -> stats.Floats:
    """F1 of each class, shape (resamples, k); 0 where the labels hold none of it."""
    table = _square(sums, k)
    hits: stats.Floats = np.diagonal(table, axis1=1, axis2=2)
    both = table.sum(axis=2) + table[:, :, :-1].sum(axis=1)
    f1: stats.Floats = np.divide(2 * hits, both, out=np.zeros_like(both), where=both > 0)
    return f1


def _macro_f1(sums: stats.Floats, k: int) -> stats.Floats:
    """Mean F1 over the classes that the labels hold."""
    present = _square(sums, k).sum(axis=2) > 0
    return stats.ratio(np.stack([(_f1(sums, k) * present).sum(axis=1), present.sum(axis=1)], axis=1))


def _accuracy_interval(totals: stats.Floats, k: int, *, plain: bool, weights: stats.Floats) -> tuple[float, float]:
    value = float(_accuracy(totals.sum(axis=0, keepdims=True), k)[0])
    if plain and bool((weights == 1).all()):
        return stats.wilson(value * len(totals), len(totals))
    found = _interval(totals, lambda s: _accuracy(s, k))
    return found or stats.wilson(value * len(totals), len(totals))


def _interval(totals: stats.Floats, statistic: Any) -> tuple[float, float] | None:
    """The group bootstrap, or None where no resample has a value or all have the same."""
    try:
        low, high = stats.bootstrap_interval(totals, statistic, n_boot=1000)
    except ValueError:
        return None
    return (low, high) if high > low else None


def _baseline(truth: NDArray[Any], expected: NDArray[Any], weights: stats.Floats) -> float | None:
    if not (expected != "").all():
        return None
    best = 0.0
    for value in set(expected.tolist()):
        counts: Counter[str] = Counter()
        for label, weight in zip(truth[expected == value].tolist(), weights[expected == value], strict=True):
            counts[label] += float(weight)  # type: ignore[assignment]
        best += max(counts.values())
    return best / float(weights.sum())
