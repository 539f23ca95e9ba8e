"""demur's models for Inspect: any generator, interventions and guards around it, behind a model provider."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from demur.assemble import answering
from demur.ecosystem.gathering import Gathered
from demur.errors import ConfigError
from demur.files import fingerprint
from demur.settings import PartSpec, parse_part
from demur.types import Finish, Generator, Prompt, Response, Sampling, from_json

EXTRA = "eval"
KEY = "demur"
"""Under which a message's metadata hold its prompt, and an output's what is known of the answer."""
UNSUPPORTED = (
    "top_k", "best_of", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs",
    "prompt_logprobs", "response_schema",
)  # fmt: skip
STOPS: dict[Finish, Literal["stop", "max_tokens", "content_filter", "unknown"]] = {
    "stop": "stop",
    "length": "max_tokens",
    "filtered": "content_filter",
    "error": "unknown",
}


class Asked(NamedTuple):
    """One request."""

    prompt: Prompt
    sampling: Sampling


class DemurAPI(ModelAPI):
    """A model that demur runs: `demur/organism`, `demur/FOLDER`, `demur/HUB_ID`.

    Greedy with 512 tokens where the configuration says nothing, as `demur measure`. Model arguments (`-M`):
    `intervention` (a folder), `guard` (a judge), `generator` (a part, `local` by default), `thinking`, and every
    setting of the generator.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # as the base class has it
        **model_args: Any,
    ) -> None:
        """Build the generator; weights are loaded here where they are not known yet."""
        super().__init__(model_name, base_url, api_key, [], config)
        self.thinking = str(model_args.pop("thinking", "auto"))
        self.generator = generator_of(model_name, model_args)
        self.ask: Gathered[Asked, list[Response]] = Gathered(lambda asked: answers(self.generator, asked))
        self.times: Counter[Asked] = Counter()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answer one conversation, together with those that are asked at the same time.

        Raises:
            ConfigError: for tools, or a setting that demur's decoding does not have.
        """
        asked = Asked(prompt_of(input), sampling_of(config, self.thinking, tools))
        if asked.sampling.temperature > 0:  # asked again, as in a second epoch, a prompt gets another draw
            self.times[asked] += 1
            if (number := self.times[asked]) > 1:
                asked = asked._replace(prompt=dataclasses.replace(asked.prompt, id=f"{asked.prompt.id}#{number}"))
        found = await self.ask(asked)
        return output_of(self.model_name, found, config.stop_seqs or ())

    def max_tokens(self) -> int:
        """Return the longest answer where nothing else is asked for."""
        return Sampling().max_new_tokens

    def max_connections(self) -> int:
        """Return how many requests may wait for the model at once."""
        return 256


def generator_of(model: str, settings: dict[str, Any]) -> Generator:
    """Build what answers from a model's name and the arguments beside it.

    Raises:
        NotFound, ConfigError: for arguments that the generator does not have; Unavailable: for a missing extra.
    """
    rest = dict(settings)
    folder, guard = rest.pop("intervention", None), str(rest.pop("guard", ""))
    part = parse_part(str(rest.pop("generator", "local")))
    wanted = PartSpec(part.name, {**part.settings, **rest})
    intervention = Path(str(folder)) if folder else None
    _, made, _ = answering(model=model, generator=wanted, intervention=intervention, guard=guard)
    ref = getattr(made, "ref", None)
    if ref is not None:
        ref()  # an unknown model is an error now, not in the first sample
    return made


def prompt_of(messages: Sequence[ChatMessage]) -> Prompt:
    """Return a conversation as a prompt.

    What a message's metadata tell of its prompt (id, language, kind, …) is kept; the words are the messages' own.

    Raises:
        ConfigError: for messages of tools, or a conversation without a user's message.
    """
    if wrong := [m.role for m in messages if m.role not in ("system", "user", "assistant")]:
        raise ConfigError(f"demur's models read messages of system, user and assistant, not of {wrong[0]}")
    turns = [(m.role, m.text) for m in messages if m.role != "system"]
    told = [m.text for m in messages if m.role == "system"]
    known = next((m.metadata[KEY] for m in reversed(messages) if m.metadata and KEY in m.metadata), None)
    given = from_json(Prompt, known, where="a message's metadata") if known else None
    as_guard = given is not None and given.role == "assistant"
    prefill = turns.pop()[1] if turns and turns[-1][0] == "assistant" and not as_guard else ""
    if not turns:
        raise ConfigError("the conversation holds no message of the user's to answer")
    meta = tuple(pair for pair in (given.meta if given else ()) if pair[0] != "prefill")
    if given is None:
        key = fingerprint([told, turns, prefill])
        given = Prompt(id=f"inspect/{key}", text="", expected=None, source="inspect")
    return dataclasses.replace(
        given,
        text=turns[-1][1],
        history=tuple(turns[:-1]),
        system="\n\n".join(told) if told else None,
        meta=(*meta, ("prefill", prefill)) if prefill else meta,
    )


def sampling_of(config: GenerateConfig, thinking: str, tools: Sequence[ToolInfo] = ()) -> Sampling:
    """Return a configuration as demur's sampling.

    Raises:
        ConfigError: for tools, or a setting that demur's decoding does not have.
    """
    if tools:
        raise ConfigError(f"demur's models call no tools ({tools[0].name})")
    if wrong := [name for name in UNSUPPORTED if getattr(config, name, None)]:
        raise ConfigError(f"demur's models do not take {wrong[0]}; they take temperature, top_p, max_tokens, seed")
    if thinking not in ("auto", "on", "off"):
        raise ConfigError(f"thinking is {thinking!r}; it must be auto, on or off")
    usual = Sampling()
    return Sampling(
        max_new_tokens=config.max_tokens or usual.max_new_tokens,
        temperature=config.temperature or 0.0,
        top_p=1.0 if config.top_p is None else config.top_p,
        samples=config.num_choices or 1,
        seed=config.seed or 0,
        thinking=thinking,  # type: ignore[arg-type]  # checked above
    )


def answers(generator: Generator, asked: Sequence[Asked]) -> list[list[Response]]:
    """Answer requests: those of one sampling together, equal ones once; the samples of each in order."""
    made: dict[Asked, list[Response]] = {}
    waiting = list(dict.fromkeys(asked))
    while waiting:
        how = waiting[0].sampling
        batch = {one.prompt.id: one for one in waiting if one.sampling == how}
        found: dict[str, list[Response]] = {key: [] for key in batch}
        for response in generator([one.prompt for one in batch.values()], how):
            found[response.prompt_id].append(response)
        made |= {batch[key]: sorted(rows, key=lambda r: r.sample) or [_missing(key)] for key, rows in found.items()}
        waiting = [one for one in waiting if one not in made]
    return [made[one] for one in asked]


def _missing(prompt_id: str) -> Response:
    return Response(prompt_id=prompt_id, text="", finish="error", error="the generator gave no row")


def output_of(model: str, responses: Sequence[Response], stops: Sequence[str] = ()) -> ModelOutput:
    """Return answers as Inspect's output; an error is an output that says so, not an exception."""
    choices = [
        ChatCompletionChoice(
            message=ChatMessageAssistant(content=_content(r, stops), model=model, source="generate"),
            stop_reason=STOPS[r.finish],
        )
        for r in responses
    ]
    first, tokens = responses[0], sum(r.n_tokens for r in responses)
    told = {"finish": first.finish, "error": first.error, "n_tokens": first.n_tokens, "logprob": first.logprob}
    return ModelOutput(
        model=model,
        choices=choices,
        usage=ModelUsage(output_tokens=tokens, total_tokens=tokens),
        error=first.error or None,
        metadata={KEY: told},
    )


def _content(response: Response, stops: Sequence[str]) -> str | list[Content]:
    text = response.text
    for stop in stops:
        text = text.partition(stop)[0]
    if not response.reasoning:
        return text
    return [ContentReasoning(reasoning=response.reasoning), ContentText(text=text)]
