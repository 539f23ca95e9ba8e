"""From folders of interventions to a menu: names, plans, strengths, and what is known of the safety floor."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from demur.errors import ConfigError
from demur.floor_records import find
from demur.interventions import load
from demur.lm import LM
from demur.plan import Intervention, Plan
from demur.serving.menu import PLAIN, UNMEASURED, Entry, Floor, Menu, Prepared

EXTRA = "local"


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
        tells=bool(_told(plan)),
    )


def prepared(plan: Plan) -> Prepared:
    """Return a plan with its group (plans that change weights run apart) and its rows (a mixed branch is one)."""
    return Prepared(plan, plan.fingerprint if plan.weights else "", 2 if plan.mixes else 1)


def fixed(plan: Plan) -> str:
    """Return why the strength of a plan cannot be changed, "" where it can: where 0 would change nothing."""
    if told := _told(plan):
        return f"it has {' and '.join(told)}, and these have no strength"
    if any(not dataclasses.replace(site, strength=0.0).idle for site in plan.sites):
        return "its edit 'set' changes something at strength 0 too"
    return "" if plan.sites or plan.weights else "it changes nothing"


def _told(plan: Plan) -> list[str]:
    """Return the parts of a plan that change what a conversation is read as, in words."""
    parts = {"a system text": plan.system is not None, "soft tokens": plan.soft_tokens, "branches": plan.branches}
    return [name for name, there in parts.items() if there]


def scaled(entry: Entry, strength: float) -> Prepared:
    """Return the plan of an entry with every strength multiplied."""
    plan: Plan = entry.prepared.plan
    sites = tuple(dataclasses.replace(site, strength=site.strength * strength) for site in plan.sites)
    weights = tuple(dataclasses.replace(edit, strength=edit.strength * strength) for edit in plan.weights)
    return prepared(dataclasses.replace(plan, sites=sites, weights=weights))


def floor_of(lm: LM, intervention: Intervention, folder: Path) -> Floor:
    """Return what the runs beside an intervention say of the safety floor on this very model; see `floor_records`."""
    found = find(folder.resolve(), intervention.fingerprint(), lm.ref)
    return UNMEASURED if found.floor is None else Floor(state=found.state, verdict=found.reason)


def _model_name(lm: LM) -> str:
    path = Path(lm.ref.id).expanduser()
    return path.resolve().name if path.is_dir() else lm.ref.id
