"""Chat completions: a prompt as the body of a request, and a reply as an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demur.finishes import finish_of
from demur.reasoning import split
from demur.types import Finish, Prompt, Response, Sampling

_MOST = 200


class MalformedReplyError(Exception):
    """A reply that holds no answer; it may be asked for again."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the text of a reply is read."""

    prefill: str = ""
    opened: bool = False
    """Whether the server's template opens the thinking block, so that an answer begins inside it."""
    markers: tuple[str, ...] = ()


def messages(prompt: Prompt, prefill: str) -> list[dict[str, Any]]:
    """Return a prompt as chat messages; a prefill is an assistant message left open."""
    turns = [("system", prompt.system)] if prompt.system is not None else []
    turns += [*prompt.history, (prompt.role, prompt.text)]
    turns += [("assistant", prefill)] if prefill else []
    return [{"role": role, "content": text} for role, text in turns]


def seed_of(sampling: Sampling, prompt: Prompt, sample: int) -> int:
    """Return the seed of one answer, from (seed, prompt id, sample) alone: below 2^31."""
    key = hashlib.sha256(f"{sampling.seed}\n{prompt.id}\n{sample}".encode("utf-8", "replace")).digest()
    return int.from_bytes(key[:4], "little") >> 1


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return two nested tables as one; where both have a value, the second's stands."""
    made = dict(first)
    for key, value in second.items():
        old = made.get(key)
        made[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return made


def nested(path: str, value: Any) -> dict[str, Any]:
    """Return the table in which `a.b` is the value."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def read(reply: Any, prompt: Prompt, sample: int, how: Reading) -> Response:
    """Return the answer that a reply holds; a refusal by the system around the model is `filtered`.

    Raises:
        MalformedReplyError: where the reply holds no choice, no message, no reason to stop, or says that it was broken
            off.
    """
    choice, message = _choice(reply)
    reasons = [choice.get("finish_reason"), choice.get("stop_reason"), reply.get("stop_reason")]
    stopped = [str(reason).lower() for reason in reasons if isinstance(reason, str)]
    if stopped and finish_of(stopped[0]) == "error":
        raise MalformedReplyError(f"the server broke off (finish_reason {stopped[0]})")
    content, thought = _texts(message)
    by = next((reason for reason in stopped if finish_of(reason) == "filtered"), "")
    refusal = message.get("refusal")
    if not by and isinstance(refusal, str) and refusal and not content:
        by, content = "message.refusal", refusal
    elif not stopped:
        raise MalformedReplyError("the reply does not say why it ended (finish_reason null)")
    elif content and not content.startswith(how.prefill):
        content = how.prefill + content
    found = split(content, is_open=how.opened and not thought and not how.prefill, markers=how.markers)
    reasoning = "\n\n".join(filter(None, [thought, found.reasoning]))
    silent = not found.finished or (bool(reasoning) and not found.answer)
    finish: Finish = "length" if silent or (stopped and finish_of(stopped[0]) == "length") else "stop"
    return Response(
        prompt_id=prompt.id,
        sample=sample,
        text=found.answer,
        reasoning=reasoning,
        finish="filtered" if by else finish,
        error=by,
        n_tokens=usage_of(reply)[1],
        logprob=_logprob(choice, found.answer, bool(reasoning)),
    )


def usage_of(reply: Any) -> tuple[int, int]:
    """Return how many tokens of prompt and of completion the server counted, 0 where it does not say."""
    usage = reply.get("usage") if isinstance(reply, Mapping) else None
    usage = usage if isinstance(usage, Mapping) else {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    first, second = (count if isinstance(count, int) else 0 for count in counts)
    return first, second


def line(text: object, key: str = "") -> str:
    """Return a text as one short line, without the key that it may repeat."""
    whole = " ".join(str(text).split())
    return (whole.replace(key, "…") if key else whole)[:_MOST]


def _choice(reply: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the first choice and its message."""
    choices = reply.get("choices") if isinstance(reply, Mapping) else None
    if not isinstance(choices, Sequence) or not choices or not isinstance(choices[0], Mapping):
        raise MalformedReplyError("the reply holds no choice")
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        raise MalformedReplyError("the reply's choice holds no message")
    return choices[0], message


def _texts(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return (content, reasoning) of a message, whatever fields or parts the server puts them into."""
    content, thoughts = message.get("content"), []
    field = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(field, str):
        thoughts.append(field.strip())
    if isinstance(content, str):
        return content, "\n\n".join(thoughts)
    texts = []
    for part in content if isinstance(content, Sequence) else ():
        if isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning"):
            thoughts.append(_flat(part.get("thinking") or part.get("text")))
        elif isinstance(part, Mapping):
            texts.append(_flat(part.get("text")))
    return "".join(texts), "\n\n".join(thoughts)


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, Sequence) else ()
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def _logprob(choice: Mapping[str, Any], answer: str, thought: bool) -> float | None:
    """Return the mean log-probability of the answer's tokens: the last that make up its text where it thought first."""
    held = choice.get("logprobs")
    rows = held.get("content") if isinstance(held, Mapping) else None
    tokens = [row for row in rows or () if isinstance(row, Mapping) and isinstance(row.get("logprob"), int | float)]
    if thought:
        kept, length = [], 0
        for row in reversed(tokens):
            if length >= len(answer):
                break
            kept.append(row)
            token = str(row.get("token", ""))
            length += len(token) if token in answer else 0
        tokens = kept
    return round(sum(row["logprob"] for row in tokens) / len(tokens), 6) if tokens else None
