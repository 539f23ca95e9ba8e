"""How often the same prompt is answered now and refused then: the flip rate over several samples of each prompt.

`flip_rate` = prompts whose scored answers do not all have the same label, out of the prompts with at least two scored
answers. It grows with the number of samples, which therefore belongs beside it; `pair_flip_rate` does not: the chance
that two answers to the same prompt differ in their label, averaged over prompts. Sample at the model's own generation
settings (`demur measure --sampling model --samples 3`): that is what its users meet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from demur import stats
from demur.counted import codes, mean, slices
from demur.types import Metric, Prompt, Verdict

NAMES = ("flip_rate", "pair_flip_rate")
"""The rows that `compute` gives for each slice."""


def compute(
    prompts: Sequence[Prompt],
    verdicts: Iterable[Verdict],
    *,
    benchmark: str,
    judges: Sequence[str],
    n_boot: int = 1000,
) -> list[Metric]:
    """Compute the flip rates of every judge on every slice; empty for a judge without refusal verdicts.

    Prompts with fewer than two scored answers are counted in `n_unscored`. Intervals (95 %) resample groups.

    Args:
        prompts: with unique ids.
        verdicts: of any judges and questions; those on refusal count.
        benchmark: the name written into each row.
        judges: names, the headline first.
        n_boot: resamples.
    """
    labels: dict[str, dict[str, list[str]]] = {judge: defaultdict(list) for judge in judges}
    for v in verdicts:
        if v.question == "refusal" and v.label is not None and v.judge in labels:
            labels[v.judge][v.prompt_id].append(v.label)
    rows: list[Metric] = []
    for judge, given in labels.items():
        if given:
            flips = np.array([_flips(given.get(p.id, [])) for p in prompts]).reshape(len(prompts), len(NAMES))
            rows += _measure(prompts, flips, judge, benchmark, n_boot)
    return rows


def _flips(labels: Sequence[str]) -> tuple[float, float]:
    """Return whether labels differ, and the chance that two of them do; NaN for fewer than two."""
    n = len(labels)
    if n < 2:
        return float("nan"), float("nan")
    same = sum(k * (k - 1) for k in Counter(labels).values())
    return float(len(set(labels)) > 1), 1 - same / (n * (n - 1))


def _measure(prompts: Sequence[Prompt], flips: stats.Floats, judge: str, benchmark: str, n_boot: int) -> list[Metric]:
    groups = codes(prompts)
    found = []
    for label, mask in slices(prompts):
        for at, name in enumerate(NAMES):
            known = mask & np.isfinite(flips[:, at])
            missing = int(mask.sum()) - int(known.sum())
            number = mean(flips[:, at], known, groups, n_unscored=missing, n_boot=n_boot)
            found.append(number.metric(name, label, judge, benchmark))
    return found
