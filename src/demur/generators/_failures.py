"""What a failed request means: ask again, a row of its own, a refusal by the system, or no use going on."""

from __future__ import annotations

import datetime as dt
import email.utils
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from demur.generators._chat import MalformedReplyError, line

Kind = Literal["again", "row", "filtered", "unreachable", "refused", "config", "unavailable"]

_FILTER_CODES = {
    "content_filter", "content_policy_violation", "contentpolicyviolation", "data_inspection_failed",
    "datainspectionfailed", "moderation_blocked", "responsibleaipolicyviolation",
}  # fmt: skip
"""Error codes with which a server says that its filter took the prompt."""
_SPENT = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"}
_NO_SERVER = ("ConnectError", "ConnectTimeout")
_TRY_AGAIN = {408, 409, 425, 429}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed attempt."""

    kind: Kind
    """`again` may be tried once more; `row` and `filtered` end the row; `refused` ends the row, and the run where
    nothing else comes; the others end the whole run."""
    text: str
    """One short line."""
    after: float = 0.0
    """Seconds that the server asked to wait."""


def failure(error: Exception, *, timeout: float, key: str = "") -> Failure:
    """Say what an attempt's error means.

    Args:
        error: raised by the client, or a `MalformedReplyError`.
        timeout: seconds that a request may take, for the message.
        key: the key, which the message must not hold.
    """
    import openai

    if isinstance(error, openai.APIConnectionError) and type(error.__cause__).__name__ in _NO_SERVER:
        return Failure(kind="unreachable", text=f"{type(error.__cause__).__name__}: {line(error.__cause__, key)}")
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Failure(kind="again", text=f"no reply within {timeout:g} s")
    if isinstance(error, openai.APIStatusError):
        return by_status(error.status_code, error.body, error.response.headers, error.response.text, key)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return Failure(kind="again", text=f"{type(cause).__name__}: {line(cause, key) or 'connection cut'}")
    if isinstance(error, MalformedReplyError):
        return Failure(kind="again", text=line(error, key))
    if isinstance(error, ValueError) and not isinstance(error, UnicodeEncodeError):
        return Failure(kind="again", text=f"malformed reply: {line(error, key)}")
    return Failure(kind="row", text=f"{type(error).__name__}: {line(error, key)}")


def by_status(status: int, body: Any, headers: Mapping[str, str], raw: str = "", key: str = "") -> Failure:
    """Say what a reply with an error status means.

    Args:
        status: the HTTP status, or the code in an error object that came with status 200.
        body: the reply's `error` object, or the whole reply.
        headers: of the reply.
        raw: the reply as text, where it is no JSON.
        key: the key, which the message must not hold.
    """
    error = body.get("error", body) if isinstance(body, Mapping) else {}
    error = error if isinstance(error, Mapping) else {"message": error}
    inner = error.get("innererror")
    named = [error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, Mapping) else ""]
    codes = {str(code).lower() for code in named if code}
    text = f"HTTP {status}: {line(error.get('message') or raw or 'no message', key)}"
    if taken := sorted(codes & _FILTER_CODES) or (["moderation"] if status == 403 and _moderated(error) else []):
        return Failure(kind="filtered", text=f"HTTP {status}: {taken[0]}")
    if status == 401:
        return Failure(kind="config", text=text)
    if status == 402 or codes & _SPENT:
        return Failure(kind="unavailable", text=text)
    if status in (403, 404):
        return Failure(kind="refused", text=text)
    if status in _TRY_AGAIN or status >= 500:
        return Failure(kind="again", text=text, after=asked_wait(headers))
    return Failure(kind="row", text=text)


def _moderated(error: Mapping[str, Any]) -> bool:
    """Say whether a refused permission is a moderation of the prompt."""
    held = error.get("metadata")
    return isinstance(held, Mapping) and bool(held.get("reasons") or held.get("flagged_input"))


def asked_wait(headers: Mapping[str, str], now: dt.datetime | None = None) -> float:
    """Return the seconds that `retry-after-ms` or `Retry-After` (seconds, or a date) ask to wait, else 0."""
    try:
        if precise := headers.get("retry-after-ms"):
            return max(0.0, float(precise) / 1000)
        asked = headers.get("retry-after") or headers.get("Retry-After") or "0"
        if asked.strip()[:1].isdigit():
            return float(asked)
        return max(0.0, (email.utils.parsedate_to_datetime(asked) - (now or dt.datetime.now(dt.UTC))).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def wait(attempt: int, *, backoff: float, longest: float, after: float, draw: random.Random) -> float:
    """Return the seconds before the next attempt: full jitter under an exponential ceiling, never less than `after`.

    Args:
        attempt: how many attempts have failed, from 1.
        backoff: the first ceiling in seconds; it doubles with each attempt.
        longest: the highest ceiling in seconds.
        after: what the server asked for, in seconds.
        draw: source of the jitter (Brooker, Exponential backoff and jitter, 2015).
    """
    ceiling = min(longest, backoff * 2 ** (attempt - 1))
    return after + draw.uniform(0, ceiling)
