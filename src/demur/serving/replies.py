"""What is sent back: whole replies and the events of a stream, in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demur.serving.spelling import Spelling
from demur.serving.writing import Drawn, Finish, Piece

DONE = "data: [DONE]\n\n"


@dataclass(eq=False, kw_only=True)
class Choice:
    """One answer, gathered from its pieces."""

    text: str = ""
    tokens: list[Drawn] = field(default_factory=list)
    finish: Finish = ""
    place: Mapping[str, Any] | None = None
    end: Drawn | None = None
    pieces: int = 0

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish or self.finish
        self.place = piece.place or self.place
        self.end = piece.end or self.end
        self.pieces += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What all parts of one reply share."""

    id: str
    created: int
    model: str
    fingerprint: str
    chat: bool
    logprobs: bool
    token_ids: bool
    spelling: Spelling
    demur: Mapping[str, Any]
    """demur's own field: intervention, strength, floor."""

    def whole(self, choices: Sequence[Choice], usage: Mapping[str, int], prompt_ids: Sequence[int]) -> dict[str, Any]:
        """Return the reply to a request that does not stream."""
        kind = "chat.completion" if self.chat else "text_completion"
        made = self._head(kind)
        made["choices"] = [self._choice(index, choice) for index, choice in enumerate(choices)]
        made["usage"] = dict(usage)
        made["demur"] = self._demur(choices[0].place)
        if self.token_ids:
            made["prompt_token_ids"] = list(prompt_ids)
        return made

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _demur(self, place: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**self.demur, **({"boundary": dict(place)} if place is not None else {})}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        said: dict[str, Any]
        if self.chat:
            said = {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
        else:
            said = {"text": choice.text}
        made = {"index": index, **said, "logprobs": self._logprobs(choice, 0), "finish_reason": choice.finish}
        if self.token_ids:
            made["token_ids"] = [drawn.token for drawn in choice.tokens]
        return made

    def _logprobs(self, what: Choice | Piece, offset: int) -> dict[str, Any] | None:
        """Return the log-probabilities; the token that ended a chat's answer is shown with the others' numbers."""
        if not self.logprobs:
            return None
        tokens = what.tokens
        if self.chat:
            rows = []
            for drawn in (*tokens, *([what.end] if self.token_ids and what.end else ())):
                top = [self._token(token, logprob) for token, logprob in drawn.top]
                rows.append({**self._token(drawn.token, drawn.logprob), "top_logprobs": top})
            return {"content": rows, "refusal": None}
        texts = [self.spelling.of(drawn.token)[0] for drawn in tokens]
        offsets = [offset + sum(map(len, texts[:i])) for i in range(len(texts))]
        tops = [{self.spelling.of(t)[0]: value for t, value in drawn.top} for drawn in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [drawn.logprob for drawn in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self.spelling.of(token)
        number = {"token_id": token} if self.token_ids else {}
        return {"token": text, "logprob": logprob, "bytes": raw, **number}

    # streams

    def opening(self, index: int, prompt_ids: Sequence[int]) -> str:
        """Return the event that a choice begins with, "" where there is none."""
        if not self.chat:
            return ""
        chunk = self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None, None)
        if self.token_ids:
            chunk["prompt_token_ids"] = list(prompt_ids)
        return event(chunk)

    def part(self, index: int, piece: Piece, before: Choice) -> str:
        """Return the event of one piece; `before` is what the choice held so far."""
        said: dict[str, Any] = {"delta": {"content": piece.text}} if self.chat else {"text": piece.text}
        if self.chat and not piece.text and not piece.tokens:
            said = {"delta": {}}
        counted = self.logprobs and not self.chat
        offset = sum(len(self.spelling.of(drawn.token)[0]) for drawn in before.tokens) if counted else 0
        rows = self._logprobs(piece, offset) if piece.tokens or (piece.end and self.token_ids) else None
        chunk = self._chunk(index, said, rows, piece.finish or None)
        if self.token_ids:
            chunk["choices"][0]["token_ids"] = [drawn.token for drawn in piece.tokens]
        if piece.place is not None or not before.pieces:
            chunk["demur"] = self._demur(piece.place)
        return event(chunk)

    def usage(self, usage: Mapping[str, int]) -> str:
        """Return the last event, with what was read and written."""
        return event({**self._head(self._kind), "choices": [], "usage": dict(usage)})

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, index: int, said: dict[str, Any], rows: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, **said, "logprobs": rows, "finish_reason": finish}
        return {**self._head(self._kind), "choices": [choice]}


def event(value: Mapping[str, Any]) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def usage_of(read: int, written: int) -> dict[str, int]:
    """Return token counts in OpenAI's form."""
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
