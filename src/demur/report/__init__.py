"""The report of a run or a recipe: `report.html` and `report.md`, a pure function of saved records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from demur.records import LoadedRun


def write(folder: Path, run: LoadedRun | None = None) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` into a run or recipe folder, from the records in it alone.

    Args:
        folder: what `demur measure` or `demur run` made.
        run: what the run folder `folder` holds, where it is in memory already.

    Returns:
        the paths of both reports.

    Raises:
        DataError: when the folder holds no run, a record is malformed, or the disk is full.
    """
    from demur.files import replace
    from demur.report.build import build
    from demur.report.html import render_html
    from demur.report.markdown import render_markdown

    data = build(folder, run)
    pages = (folder / "report.html", folder / "report.md")
    replace(pages[0], render_html(data).encode("utf-8", "backslashreplace"))
    replace(pages[1], render_markdown(data).encode("utf-8", "backslashreplace"))
    return pages
