"""The triage page: one self-contained HTML file, no script, nothing loaded, everything escaped and redacted."""

from __future__ import annotations

from pathlib import Path

import jinja2

from demur.triage import Triage

TEMPLATE = "page.html.j2"


def render(found: Triage) -> str:
    """Return the page.

    Args:
        found: as `triage` gives it; its example prompts are redacted already.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: "no data" if value is None else f"{value:.1f}"
    return environment.get_template(TEMPLATE).render(t=found)
