"""What an intervention does to a model's abilities: lm-eval tasks before and after, item by item.

Both sides answer the same items, so the difference is paired: its interval resamples items (the paired bootstrap of
P. Koehn, EMNLP 2004), which is far narrower than that of two unpaired scores.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from demur import registry, stats
from demur.errors import ConfigError, DataError, Unavailable

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Intervention

EXTRA = "eval"
Tell = Callable[[str, int, int], None]
Scores = dict[tuple[str, str], dict[str, float]]
"""(task, metric) -> item -> score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over items with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One metric of one task."""

    task: str
    metric: str
    before: Estimate
    after: Estimate | None = None
    delta: Estimate | None = None
    """After minus before, paired by item."""
    n: int
    changed: int = 0
    """Items whose score changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Which tasks, and how they are asked."""

    names: tuple[str, ...]
    """Names of lm-eval tasks or groups."""
    folder: Path | None = None
    """Where more task files (YAML) lie."""
    limit: int | None = None
    """Items of each task; all by default."""
    fewshot: int | None = None
    """Worked examples before each item; the task's own number by default."""
    chat: bool = False
    """Whether items are asked through the chat template."""


def capability(
    lm: LM, tasks: Tasks, intervention: Intervention | None = None, *, tell: Tell | None = None
) -> list[Change]:
    """Run tasks on a model, and again with an intervention, and return what changed.

    Args:
        lm: the model.
        tasks: what to run.
        intervention: what is attached the second time; None runs the model alone.
        tell: progress.

    Raises:
        Unavailable: without the extra `eval`, or where a task's data cannot be fetched.
        ConfigError: for a task that lm-eval does not know.
        DataError: where a task gives no score by item.
    """
    require()
    report = tell or (lambda stage, done, total: None)
    sides = 1 if intervention is None else 2
    report("capability", 0, sides)
    before = _scores(lm, tasks, None)
    report("capability", 1, sides)
    after = _scores(lm, tasks, intervention) if intervention is not None else None
    if after is not None:
        report("capability", 2, sides)
    if not before:
        raise DataError(f"tasks {', '.join(tasks.names)} give no score by item; choose tasks with acc or exact_match")
    return [compare(*key, scores, after[key] if after else None) for key, scores in sorted(before.items())]


def require() -> None:
    """Check that lm-eval is there.

    Raises:
        Unavailable: where it is not, with the install command.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise Unavailable(f"capability needs lm-eval, which is not installed: {registry.install_hint(EXTRA)}")


def compare(task: str, metric: str, before: Mapping[str, float], after: Mapping[str, float] | None = None) -> Change:
    """Compare the scores of the same items before and after.

    Raises:
        DataError: where the items differ.
    """
    if after is not None and set(before) != set(after):
        raise DataError(f"task {task}: {len(before)} items before and {len(after)} after are not the same items")
    items = sorted(before)
    old = np.array([before[i] for i in items])
    if after is None:
        return Change(task=task, metric=metric, before=_estimate(old), n=len(items))
    new = np.array([after[i] for i in items])
    return Change(
        task=task,
        metric=metric,
        before=_estimate(old),
        after=_estimate(new),
        delta=_difference(old, new),
        n=len(items),
        changed=int((new != old).sum()),
    )


def _estimate(values: stats.Floats) -> Estimate:
    """Return the mean with its bootstrap interval; Wilson where all items of a 0/1 score are equal."""
    mean, n = float(values.mean()), len(values)
    if np.ptp(values) == 0 and mean in (0.0, 1.0) and n:
        low, high = stats.wilson(mean * n, n)
    else:
        low, high = stats.bootstrap_interval(np.stack([values, np.ones(n)], axis=1), stats.ratio)
    return Estimate(value=mean, low=low, high=high)


def _difference(old: stats.Floats, new: stats.Floats) -> Estimate:
    """Return the paired difference; Tango's score interval where right-or-wrong items leave a bootstrap no width."""
    moved = new - old
    if np.ptp(moved) == 0 and np.isin([*old, *new], (0.0, 1.0)).all():
        low, high = stats.tango(float((moved > 0).sum()), float((moved < 0).sum()), len(moved))
    else:
        low, high = stats.bootstrap_interval(np.stack([moved, np.ones(len(moved))], axis=1), stats.ratio)
    return Estimate(value=float(moved.mean()), low=low, high=high)


def _scores(lm: LM, tasks: Tasks, intervention: Intervention | None) -> Scores:
    """Run the tasks once and return the scores by item."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from demur.harness import Harness

    own = str(tasks.folder) if tasks.folder else None
    manager = TaskManager(include_path=own, include_defaults=own is None)
    if own and not set(tasks.names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=own)
    if unknown := [name for name in tasks.names if name not in manager.all_tasks]:
        raise ConfigError(
            f"lm-eval has no task {unknown[0]!r}; `lm_eval ls tasks` lists them, --tasks-in adds a folder"
        )
    quiet = logging.getLogger("lm_eval")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        results: Any = lm_eval.simple_evaluate(
            model=Harness(lm, None if intervention is None else lm.plan_of(intervention)),
            tasks=list(tasks.names),
            task_manager=manager,
            num_fewshot=tasks.fewshot,
            limit=tasks.limit,
            apply_chat_template=tasks.chat,
            fewshot_as_multiturn=tasks.chat and bool(tasks.fewshot),
            log_samples=True,
            bootstrap_iters=0,
        )
    except (OSError, ConnectionError) as error:
        raise Unavailable(f"the data of {', '.join(tasks.names)} cannot be read: {error}") from None
    finally:
        quiet.setLevel(level)
    return by_item(results.get("samples") or {})


def by_item(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Scores:
    """Return the scores that lm-eval logged, by (task, metric) and item; what is no number is left out."""
    found: Scores = {}
    for task, rows in samples.items():
        for row in rows:
            kind = str(row.get("filter") or "none")
            for metric in row.get("metrics") or ():
                score = row.get(metric)
                if isinstance(score, bool | int | float):
                    name = metric if kind == "none" else f"{metric} ({kind})"
                    found.setdefault((task, name), {})[str(row["doc_id"])] = float(score)
    return found
