"""The playground: one page, its style and its script in it, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

_HERE = Path(__file__).parent / "playground"


@functools.cache
def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


@functools.cache
def whole() -> str:
    """Return the page."""
    return _part("page.html").replace("/*STYLE*/", _part("page.css")).replace("/*SCRIPT*/", _part("page.js"))


@functools.cache
def policy() -> str:
    """Return the content security policy: this page's own style and script, and requests to this server alone."""
    style, script = _hash(_part("page.css")), _hash(_part("page.js"))
    return (
        f"default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
