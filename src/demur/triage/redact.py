"""Redaction: what names a person or opens a door is taken out before a text is shown, queued or sent.

The built-in patterns are simple and miss names, addresses and much else; a hook of one's own (`redact(text) -> str` in
a Python file) runs first. A hook that fails on a text hides the whole text: it is never shown as it was.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demur.errors import ConfigError

PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[email]"),
    (re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.\S+", re.IGNORECASE), "[link]"),
    (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"), "[number]"),
    (re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{20,}(?![\w-])"), "[secret]"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), "[address]"),
    (re.compile(r"(?<!\w)\+?(?:\(\d+\)[ ./-]?)?\d(?:[ ./()-]{0,2}\d){6,14}(?!\w)"), "[phone]"),
    (re.compile(r"\d{5,}"), "[number]"),
)
"""Tried in this order."""

HIDDEN = "[not shown: the redaction hook failed on this text]"

Hook = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redactor:
    """Takes texts and gives them back redacted."""

    hook: Hook | None = None
    """Runs before the patterns."""
    patterns: bool = True
    """Whether the built-in patterns run."""

    def __call__(self, text: str) -> str:
        """Return the text without what the hook and the patterns find."""
        if self.hook is not None:
            try:
                found = self.hook(text)
            except Exception:
                return HIDDEN
            if not isinstance(found, str):
                return HIDDEN
            text = found
        if self.patterns:
            for pattern, mark in PATTERNS:
                text = pattern.sub(mark, text)
        return text


def redactor(wanted: str = "") -> Redactor:
    """Return what `--redact` asks for: "" the built-in patterns, `none` nothing, a Python file its hook and both.

    Raises:
        ConfigError: where the file cannot be loaded or holds no function `redact`.
    """
    if wanted in ("", "none"):
        return Redactor(patterns=wanted == "")
    path = Path(wanted).expanduser()
    spec = importlib.util.spec_from_file_location(f"demur_redact_{path.stem}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(
            f"redaction hook {wanted!r} is no Python file; give ./hook.py with redact(text) -> str, or none"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"redaction hook {wanted} cannot be loaded: {type(error).__name__}: {error}") from error
    hook = getattr(module, "redact", None)
    if not callable(hook):
        raise ConfigError(f"redaction hook {wanted} defines no function redact(text) -> str")
    return Redactor(hook=hook)
