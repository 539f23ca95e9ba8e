"""From a request to tokens: conversations through the chat template, texts as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from demur.chats import Chats, Encoded, Thinking
from demur.errors import ModelError
from demur.languages import identify
from demur.serving.faults import Fault
from demur.serving.limits import Limits
from demur.serving.wire import ChatRequest, CompletionRequest, Message
from demur.types import Prompt

if TYPE_CHECKING:
    from demur.plan import Plan

USUAL, SHORT = 512, 16
"""Tokens of an answer where a request does not say: of a chat, and of a plain completion as OpenAI has it."""


class Reader:
    """Makes tokens of requests. Used by one thread at a time, with a tokenizer of its own."""

    def __init__(self, tokenizer: Any, vocabulary: int, window: int, limits: Limits) -> None:
        """Take a tokenizer, the number of tokens that the model knows, and how many it can attend to."""
        self.tokenizer = tokenizer
        self.chats = Chats(tokenizer)
        self.vocabulary = vocabulary
        self.limits = limits
        self.context = min(window, limits.context)

    def chat(self, asked: ChatRequest, plan: Plan) -> list[dict[int, Encoded]]:
        """Return the tokens of a conversation, an assistant's last message left open, as each branch is told it.

        Args:
            asked: the request.
            plan: whose branches, system text and soft tokens are read with it; branch 0 is the base.

        Raises:
            Fault: 400 for an order of turns that cannot be read, or a conversation too long.
        """
        prompt, prefill = conversation(asked.messages)
        options = asked.chat_template_kwargs
        thinks = options.enable_thinking if options else None
        thinking: Thinking = "auto" if thinks is None else "on" if thinks else "off"
        given = tuple(asked.answer_token_ids or ())
        self._check(given, "answer_token_ids")
        try:
            (told,) = self.chats.tell([prompt], plan, prefill=prefill, thinking=thinking)
        except ModelError as error:
            raise Fault(400, str(error).replace("prompt request", "the conversation"), None, "messages") from None
        return [{branch: replace(one, ids=(*one.ids, *given)) for branch, one in told.items()}]

    def texts(self, asked: CompletionRequest) -> list[dict[int, Encoded]]:
        """Return the tokens of every prompt.

        Raises:
            Fault: 400 for an empty prompt, an unknown token, or a prompt too long.
        """
        made = []
        for given in asked.prompts:
            ids = list(self.tokenizer(given)["input_ids"]) if isinstance(given, str) else given
            if not ids:
                raise Fault(400, "a prompt is empty; a model cannot read nothing", None, "prompt")
            self._check(ids, "prompt")
            made.append({0: Encoded(tuple(ids), len(ids), len(ids))})
        return made

    def _check(self, ids: Sequence[int], field: str) -> None:
        if max(ids, default=0) >= self.vocabulary:
            raise Fault(400, f"there is no token {max(ids)}; there are {self.vocabulary}", None, field)

    def language(self, asked: ChatRequest | CompletionRequest) -> str:
        """Return the language of what is asked, "" where it cannot be told."""
        if isinstance(asked, ChatRequest):
            return identify(conversation(asked.messages)[0].text)
        return identify(asked.prompt) if isinstance(asked.prompt, str) else ""

    def length(self, rows: Sequence[Mapping[int, Encoded]], most: int | None, usual: int) -> int:
        """Return how many tokens each answer may have: as asked, but no more than there is room for.

        An answer that the room ends says so (`finish_reason` "length"), as one does that the decode loop ends.

        Raises:
            Fault: 400 where the prompt leaves no room.
        """
        longest = max(len(told.ids) for row in rows for told in row.values())
        room = min(self.context - longest, self.limits.answer)
        if room < 1:
            raise Fault(
                400,
                f"{longest} tokens of prompt: prompt and answer may have {self.context} together",
                "context_length_exceeded",
                "messages" if usual == USUAL else "prompt",
            )
        return min(room, usual if most is None else most)


def conversation(messages: Sequence[Message]) -> tuple[Prompt, str]:
    """Return a conversation as a prompt, and the beginning of the answer that its last message gives.

    System and developer messages at the start are one system text.

    Raises:
        Fault: 400 where no user message ends it, but for an assistant's that is to be continued.
    """
    turns = [(_ROLES.get(m.role, m.role), m.text) for m in messages]
    first = next((i for i, (role, _) in enumerate(turns) if role != "system"), len(turns))
    system = "\n\n".join(text for _, text in turns[:first]) if first else None
    rest = turns[first:]
    prefill = rest.pop()[1] if rest and rest[-1][0] == "assistant" else ""
    if not rest or rest[-1][0] != "user":
        raise Fault(400, "the last message, or the one before an assistant's, must be a user's", None, "messages")
    *history, (_, text) = rest
    prompt = Prompt(id="request", text=text, expected=None, source="serve", system=system, history=tuple(history))
    return prompt, prefill


_ROLES = {"developer": "system"}
