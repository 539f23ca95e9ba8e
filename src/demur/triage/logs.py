"""Logs of one's own traffic: JSONL or CSV rows in the shapes that are common, as prompts and answers.

A row is `{"prompt", "response"}` under any of the usual names; a chat (`messages` with a last assistant turn, or with
`choices` as the OpenAI API gives them, also inside `request` and `response`); a reply with `content` and `stop_reason`;
or whatever a column map says, with dotted paths (`prompt=input.0.text`). A row that fits none is skipped with its
reason: it is data, not an error.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from demur.errors import ConfigError, DataError
from demur.files import TABLES
from demur.finishes import finish_of
from demur.reasoning import split
from demur.types import Finish, Item, Prompt, Response, Turns

COLUMNS = ("prompt", "response", "system", "language", "finish")
"""What a column map may name."""

PROMPTS = ("prompt", "question", "instruction", "input", "query", "request", "user", "text")
RESPONSES = ("response", "answer", "completion", "output", "reply", "assistant", "generation")


class Skipped(NamedTuple):
    """A row that is no prompt with an answer."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """What was read."""

    rows: tuple[Item, ...]
    """Prompts that expect nothing (`expected=None`), with the answers that were given; ids are `file:line`."""
    skipped: tuple[Skipped, ...]


class _Answer(NamedTuple):
    text: str
    finish: Finish = "stop"


class _NoRowError(Exception):
    """Why a row cannot be read."""


def read_logs(paths: Sequence[Path], columns: Mapping[str, str] | None = None) -> Logs:
    """Read log files.

    Args:
        paths: JSONL, CSV or TSV files, known by their endings.
        columns: which column or dotted path holds what; keys as in `COLUMNS`. Without, the shape is recognised.

    Raises:
        ConfigError: for a missing file, an unknown ending or an unknown key.
        DataError: where no row can be read; the message lists the columns that were seen.
    """
    columns = columns or {}
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"column map: no key {unknown[0]!r}; allowed: {', '.join(COLUMNS)}, as in prompt=input.text")
    if "prompt" in columns and "response" not in columns:
        raise ConfigError("column map: prompt without response; name both, as in prompt=input,response=output")
    rows: list[Item] = []
    skipped: list[Skipped] = []
    seen: dict[str, None] = {}
    stems = [path.stem for path in paths]
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else str(path)
        for line, raw in _lines(path):
            try:
                if isinstance(raw, Mapping):
                    seen |= dict.fromkeys(map(str, raw))
                rows.append(_item(raw, columns, f"{name}:{line}"))
            except _NoRowError as error:
                skipped.append(Skipped(f"{path}:{line}", str(error)))
    if not rows:
        why = f"; the first: {skipped[0].where}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"{', '.join(map(str, paths))}: none of {len(skipped)} rows holds a prompt and an answer{why}. Columns: "
            f"{', '.join(list(seen)[:20]) or 'none'}. Name them: --map prompt=COLUMN,response=COLUMN"
        )
    return Logs(rows=tuple(rows), skipped=tuple(skipped))


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value); what is no JSON comes as the error."""
    if not path.is_file():
        raise ConfigError(f"no log file {str(path)!r}; give JSONL, CSV or TSV files")
    kind = TABLES.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"log file {path.name!r} ends in none of {', '.join(TABLES)}; rename or convert it")
    with path.open(encoding="utf-8-sig", errors="replace", newline="" if kind != "jsonl" else None) as file:
        if kind != "jsonl":
            csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
            reader = csv.DictReader(file, delimiter="\t" if kind == "tsv" else ",")
            for row in reader:
                yield reader.line_num, row
            return
        for number, text in enumerate(file, start=1):
            if text.strip():
                try:
                    yield number, json.loads(text)
                except ValueError as error:
                    yield number, error


def _item(raw: Any, columns: Mapping[str, str], where: str) -> Item:
    if not isinstance(raw, Mapping):
        raise _NoRowError(f"not a JSON object: {raw}" if isinstance(raw, ValueError) else "not a JSON object")
    turns, answer = _mapped(raw, columns) if "prompt" in columns else _shaped(raw)
    system = (
        _text(_at(raw, columns["system"]))
        if "system" in columns
        else "\n\n".join(text for role, text in turns if role in ("system", "developer"))
    )
    spoken = tuple(turn for turn in turns if turn[0] not in ("system", "developer"))
    if not spoken or spoken[-1][0] != "user" or not spoken[-1][1].strip():
        raise _NoRowError("no prompt: the last turn before the answer is no text of a user")
    finish = answer.finish
    if "finish" in columns:
        finish = finish_of(_at(raw, columns["finish"]))
    language = str(_at(raw, columns["language"]) or "") if "language" in columns else ""
    prompt = Prompt(
        id=where,
        text=spoken[-1][1],
        expected=None,
        source="log",
        language=language or "en",
        system=system or None,
        history=spoken[:-1],
    )
    found = split(answer.text)
    if not found.finished and finish == "stop":
        finish = "length"
    error = "the log holds no answer" if finish == "error" else ""
    return Item(prompt, Response(prompt_id=where, text=found.answer, finish=finish, error=error))


def _mapped(raw: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Turns, _Answer]:
    """Read a row by the column map; a prompt that is a list is a chat."""
    prompt, answer = _at(raw, columns["prompt"]), _at(raw, columns["response"])
    if prompt is None:
        raise _NoRowError(f"no column {columns['prompt']!r}")
    turns = _turns(prompt) if isinstance(prompt, list) else (("user", _text(prompt)),)
    if answer is None and "finish" not in columns:
        raise _NoRowError(f"no column {columns['response']!r}")
    return turns, _reply(answer) or _Answer(_text(answer))


def _shaped(raw: Mapping[str, Any]) -> tuple[Turns, _Answer]:
    """Recognise the shape of a row."""
    asked = next((part for part in (raw, raw.get("request"), raw.get("body")) if _has(part, "messages")), None)
    if asked is not None:
        turns = _turns(asked["messages"])
        found = _reply(raw) or next((r for key in RESPONSES if (r := _reply(raw.get(key)))), None)
        if found is not None:
            return turns, found
        if turns and turns[-1][0] == "assistant":
            return turns[:-1], _Answer(turns[-1][1])
        return turns, _failed(raw)
    prompt = next((key for key in PROMPTS if isinstance(raw.get(key), str) and raw[key].strip()), None)
    if prompt is None:
        raise _NoRowError(f"no prompt under any of {', '.join(PROMPTS)}, and no messages")
    turns = (("user", raw[prompt]),)
    found = _reply(raw) or next((r for key in RESPONSES if key != prompt and (r := _reply(raw.get(key)))), None)
    return turns, found or _failed(raw)


def _failed(raw: Mapping[str, Any]) -> _Answer:
    if raw.get("error"):
        return _Answer("", "error")
    raise _NoRowError(f"no answer under any of {', '.join(RESPONSES)}, and no choices")


def _reply(value: Any) -> _Answer | None:
    """Read an answer: text, `choices`, `content` with `stop_reason`, or one of these inside `body`."""
    if isinstance(value, str):
        return _Answer(value)
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("body"), Mapping) and _has(value["body"], "choices"):
        return _reply(value["body"])
    if _has(value, "choices") and isinstance(value["choices"][0], Mapping):
        choice = value["choices"][0]
        inner = choice.get("message")
        message = inner if isinstance(inner, Mapping) else choice
        text, refusal = _text(message.get("content", message.get("text"))), _text(message.get("refusal"))
        finish = finish_of(choice.get("finish_reason"))
        return _Answer(refusal, "filtered") if refusal and not text else _Answer(text, finish)
    if "stop_reason" in value:
        return _Answer(_text(value.get("content")), finish_of(value["stop_reason"]))
    if value.get("role") == "assistant":
        return _Answer(_text(value.get("content")))
    return None


def _turns(messages: Any) -> Turns:
    if not isinstance(messages, list):
        return ()
    return tuple((str(m.get("role", "")), _text(m.get("content"))) for m in messages if isinstance(m, Mapping))


def _text(content: Any) -> str:
    """Return the text of a message's content: a string, or a list of parts of which the texts are joined."""
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, Mapping) else p for p in content]
        return "\n".join(p for p in parts if isinstance(p, str))
    return content if isinstance(content, str) else "" if content is None else str(content)


def _has(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get(key), list) and bool(value[key])


def _at(raw: Any, path: str) -> Any:
    """Return what stands at a column or a dotted path, None where nothing does."""
    if isinstance(raw, Mapping) and path in raw:
        return raw[path]
    for step in path.split("."):
        if isinstance(raw, Mapping):
            raw = raw.get(step)
        elif isinstance(raw, list) and step.isdigit() and int(step) < len(raw):
            raw = raw[int(step)]
        else:
            return None
    return raw
