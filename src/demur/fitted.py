"""How an intervention came about: method, settings and what fitting cost, in a file of its folder.

What a method gives is a plain intervention that no longer knows its method; the file does, and says of a method that
is for comparison only why what it gave is measured and compared, and not exported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from demur import registry
from demur.files import read_json, write_json
from demur.settings import PartSpec
from demur.types import to_json

FILE = "fit.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a fit cost, from its data to its choice; the answers that it was given to fit on are not counted.

    Of a fit that was killed and went on, only what was spent since; of several processes, what the first one spent.
    None is what was not recorded, or what the system does not say.
    """

    cpu_seconds: float | None = None
    """On all threads."""
    wall_seconds: float | None = None
    peak_mib: float | None = None
    """The most memory that the process held, above what it held before (the loaded model is in that)."""
    device_mib: float | None = None
    """The same of the GPU's memory."""


def write(intervention: Path, method: PartSpec, spent: Spent | None = None) -> None:
    """Write into the folder of an intervention which method gave it, and what that cost."""
    reason = registry.comparison_only("methods", method.name)
    how = {"method": method.name, "settings": to_json(method.settings), "comparison_only": reason}
    write_json(intervention / FILE, {**how, **dataclasses.asdict(spent or Spent())})


def method(intervention: Path) -> str:
    """Return the method that gave what is in a folder, with its settings; "" where that is not recorded."""
    how = read_json(intervention / FILE) if (intervention / FILE).is_file() else {}
    return str(PartSpec(how["method"], how["settings"])) if how else ""


def spent(intervention: Path) -> Spent:
    """Return what fitting cost, as far as it is recorded."""
    how = read_json(intervention / FILE) if (intervention / FILE).is_file() else {}
    return Spent(**{f.name: how.get(f.name) for f in dataclasses.fields(Spent)})


def comparison_only(intervention: Path) -> str:
    """Return why what is in a folder may only be measured and compared; "" where it may be exported, too."""
    how = intervention / FILE
    return str(read_json(how).get("comparison_only") or "") if how.is_file() else ""
