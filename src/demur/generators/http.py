"""Answers of a server that speaks the OpenAI protocol: vLLM, SGLang, llama.cpp, or a hosted model."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from demur.background import drain, gathered
from demur.errors import ConfigError
from demur.generators._calls import Calls, Counted, client_of, served_models
from demur.generators._chat import Reading, merged, messages, nested, seed_of
from demur.types import ModelRef, Prompt, Response, Sampling

_CONTINUE: Mapping[str, dict[str, Any]] = {
    "continue": {"continue_final_message": True, "add_generation_prompt": False},
    "message": {},
    "prefix": {},
}
"""What each way of prefilling adds to the body of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Http(Counted):
    """Answers of a server that speaks the OpenAI protocol: vLLM, SGLang, llama.cpp, or a hosted model.

    Every (prompt, sample) is a request of its own and ends as one row, in the order in which they finish. Requests that
    meet 429, 408, 409, 425, a status from 500, a timeout, a cut connection or a malformed reply are sent again after a
    pause (full jitter under an exponential ceiling, on top of what `Retry-After` asks for), which keeps the row's place
    among those in flight; after `attempts` of them the row is an error. A refusal by the system around the model is
    `filtered` and never asked for again: HTTP 400 with a content filter's code, `finish_reason: content_filter`,
    `message.refusal` without content, stop reason `refusal`. A server that cannot be reached or stops answering, a
    refused key and an unknown model end the run with one line.

    Thinking text in `reasoning_content`, `reasoning`, parts of type `thinking`, or between marks in the content is
    split off. `sampling.thinking` on or off is sent as `chat_template_kwargs.enable_thinking`; a hosted model has
    fields of its own, which go into `extra_body`. Samples differ by their seed, which depends on the sampling's seed,
    the prompt and the sample alone; whether equal seeds give equal answers is up to the server.
    """

    base_url: str = "http://127.0.0.1:8000/v1"
    """Address of the API; it usually ends in /v1."""
    model: str = ""
    """Name of the model as the server knows it; empty: the only one that it serves."""
    revision: str = ""
    """Which weights are served, in your own words (a commit, a date): change it when they change. Answers are kept in
    the cache only where it is given."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key; empty: no key is sent."""
    concurrency: int = 32
    """Requests in flight at once."""
    attempts: int = 6
    """How often a request is sent at most."""
    timeout: float = 120.0
    """Seconds that one attempt may take."""
    backoff: float = 1.0
    """Ceiling of the first pause, in seconds; it doubles with each attempt."""
    longest_wait: float = 60.0
    """Highest ceiling of a pause in seconds; a server that asks for more makes the row an error."""
    logprobs: bool = False
    """Ask for the log-probabilities of the answer's tokens; the row keeps their mean."""
    prefill: Literal["continue", "message", "prefix", "none"] = "continue"
    """How a prefilled answer is continued: by `continue_final_message` (vLLM, SGLang), by a last assistant message
    alone (llama.cpp, Ollama), by one with `prefix: true` (DeepSeek, Mistral); `none`: such rows are errors."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Field for the longest answer; OpenAI's newer models want the second."""
    omit: tuple[str, ...] = ()
    """Fields of a request that the server rejects and that are left out, as in `[seed,temperature]`."""
    thinking_budget: int = 0
    """Tokens of thinking at most, where the server can enforce that; 0: no limit."""
    budget_field: str = "thinking_token_budget"
    """Field for the budget, dots for nesting: vLLM's; `thinking_budget_tokens` (llama.cpp),
    `chat_template_kwargs.thinking_budget` (SGLang), `reasoning.max_tokens` (OpenRouter)."""
    thinking_opened: bool = False
    """Whether the server's template opens the thinking block, and the server leaves the splitting to its users."""
    thinking_markers: tuple[str, ...] = ()
    """Opening and closing mark of the thinking text; empty: the usual ones are recognised."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More fields of every request, as in `extra_body.top_k=20`; they win over demur's own."""

    assistant_last: ClassVar[bool] = True
    neutral: ClassVar[tuple[str, ...]] = (
        "api_key_env", "concurrency", "attempts", "timeout", "backoff", "longest_wait",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("attempts", 1), ("timeout", 0.001), ("backoff", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"generator http: {name} is {getattr(self, name)}; it must be at least {least}")
        if len(self.thinking_markers) not in (0, 2):
            raise ConfigError(
                f"generator http: thinking_markers holds {len(self.thinking_markers)} marks; give the opening and the "
                "closing one"
            )
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"generator http: base_url is {self.base_url!r}; it must begin with http:// or https://")
        self.start_count()

    def ref(self) -> ModelRef:
        """Return the model's name as the server knows it; where none is set, the server is asked.

        Raises:
            ConfigError: where the server serves several models.
            Unavailable: where it cannot be reached.
        """
        return ModelRef(id=self._model(), revision=self.revision)

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        """Give one response per (prompt, sample), each as soon as it is there.

        Raises:
            ConfigError: for an unset key variable, a refused key, or an unknown model.
            Unavailable: where the server cannot be reached, or stopped answering.
        """
        if not prompts:
            return iter(())
        key, model = self._key(), self._model()
        return drain(lambda: self._answers(prompts, sampling, key, model))

    async def _answers(
        self, prompts: Sequence[Prompt], sampling: Sampling, key: str, model: str
    ) -> AsyncGenerator[Response, None]:
        async with client_of(self.base_url, key) as client:
            calls = Calls(self, client, key)

            async def one(job: tuple[Prompt, int]) -> Response:
                prompt, sample = job
                prefill = prompt.get("prefill") or sampling.prefill
                if prefill and self.prefill == "none":
                    text = "the answer should begin with a prefill, and generator http has prefill=none"
                    return Response(prompt_id=prompt.id, sample=sample, text="", finish="error", error=text)
                if prompt.get("chat"):
                    text = "the chat template is to be swapped, and a server applies its own; ask a local model"
                    return Response(prompt_id=prompt.id, sample=sample, text="", finish="error", error=text)
                reading = Reading(prefill, self.thinking_opened, self.thinking_markers)
                return await calls.answer(self.body(prompt, sampling, sample, model), prompt, sample, reading)

            jobs = ((prompt, sample) for prompt in prompts for sample in range(sampling.samples))
            async for response in gathered(jobs, one, concurrency=self.concurrency):
                yield response

    def body(self, prompt: Prompt, sampling: Sampling, sample: int, model: str) -> dict[str, Any]:
        """Return the body of the request for one answer."""
        prefill = prompt.get("prefill") or sampling.prefill
        asked = messages(prompt, prefill)
        made: dict[str, Any] = {
            "model": model,
            "messages": asked,
            self.limit_field: sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.top_p < 1:
            made["top_p"] = sampling.top_p
        if sampling.temperature > 0 or sampling.samples > 1:
            made["seed"] = seed_of(sampling, prompt, sample)
        if self.logprobs:
            made["logprobs"] = True
        if prefill:
            made |= _CONTINUE.get(self.prefill, {})
            if self.prefill == "prefix":
                asked[-1]["prefix"] = True
        if sampling.thinking != "auto":
            made["chat_template_kwargs"] = {"enable_thinking": sampling.thinking == "on"}
        if self.thinking_budget:
            made = merged(made, nested(self.budget_field, self.thinking_budget))
        made = merged(made, self.extra_body)
        return {name: value for name, value in made.items() if name not in self.omit}

    def _key(self) -> str:
        if not self.api_key_env:
            return ""
        if not (key := os.environ.get(self.api_key_env)):
            raise ConfigError(
                f"generator http: the environment variable {self.api_key_env} (api_key_env) is not set; "
                "export it, or leave api_key_env empty for a server that needs no key"
            )
        return key

    def _model(self) -> str:
        return self.model or only(served_models(self.base_url, self._key(), self.timeout), self.base_url)


def only(models: Sequence[str], base_url: str) -> str:
    """Return the one model that a server serves.

    Raises:
        ConfigError: where there is another number of them.
    """
    if len(models) == 1:
        return models[0]
    served = f"serves {', '.join(models[:10])}" if models else "names no model"
    raise ConfigError(f"generator http: {base_url} {served}; set model=…")
