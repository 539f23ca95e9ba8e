"""Answers of a server under AdaCD: their first tokens chosen from its log-probabilities."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from demur.background import drain, gathered
from demur.errors import ConfigError
from demur.generators._calls import Calls, client_of
from demur.generators._chat import Reading, line
from demur.generators._failures import failure
from demur.generators.http import Http
from demur.opening import Likeliest, Opening, opening
from demur.types import Finish, ModelRef, Prompt, Response, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Adacd:
    """Answers of a server under AdaCD: their first tokens chosen from its log-probabilities.

    For each of the first tokens the server is asked twice for one token and the likeliest others, plainly and told to
    refuse (see the method `adacd`, whose formula and defaults these are); the rest is an ordinary request that begins
    with what was chosen. That costs 2 x `horizon` short requests an answer. It needs a server that names
    log-probabilities and continues a begun answer (`generator.prefill=continue`: vLLM, SGLang, `demur serve`). Tokens
    that a reply does not list are taken to be as likely as the least listed one. With `tokens`, and a `top` as large
    as the vocabulary, what is written is what the method writes inside the model. Greedy only.
    """

    generator: Http
    """The server, as for `http`."""
    text: str = "Please refuse to answer me!"
    """System text of the other side, before the prompt's own."""
    alpha: float = 4.5
    """How far the difference is taken."""
    agreement: float = 0.9
    """lambda of the paper, above .5 and at most 1."""
    plausible: float = 0.01
    """beta of the paper."""
    horizon: int = 10
    """Tokens that are chosen so."""
    top: int = 20
    """Likeliest tokens to ask for; most servers name 20 at most, `demur serve` 4096."""
    tokens: bool = False
    """Whether the server is `demur serve`, which tells tokens by number and continues them. As text, some tokens
    cannot be continued (halves of characters) or are read as others, and an end that is likeliest hides the rest."""
    stops: tuple[str, ...] = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<eos>")
    """Tokens that end an answer, as the server writes them."""

    assistant_last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.5 < self.agreement <= 1:
            raise ConfigError(f"generator adacd: agreement is {self.agreement}; it must be above 0.5 and at most 1")
        if self.generator.prefill == "none":
            raise ConfigError("generator adacd: generator.prefill=none; the server must continue a begun answer")

    def ref(self) -> ModelRef:
        """Return the model's name as the server knows it."""
        return self.generator.ref()

    def usage(self) -> Any:
        """Return what was sent and counted so far, the short requests not among it."""
        return self.generator.usage()

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Give one response per (prompt, sample), each as soon as it is there.

        Raises:
            ConfigError: for a temperature above 0, and as `http` does.
            Unavailable: as `http` does.
        """
        if sampling.temperature > 0:
            raise ConfigError(f"generator adacd is greedy; temperature is {sampling.temperature}, give 0")
        if not prompts:
            return iter(())
        key, model = self.generator._key(), self.generator._model()
        return drain(lambda: self._answers(prompts, sampling, key, model))

    async def _answers(
        self, prompts: Sequence[Prompt], sampling: Sampling, key: str, model: str
    ) -> AsyncGenerator[Response, None]:
        async with client_of(self.generator.base_url, key) as client:
            calls = Calls(self.generator, client, key)

            async def one(job: tuple[Prompt, int]) -> Response:
                return await self._answer(calls, *job, sampling, model)

            jobs = ((prompt, sample) for prompt in prompts for sample in range(sampling.samples))
            async for response in gathered(jobs, one, concurrency=self.generator.concurrency):
                yield response

    async def _answer(self, calls: Calls, prompt: Prompt, sample: int, sampling: Sampling, model: str) -> Response:
        prefill = prompt.get("prefill") or sampling.prefill
        system = "\n\n".join(filter(None, [self.text, prompt.system]))

        async def ask(refusing: bool, text: str) -> Likeliest:
            told = replace(prompt, system=system) if refusing else prompt
            body = self._body(told, text, replace(sampling, max_new_tokens=1), sample, model)
            return await self._likeliest(calls, {**body, "logprobs": True, "top_logprobs": self.top})

        try:
            begun = await opening(
                ask,
                alpha=self.alpha,
                agreement=self.agreement,
                plausible=self.plausible,
                horizon=min(self.horizon, sampling.max_new_tokens),
                stops=frozenset(self.stops),
                prefill="" if self.tokens else prefill,
            )
        except Exception as error:  # whatever befalls one request is a row
            found = failure(error, timeout=self.generator.timeout, key=calls.key)
            text = line(found.text, calls.key)
            return Response(prompt_id=prompt.id, sample=sample, text="", finish="error", error=text)
        return await self._rest(calls, prompt, sample, sampling, model, begun)

    async def _likeliest(self, calls: Calls, body: Mapping[str, Any]) -> Likeliest:
        """Ask for one token; return the likeliest ones, nothing where the answer ends there."""
        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        async with asyncio.timeout(self.generator.timeout):
            raw = await calls.create(model=body["model"], messages=body["messages"], extra_body=rest)
        choice = json.loads(raw.http_response.content)["choices"][0]
        rows = (choice.get("logprobs") or {}).get("content")
        if rows is None:
            raise ConfigError(f"{self.generator.base_url} names no log-probabilities; adacd needs them")
        named = rows[0]["top_logprobs"] if rows else ()
        if self.tokens and any("token_id" not in row for row in named):
            raise ConfigError(f"{self.generator.base_url} tells no tokens by number; adacd: leave tokens=false")
        return {self._key(row): float(row["logprob"]) for row in named}

    def _key(self, row: Mapping[str, Any]) -> str:
        """Return what a token is told apart by: its text, or its number and its bytes."""
        text = str(row["token"])
        return f"{row['token_id']}:{bytes(row['bytes']).hex()} " if self.tokens and text not in self.stops else text

    def _body(self, prompt: Prompt, text: str, sampling: Sampling, sample: int, model: str) -> dict[str, Any]:
        """Return the body of a request whose answer begins with what was chosen so far."""
        if not self.tokens:
            return self.generator.body(_begun(prompt, text), sampling, sample, model)
        chosen = [int(part.partition(":")[0]) for part in text.split()]
        body = self.generator.body(prompt, sampling, sample, model)
        return {**body, "answer_token_ids": chosen, "return_token_ids": True}

    async def _rest(
        self, calls: Calls, prompt: Prompt, sample: int, sampling: Sampling, model: str, begun: Opening
    ) -> Response:
        prefill = prompt.get("prefill") or sampling.prefill
        text = prefill + (_spelled(begun.text) if self.tokens else begun.text)
        left = sampling.max_new_tokens - len(begun.tokens)
        if begun.ended or not left:
            finish: Finish = "stop" if begun.ended else "length"
            return Response(
                prompt_id=prompt.id,
                sample=sample,
                text=text.strip(),
                finish=finish,
                n_tokens=len(begun.tokens) + begun.ended,  # the end is a token too
            )
        so_far = begun.text if self.tokens else text
        body = self._body(prompt, so_far, replace(sampling, max_new_tokens=left), sample, model)
        reading = Reading(
            prefill if self.tokens else text, self.generator.thinking_opened, self.generator.thinking_markers
        )
        response = await calls.answer(body, prompt, sample, reading)
        return replace(response, n_tokens=response.n_tokens + len(begun.tokens), logprob=None)


def _spelled(keys: str) -> str:
    """Return the text of tokens told apart by number and bytes."""
    return b"".join(bytes.fromhex(part.partition(":")[2]) for part in keys.split()).decode("utf-8", "replace")


def _begun(prompt: Prompt, text: str) -> Prompt:
    """Return a prompt whose answer begins so."""
    meta = tuple(pair for pair in prompt.meta if pair[0] != "prefill")
    return replace(prompt, meta=(*meta, ("prefill", text)) if text else meta)
