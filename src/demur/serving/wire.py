"""What a request may hold: OpenAI's fields that demur's loop can honour, and a few of its own.

A field that would change the answer and that cannot be honoured is refused, never passed over.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from demur.errors import nearest

Text = Annotated[str, Field(max_length=2_000_000)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
NAMED, ALL_NAMED = 20, 4096
"""Likeliest tokens that a reply names at most: of every token, and where one token is asked for."""
Penalty = Annotated[float, Field(ge=0, le=0, allow_inf_nan=False)]


class Lenient(BaseModel):
    """Fields that are not known are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)


class TextPart(Lenient):
    """A part of a message's content; text alone is understood."""

    type: Literal["text"]
    text: Text


class Message(Lenient):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=1000)]

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Lenient):
    """How a stream ends."""

    include_usage: bool | None = None
    """Whether a last event tells how many tokens were read and written."""


class TemplateOptions(BaseModel):
    """Options of the chat template."""

    model_config = ConfigDict(extra="forbid", strict=True)

    enable_thinking: bool | None = None


class Asked(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(max_length=1000)]
    """`MODEL`, or `MODEL+INTERVENTION`."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """1 by default, as OpenAI has it; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed gives the same answer, whatever else is asked at the time; none: a fresh one."""
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    intervention: Annotated[str, Field(max_length=200)] | None = None
    """The name of an intervention, "" for none."""
    strength: Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)] = 1.0
    """A factor on the intervention's own strength."""
    boundary: bool = False
    """Whether to say where the prompt stands along the refusal boundary."""
    return_token_ids: bool = False

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name not in cls.model_fields:
                near = nearest(str(name), cls.model_fields)
                hint = f"; did you mean {near!r}?" if near else ""
                raise ValueError(f"{str(name)[:100]!r} is not supported here{hint}")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Asked):
    """The body of /v1/chat/completions. A last message by the assistant is continued."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=ALL_NAMED)] | None = None
    """Up to 20, or any number where max_tokens is 1."""
    answer_token_ids: Annotated[list[TokenId], Field(max_length=100_000)] | None = None
    """Tokens that the answer begins with, after what a last message by the assistant says; the reply's text holds
    them too."""
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None

    @model_validator(mode="after")
    def _agree(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        if self.top > NAMED and self.most != 1:
            raise ValueError(f"top_logprobs above {NAMED} goes with max_tokens=1")
        ends_open = self.messages[-1].role == "assistant"
        if self.continue_final_message and not ends_open:
            raise ValueError("continue_final_message needs a last message by the assistant")
        if self.add_generation_prompt is not None and self.add_generation_prompt == ends_open:
            raise ValueError("add_generation_prompt goes with a last message by the user, and with no other")
        return self

    @property
    def most(self) -> int | None:
        """Tokens of an answer at most, where the request says so."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def top(self) -> int:
        """How many of the likeliest tokens to name."""
        return self.top_logprobs or 0


class CompletionRequest(Asked):
    """The body of /v1/completions: texts, or tokens, that are continued."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=128)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=128)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    echo: Literal[False] | None = None
    suffix: None = None

    @model_validator(mode="after")
    def _agree(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is not supported; it must equal n")
        return self

    @property
    def most(self) -> int | None:
        """Tokens of an answer at most, where the request says so."""
        return self.max_tokens

    @property
    def top(self) -> int:
        """How many of the likeliest tokens to name."""
        return self.logprobs or 0

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one or several, as texts or as tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


def explain(errors: list[Any]) -> tuple[str, str | None]:
    """Return what is wrong with a request in one line, and the first field concerned."""
    told: list[str] = []
    first: str | None = None
    for error in errors[:5]:
        where = ".".join(str(part) for part in error["loc"] if part != "body" and not _is_type(part))
        text = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "json_invalid":
            where, text = "", f"the body is no JSON: {error.get('ctx', {}).get('error', text)}"
        first = first or where or None
        line = f"{where}: {text}" if where else text
        if line not in told:
            told.append(line)
    return "; ".join(told) or "the request is not valid", first


def _is_type(part: Any) -> bool:
    """Say whether a part of a location is the name of a type, as unions put it there."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "constrained-str", "TextPart"))
