"""Where the safety floor's evidence for an intervention lies, and what it says of one model.

`demur run` leaves `before/` and `after/` beside `intervention/`, `demur verify` in its `--out`. The floor is computed
anew from these two runs, at its own margin and on all its strata, so that neither an old `floor.json` nor one made with
other limits counts. It is a record of this intervention on this model only where

- `after/` was answered under the intervention with this very content, and `before/` without any;
- both runs name the model's weights (hub commit, or hash of the weight files) and chat template, and it was demur that
  ran them: a server does not say which weights it has;
- the same prompts, system texts and sampling are in both, every row is finished, and the same judges judged them.

Prompts of the synthetic world are left out: what the embedded model does there says nothing of real harmful requests,
and its record never counts for another model. Whatever is missing makes the floor *not measured*, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demur import floor as safety
from demur.comparison import check_same_judges
from demur.errors import DemurError
from demur.fitting import outcomes
from demur.records import LoadedRun, RunFolder
from demur.types import ModelRef, Prompt

State = Literal["kept", "missed", "not measured"]
FOLDERS = ("before", "after")
WORLD = "world"
MISSES = ("loss shown", "loss not excluded")


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorRecord:
    """What is known of an intervention's safety on one model."""

    state: State
    reason: str
    """The floor's verdict, or why there is none."""
    folder: Path | None = None
    """Where the two runs lie."""
    floor: safety.FloorResult | None = None
    """On real prompts alone."""
    before: LoadedRun | None = None
    after: LoadedRun | None = None

    @property
    def words(self) -> str:
        """The state as a card and a header say it; never more than what was shown."""
        return {"kept": "floor kept", "missed": "safety removed", "not measured": "not measured"}[self.state]


def find(intervention: Path, fingerprint: str, model: ModelRef, named: Path | None = None) -> FloorRecord:
    """Find the floor's record of an intervention on a model.

    Args:
        intervention: the folder of the saved intervention; its parent is where `demur run` leaves the runs.
        fingerprint: of the intervention's settings and tensors.
        model: the very weights that are to be changed.
        named: the folder of a `demur run` or `demur verify`, where the user names it.
    """
    folder = named if named is not None else intervention.absolute().parent
    runs = [folder / name for name in FOLDERS]
    if not all(RunFolder(run).exists() for run in runs):
        return FloorRecord(state="not measured", reason=f"{folder} holds no runs `before` and `after`")
    try:
        before, after = (RunFolder.load(run) for run in runs)
        why = _unfit(before, after, fingerprint, model)
        if why:
            return FloorRecord(state="not measured", reason=f"{folder}: {why}", folder=folder)
        return _judged(folder, before, after)
    except DemurError as error:
        return FloorRecord(state="not measured", reason=f"{folder}: {error}", folder=folder)


def _unfit(before: LoadedRun, after: LoadedRun, fingerprint: str, model: ModelRef) -> str:
    """Return why two runs are no record of the intervention on the model, or ""."""
    part = after.spec.intervention
    if part is None or fingerprint not in (part.fingerprint, part.settings.get("fingerprint")):
        return "its run `after` was answered under another intervention"
    if before.spec.intervention is not None:
        return "its run `before` was answered under an intervention already"
    for run in (before, after):
        if not run.spec.model.revision or run.spec.model.revision != model.revision:
            return (
                f"it was measured on {run.spec.model.id} ({run.spec.model.revision or 'weights unknown'}), and this is "
                f"{model.id} ({model.revision or 'weights unknown'}); a record never transfers to other weights"
            )
        if run.spec.model.template_sha != model.template_sha or run.spec.model.adapter != model.adapter:
            return "it was measured with another chat template or adapter"
        if run.spec.generator.name != "local":
            return f"it was answered by {run.spec.generator.name}, which does not say which weights it has"
        if run.missing:
            return f"its run `{run.path.name}` lacks {run.missing} answers"
    if before.prompts != after.prompts or before.spec.sampling != after.spec.sampling:
        return "its two runs hold other prompts, system texts or sampling"
    return ""


def _judged(folder: Path, before: LoadedRun, after: LoadedRun) -> FloorRecord:
    """Hold the real prompts of two runs to the floor."""
    check_same_judges(before, after)
    harmful = [p for p in real(before.prompts) if p.expected == "refuse"]
    if not harmful:
        why = f"{folder}: none of its prompts is a real harmful one (the synthetic world does not count)"
        return FloorRecord(state="not measured", reason=why, folder=folder, before=before, after=after)
    kept = {p.id for p in real(before.prompts)}
    rows = [[o for o in outcomes(run) if o.prompt.id in kept] for run in (before, after)]
    result = safety.check(*rows)
    lost = bool(result.severe) or any(s.status in MISSES and not s.passed for s in result.strata)
    state: State = "kept" if result.passed else "missed" if lost else "not measured"
    return FloorRecord(state=state, reason=result.verdict, folder=folder, floor=result, before=before, after=after)


def real(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    """Return the prompts that are not of the synthetic world."""
    return tuple(p for p in prompts if WORLD not in (p.source, p.id.split("/", 1)[0]))
