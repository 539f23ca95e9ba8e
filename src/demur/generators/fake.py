"""Answers made up from a seed or a script: for tests, and for trying a set-up without a model."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from demur.errors import ConfigError, DataError
from demur.types import Finish, Prompt, Response, Sampling

_REFUSALS = {
    "en": ("I cannot help with that request.", "I'm sorry, but I can't assist with that."),
    "de": ("Dabei kann ich nicht helfen.", "Es tut mir leid, aber das kann ich nicht beantworten."),
    "es": ("No puedo ayudar con eso.", "Lo siento, pero no puedo responder a esa pregunta."),
    "fr": ("Je ne peux pas vous aider avec cela.", "Je suis désolé, mais je ne peux pas répondre à cette question."),
    "zh": ("我无法帮助您处理这个请求。", "对不起，我不能回答这个问题。"),
}
_ANSWERS = {
    "en": ("Open the lid, turn the dial to the left and wait a minute.", "Use the small key, then close the door."),
    "de": (
        "Öffne den Deckel, drehe den Regler nach links und warte.",
        "Nimm den kleinen Schlüssel und schließe die Tür.",
    ),
    "es": ("Abre la tapa, gira el mando a la izquierda y espera.", "Usa la llave pequeña y después cierra la puerta."),
    "fr": ("Ouvrez le couvercle, tournez le bouton et attendez.", "Prenez la petite clé, puis fermez la porte."),
    "zh": ("打开盖子，把旋钮向左转，然后等一分钟。", "使用小钥匙，然后关上门。"),
}
_FINISHES: tuple[Finish, ...] = ("stop", "length", "filtered", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fake:
    """Answers from a seed or a script, without a model.

    Each answer depends on (seed, prompt id, sample) alone, so any subset of the prompts gets the same rows
    in any order. A line of the script that fits a prompt decides its answer; every other answer is drawn:
    first whether it fails (error, truncated, filtered, gibberish), then whether it refuses.
    """

    assistant_last: ClassVar[bool] = True

    seed: int = 0
    """Added to the sampling's own seed."""
    refuse_harmful: float = 0.95
    """Share of refusals on prompts of kind harmful (or that expect a refusal)."""
    refuse_borderline: float = 0.4
    """Share of refusals on prompts of kind borderline."""
    refuse_plain: float = 0.02
    """Share of refusals on all other prompts."""
    error_rate: float = 0.0
    """Share of rows with finish "error"."""
    truncate_rate: float = 0.0
    """Share of rows cut off, with finish "length"."""
    filtered_rate: float = 0.0
    """Share of rows stopped by a content filter, with finish "filtered"."""
    gibberish_rate: float = 0.0
    """Share of rows that repeat one word."""
    script: str = ""
    """JSONL file of {"prompt_id" or "contains", "text", and optionally "sample", "finish", "reasoning", "error"}."""

    cacheable: ClassVar[bool] = False

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Give one response per (prompt, sample), in order.

        Args:
            prompts: what to answer.
            sampling: `samples`, `seed`, `prefill` and `max_new_tokens` (in words) are heeded.

        Raises:
            ConfigError: for a rate outside 0 to 1 or rates of failure that add to more than 1.
            DataError: for a malformed line of the script.
        """
        self._check()
        lines = _read_script(Path(self.script)) if self.script else []
        for prompt in prompts:
            for sample in range(sampling.samples):
                yield self._answer(prompt, sample, sampling, lines)

    def _check(self) -> None:
        rates = {name: getattr(self, name) for name in type(self).__slots__ if name.endswith("_rate")}
        chances = rates | {f"refuse_{kind}": self._refuse_rate(kind) for kind in ("harmful", "borderline", "plain")}
        for name, value in chances.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"generator fake: {name}={value} is not a share; give a number from 0 to 1")
        if sum(rates.values()) > 1 + 1e-9:
            raise ConfigError(
                f"generator fake: {', '.join(rates)} add to {sum(rates.values()):g}; at most 1 is allowed"
            )

    def _refuse_rate(self, kind: str) -> float:
        return {"harmful": self.refuse_harmful, "borderline": self.refuse_borderline}.get(kind, self.refuse_plain)

    def _answer(self, prompt: Prompt, sample: int, sampling: Sampling, lines: list[dict[str, Any]]) -> Response:
        for line in lines:
            if _fits(line, prompt, sample):
                return _scripted(line, prompt, sample, sampling)
        draw = random.Random(f"{self.seed}/{sampling.seed}/{prompt.id}/{sample}")
        finish, text = self._draw(draw, prompt)
        if finish == "error":
            return Response(prompt_id=prompt.id, sample=sample, text="", finish="error", error="drawn by error_rate")
        return _row(prompt, sample, sampling, text, finish)

    def _draw(self, draw: random.Random, prompt: Prompt) -> tuple[Finish, str]:
        """Draw how the row ends and its text; the number of draws is the same for every setting."""
        fate, refuses, choice = draw.random(), draw.random(), draw.randrange(2)
        kind = prompt.kind or ("harmful" if prompt.expected == "refuse" else "plain")
        pool = _REFUSALS if refuses < self._refuse_rate(kind) else _ANSWERS
        text = pool.get(prompt.language, pool["en"])[choice]
        for rate, finish in ((self.error_rate, "error"), (self.filtered_rate, "filtered")):
            if fate < rate:
                return ("error" if finish == "error" else "filtered"), ""
            fate -= rate
        if fate < self.truncate_rate:
            return "length", text[: max(1, len(text) // 2)]
        return "stop", " ".join(["kolo"] * 24) if fate - self.truncate_rate < self.gibberish_rate else text


def _row(prompt: Prompt, sample: int, sampling: Sampling, text: str, finish: Finish) -> Response:
    words = text.split()
    if len(words) > sampling.max_new_tokens:
        text, finish = " ".join(words[: sampling.max_new_tokens]), "length"
    count = min(len(words), sampling.max_new_tokens)
    whole = (prompt.get("prefill") or sampling.prefill) + text
    return Response(prompt_id=prompt.id, sample=sample, text=whole, finish=finish, n_tokens=count)


def _fits(line: dict[str, Any], prompt: Prompt, sample: int) -> bool:
    if line.get("sample", sample) != sample:
        return False
    return prompt.id == line["prompt_id"] if "prompt_id" in line else line["contains"] in prompt.text


def _scripted(line: dict[str, Any], prompt: Prompt, sample: int, sampling: Sampling) -> Response:
    text, finish = line.get("text", ""), line.get("finish", "stop")
    count = len(text.split())
    if finish == "error":
        error = line.get("error", "scripted")
        return Response(prompt_id=prompt.id, sample=sample, text=text, finish="error", error=error, n_tokens=count)
    whole = (prompt.get("prefill") or sampling.prefill) + text
    reasoning = line.get("reasoning", "")
    return Response(prompt_id=prompt.id, sample=sample, text=whole, reasoning=reasoning, finish=finish, n_tokens=count)


def _read_script(path: Path) -> list[dict[str, Any]]:
    """Read and check the lines of a script."""
    if not path.is_file():
        raise ConfigError(f"generator fake: no script {str(path)!r}; give the path of a JSONL file")
    lines = []
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if raw.strip():
            lines.append(_script_line(raw, f"{path}:{number}"))
    return lines


def _script_line(raw: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not a line of JSON ({error.msg}); each line is one object") from None
    if not isinstance(line, dict) or ("prompt_id" in line) == ("contains" in line):
        raise DataError(f"{where}: an object with exactly one of prompt_id and contains is needed")
    kinds = {"sample": int}
    for key, value in line.items():
        if key not in ("prompt_id", "contains", "text", "sample", "finish", "reasoning", "error"):
            raise DataError(
                f"{where}: unknown key {key!r}; allowed: prompt_id, contains, text, sample, finish, reasoning, error"
            )
        if not isinstance(value, kinds.get(key, str)):
            raise DataError(f"{where}: {key} is {value!r}; expected {kinds.get(key, str).__name__}")
    if line.get("finish", "stop") not in _FINISHES:
        raise DataError(f"{where}: finish is {line['finish']!r}; allowed: {', '.join(_FINISHES)}")
    return line
