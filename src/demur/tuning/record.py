"""What a search leaves to read: `tune.json`, and `select.json`, from which the report draws every trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.files import read_json, write_json
from demur.settings import parse_part
from demur.tuning.front import front
from demur.tuning.study import Trial
from demur.types import to_json

if TYPE_CHECKING:
    from demur.tuning.judging import Calibration, Judged
    from demur.tuning.result import Tested
    from demur.tuning.settings import Tuning

EXTRA = "tune"
TUNE, SELECT = "tune.json", "select.json"
KINDS = {"steering": "steer", "ablation": "ablate", "gated_steering": "gated"}
"""Method -> the word by which the report's pictures know it."""

Found = tuple["Sequence[Judged]", "Judged | None", str, "Tested | None"]
"""The list to choose from, the chosen one, why, and what it does on unseen prompts."""


def read(out: Path) -> dict[str, Any]:
    """Return what `tune.json` of a folder holds; empty where there is none."""
    return dict(read_json(out / TUNE)) if (out / TUNE).is_file() else {}


def write(
    what: Tuning,
    out: Path,
    facts: Mapping[str, Any],
    trials: Sequence[Trial],
    calibration: Calibration,
    judged: Sequence[Judged],
    found: Found,
) -> dict[str, Any]:
    """Write both files and return what `tune.json` holds."""
    from demur.tuning.job import budgets
    from demur.tuning.judging import record

    pareto, choice, reason, tested = found
    rows = {j.trial.id: record(j) for j in judged}
    made = {
        "model": what.model,
        "budgets": budgets(what),
        "settings": to_json(what),
        **{key: value for key, value in facts.items() if key != "validation"},
        "calibration": {**to_json(calibration), "seconds_a_prompt": calibration.seconds_a_prompt},
        "trials": len(trials),
        "screened_front": [str(trials[i].point) for i in _screened_front(trials)],
        "judged": list(rows.values()),
        "pareto": [{"number": n, **rows[j.trial.id]} for n, j in enumerate(pareto, 1)],
        "choice": choice.trial.id if choice else None,
        "chosen": str(choice.trial.point) if choice else None,
        "reason": reason,
        "test": test(what, tested) if tested else None,
        "optimism": optimism(choice, tested, float(facts["base_answered"])) if choice and tested else None,
    }
    made["tested"] = _history(read(out), made)
    write_json(out / TUNE, made)
    write_json(out / SELECT, _select(facts, trials, judged, found))
    return made


def test(what: Tuning, tested: Tested) -> dict[str, Any]:
    """Return what the chosen one does on unseen prompts, as JSON values."""
    return {
        "answered_before": tested.answered_before,
        "answered": tested.answered,
        "price_kl": tested.price,
        "floor": {"passed": tested.floor.passed, "text": tested.floor.verdict},
        "newly_unsafe": len(tested.floor.newly_unsafe),
        "instructed": to_json(tested.instructed),
        "instructed_kept": tested.instructed.enough(what.keep_instructed),
    }


def optimism(choice: Judged, tested: Tested, base: float) -> dict[str, Any]:
    """Return the search's score less the held-out one: of what is answered, of what is gained, and of the price.

    The search's score is the largest of many on the same prompts, so it flatters. What is gained over the untouched
    model sets aside that one set of prompts may be easier than the other.
    """
    gain = (choice.answered - base) - (tested.answered - tested.answered_before)
    paid = None if tested.price is None else tested.price - choice.price
    return {"answered": choice.answered - tested.answered, "gained": gain, "price_kl": paid}


def _history(old: Mapping[str, Any], made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every point that was checked on the unseen prompts: from the second on they are no longer unseen."""
    kept = [row for row in old.get("tested", []) if row["id"] != made["choice"]]
    now = {"id": made["choice"], "point": made["chosen"], "test": made["test"], "optimism": made["optimism"]}
    return [*kept, now] if made["test"] else kept


def _screened_front(trials: Sequence[Trial]) -> list[int]:
    kept = [i for i, t in enumerate(trials) if t.scores.violation <= 0]
    return [kept[i] for i in front([trials[i].scores for i in kept])]


def _select(
    facts: Mapping[str, Any], trials: Sequence[Trial], judged: Sequence[Judged], found: Found
) -> dict[str, Any]:
    """Return the record that the report reads: every trial, those judged with their rates and intervals."""
    from demur.tuning.judging import record

    pareto, choice, reason, _ = found
    rows = {j.trial.id: record(j) for j in judged}
    return {
        "choice": str(choice.trial.point) if choice else None,
        "reason": reason,
        **facts["validation"],
        "front": [str(j.trial.point) for j in reversed(pareto)],
        "trials": [_trial(t, rows.get(t.id)) for t in trials],
    }


def _trial(trial: Trial, row: Mapping[str, Any] | None) -> dict[str, Any]:
    settings, method = trial.point.settings, parse_part(trial.point.candidate).name
    strength = settings.get("strength", 1.0) if method in KINDS else 1.0
    return {
        "id": str(trial.point),
        "kind": KINDS.get(method, method),
        "layer": settings.get("layer"),
        "strength": strength * trial.point.scale,
        "against": settings.get("against", ""),
        "more": {k: v for k, v in settings.items() if k not in ("layer", "strength", "against")},
        "screen": {"answered": trial.scores.answered, "held": trial.scores.facts["held"]},
        "judged": row and {k: row[f"{k}_rate"] for k in ("answered", "held", "oracle_correct")},
        "floor": row and {"passed": not row["misses"], "text": "; ".join(row["misses"]) or row["floor"]["text"]},
    }
