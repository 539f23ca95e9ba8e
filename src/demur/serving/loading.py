"""From folders of interventions to a menu: names, plans, strengths, and what is known of the safety floor."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from demur.errors import ConfigError, DataError, DemurError
from demur.files import read_json
from demur.interventions import load
from demur.lm import LM
from demur.plan import Intervention, Plan
from demur.records import RunFolder
from demur.serving.menu import PLAIN, UNMEASURED, Entry, Floor, Menu, Prepared

EXTRA = "local"
ADJUSTABLE = ("add", "ablate")
"""Edits of the stream whose strength 0 changes nothing."""
_SCALED = {"sites", "gates", "weights", "tensors"}


def menu_of(lm: LM, withs: Sequence[str], name: str = "") -> Menu:
    """Return the menu of a model with the interventions named on the command line.

    Args:
        lm: the model.
        withs: `FOLDER` or `NAME=FOLDER`; a folder's own name is taken, or its parent's where that is `intervention`.
        name: what the model is called; by default its id, or the name of its folder.

    Raises:
        ConfigError: for a name given twice or not usable, or an intervention that does not fit the model.
        DataError: for a folder that holds no intervention.
    """
    entries = {PLAIN: Entry(prepared=Prepared(Plan()))}
    for text in withs:
        own, folder = named(text)
        if own in entries:
            raise ConfigError(f"two interventions are named {own!r}; name them apart: --with OTHER={folder}")
        entries[own] = entry(lm, own, folder)
    return Menu(name or _model_name(lm), entries, scaled, lm.ref.revision)


def named(text: str) -> tuple[str, Path]:
    """Return name and folder of `FOLDER` or `NAME=FOLDER`.

    Raises:
        ConfigError: for a name of other characters than letters, digits, dot, dash and underscore.
    """
    given, equals, rest = text.partition("=")
    folder = Path(rest if equals else text).expanduser()
    whole = folder.resolve()
    name = given if equals else whole.parent.name if whole.name == "intervention" else whole.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"--with {text}: {name!r} is no usable name (letters, digits, . - _); write NAME={folder}")
    return name, folder


def entry(lm: LM, name: str, folder: Path) -> Entry:
    """Load one intervention and make its plan."""
    intervention = load(folder)
    plan = lm.plan_of(intervention)
    lm.bound(plan)
    return Entry(
        name=name,
        kind=str(intervention.describe()["kind"]),
        lines=plan.describe(),
        fingerprint=intervention.fingerprint(),
        floor=floor_of(lm, intervention, folder),
        prepared=prepared(plan),
        fixed=fixed(plan),
        system=plan.system is not None,
    )


def prepared(plan: Plan) -> Prepared:
    """Return a plan with its group: plans that change weights run apart."""
    return Prepared(plan, plan.fingerprint if plan.weights else "")


def fixed(plan: Plan) -> str:
    """Return why the strength of a plan cannot be changed, "" where it can: where 0 would change nothing."""
    other = [f.name for f in dataclasses.fields(plan) if f.name not in _SCALED and getattr(plan, f.name)]
    if other:
        return f"it has a {' and a '.join(other)} part, which has no strength"
    odd = sorted({site.op for site in plan.sites if site.op not in ADJUSTABLE})
    if odd:
        return f"its edit {odd[0]!r} changes something at strength 0 too"
    return "" if plan.sites or plan.weights else "it changes nothing"


def scaled(entry: Entry, strength: float) -> Prepared:
    """Return the plan of an entry with every strength multiplied."""
    plan: Plan = entry.prepared.plan
    sites = tuple(dataclasses.replace(site, strength=site.strength * strength) for site in plan.sites)
    weights = tuple(dataclasses.replace(edit, strength=edit.strength * strength) for edit in plan.weights)
    return prepared(dataclasses.replace(plan, sites=sites, weights=weights))


def floor_of(lm: LM, intervention: Intervention, folder: Path) -> Floor:
    """Return what the recipe folder around an intervention says of the safety floor.

    A record counts only where the run beside it is of this very model and this very intervention.
    """
    recipe = folder.resolve().parent
    record = recipe / "floor.json"
    if not record.is_file():
        return UNMEASURED
    try:
        found, run = read_json(record), RunFolder.load(recipe / "after")
        part = run.spec.intervention
        same = run.spec.model.revision == lm.ref.revision and run.spec.model.template_sha == lm.ref.template_sha
        if not same or part is None or part.fingerprint != intervention.fingerprint():
            return Floor(verdict="the safety floor was measured for another model or another intervention")
        return Floor(state="kept" if found["passed"] is True else "missed", verdict=str(found["verdict"]))
    except (DemurError, DataError, KeyError, TypeError):
        return Floor(verdict=f"the record of the safety floor at {record.name} cannot be read")


def _model_name(lm: LM) -> str:
    path = Path(lm.ref.id).expanduser()
    return path.resolve().name if path.is_dir() else lm.ref.id
