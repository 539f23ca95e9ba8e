"""How an intervention came about: method and settings, in a file of its folder.

What a method gives is a plain intervention that no longer knows its method; the file does, and says of a method that
is for comparison only why what it gave is measured and compared, and not exported.
"""

from __future__ import annotations

from pathlib import Path

from demur import registry
from demur.files import read_json, write_json
from demur.settings import PartSpec
from demur.types import to_json

FILE = "fit.json"


def write(intervention: Path, method: PartSpec, cpu_seconds: float | None = None) -> None:
    """Write into the folder of an intervention which method gave it.

    Args:
        intervention: its folder.
        method: name and settings.
        cpu_seconds: what fitting cost, on all threads; the answers that it was fitted on are not counted.
    """
    reason = registry.comparison_only("methods", method.name)
    how = {"method": method.name, "settings": to_json(method.settings), "comparison_only": reason}
    write_json(intervention / FILE, {**how, "cpu_seconds": cpu_seconds})


def method(intervention: Path) -> str:
    """Return the method that gave what is in a folder, with its settings; "" where that is not recorded."""
    how = read_json(intervention / FILE) if (intervention / FILE).is_file() else {}
    return str(PartSpec(how["method"], how["settings"])) if how else ""


def cpu_seconds(intervention: Path) -> float | None:
    """Return what fitting cost; None where that is not recorded."""
    how = intervention / FILE
    return read_json(how).get("cpu_seconds") if how.is_file() else None


def comparison_only(intervention: Path) -> str:
    """Return why what is in a folder may only be measured and compared; "" where it may be exported, too."""
    how = intervention / FILE
    return str(read_json(how).get("comparison_only") or "") if how.is_file() else ""
