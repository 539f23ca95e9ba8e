"""Render prompts through a tokenizer's chat template, and find where prompt and instruction end."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from demur.errors import ModelError
from demur.reasoning import CLOSE, OPEN
from demur.reasoning import split_thinking as split_thinking
from demur.types import Prompt

if TYPE_CHECKING:
    from demur.plan import Plan

Thinking = Literal["auto", "on", "off"]
MARK = "\u2042mark\u2042"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as tokens; a prefilled answer stands after position `prompt`."""

    ids: tuple[int, ...]
    prompt: int
    """Length of the rendered prompt with its generation header."""
    instruction: int
    """Position after the last token of the user's last message."""
    thinking: bool = False
    """Whether the header leaves a thinking block open."""
    soft: int = -1
    """Where soft tokens stand; -1 for none."""


@dataclass(eq=False)
class Chats:
    """How one tokenizer's conversations are written."""

    tokenizer: Any
    has_template: bool = field(init=False)
    has_system: bool = field(init=False, default=False)
    """Whether the template shows a system message; where not, its text is put before the first user message."""
    default_system: bool = field(init=False, default=False)
    """Whether the template adds a system message of its own where none is given."""

    def __post_init__(self) -> None:
        self.has_template = bool(getattr(self.tokenizer, "chat_template", None))
        if not self.has_template:
            return
        user = {"role": "user", "content": "hello"}
        try:
            shown = self._apply([{"role": "system", "content": MARK}, user], "auto")
            self.has_system = MARK in shown
        except Exception:
            self.has_system = False
        bare = self._apply([user], "auto")
        if self.has_system:
            empty = self._apply([{"role": "system", "content": ""}, user], "auto")
            self.default_system = len(bare) > len(empty)

    @property
    def sha(self) -> str:
        """16 hex digits of the template, "" where there is none."""
        template = str(self.tokenizer.chat_template) if self.has_template else ""
        return hashlib.sha256(template.encode()).hexdigest()[:16] if template else ""

    def _apply(self, messages: Sequence[Mapping[str, str]], thinking: Thinking) -> str:
        extra = {} if thinking == "auto" else {"enable_thinking": thinking == "on"}
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **extra
            )
        except Exception as error:
            raise ModelError(f"the chat template cannot render {[m['role'] for m in messages]}: {error}") from None
        return str(text)

    def render(self, prompt: Prompt, *, system: str | None = None, thinking: Thinking = "auto") -> str:
        """Return the prompt as the model reads it, with the generation header.

        Where its `meta` holds `chat`, that frame stands in place of the template (an attack).

        Args:
            prompt: system text, history and user message. With `system=None` a template's own default system
                text stands; `system=""` suppresses it.
            system: a text put before the prompt's own system text.
            thinking: "off" closes the thinking block before the answer, "on" asks for one, "auto" leaves the
                template's default.
        """
        text = joined(system, prompt.system)
        if frame := prompt.get("chat"):
            return self._start + frame.replace("{q}", joined(text, prompt.text) or "")
        if not self.has_template:
            return "\n\n".join([t for t in (text, *(t for _, t in prompt.history), prompt.text) if t])
        rendered = self._apply(self._messages(prompt, text), thinking)
        if thinking == "off" and self._thinks:
            if rendered.rstrip().endswith(OPEN):
                rendered = rendered.rstrip() + f"\n\n{CLOSE}\n\n"
            elif not rendered.rstrip().endswith(CLOSE):
                rendered += f"{OPEN}\n\n{CLOSE}\n\n"
        return rendered

    @functools.cached_property
    def _start(self) -> str:
        """The token that the template itself begins a conversation with, if any."""
        mark = self.tokenizer.bos_token or ""
        begins = self.has_template and mark and self._apply([{"role": "user", "content": "hello"}], "auto")
        return mark if begins and begins.startswith(mark) else ""

    @functools.cached_property
    def harmony(self) -> bool:
        """Whether the template writes the channels of the harmony format."""
        return self.has_template and "<|channel|>" in str(self.tokenizer.chat_template)

    @functools.cached_property
    def _thinks(self) -> bool:
        return OPEN in str(self.tokenizer.chat_template)

    def _messages(self, prompt: Prompt, system: str | None) -> list[dict[str, str]]:
        turns = [{"role": role, "content": text} for role, text in prompt.history]
        turns.append({"role": prompt.role, "content": prompt.text})
        if system is None or (system == "" and not self.default_system):
            return turns
        if self.has_system:
            return [{"role": "system", "content": system}, *turns]
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = f"{system}\n\n{first['content']}"
        return turns

    def encode(
        self,
        prompts: Sequence[Prompt],
        *,
        system: str | None = None,
        prefill: str = "",
        thinking: Thinking = "auto",
        soft_tokens: int = 0,
    ) -> list[Encoded]:
        """Render and tokenise prompts. A prompt's `meta` may hold its own `prefill`.

        Args:
            prompts: what to encode.
            system: a text put before each prompt's own system text.
            prefill: the beginning of the answer, put after the generation header.
            thinking: see `render`.
            soft_tokens: how many places to leave after `system` for embeddings to come.
        """
        marked = joined(system, MARK) if soft_tokens else system
        texts = [self.render(p, system=marked, thinking=thinking) for p in prompts]
        if not texts:
            return []
        rendered, places = self._tokens(texts, soft_tokens)
        texts = [text.replace(MARK, "", 1) for text in texts] if soft_tokens else texts
        ends = [text.rfind(p.text.strip()) + len(p.text.strip()) for text, p in zip(texts, prompts, strict=True)]
        tails = [text[end:] for text, end in zip(texts, ends, strict=True)]
        lengths = self._lengths(tails)
        answers = {t: self.bare(t) for t in {p.get("prefill") or prefill for p in prompts}}
        made = []
        for prompt, text, ids, tail, place in zip(prompts, texts, rendered, lengths, places, strict=True):
            answer = answers[prompt.get("prefill") or prefill]
            is_open = text.rfind(OPEN) > text.rfind(CLOSE) and text.rstrip().endswith(OPEN)
            whole = (*ids, *answer)
            if not whole:
                raise ModelError(f"prompt {prompt.id} is empty once rendered; a model cannot read nothing")
            made.append(Encoded(whole, len(ids), max(len(ids) - tail, 0), is_open, place))
        return made

    def tell(
        self, prompts: Sequence[Prompt], plan: Plan, *, prefill: str = "", thinking: Thinking = "auto"
    ) -> list[dict[int, Encoded]]:
        """Return what each branch of a plan is told of each prompt, by the branch's index; 0 is the base.

        Args:
            prompts: what to encode.
            plan: its system text, soft tokens and those branches that are mixed or probed.
            prefill: the beginning of the answer, put after the generation header and a branch's own prefill.
            thinking: see `render`.
        """
        wanted = {0, plan.mixes, *(gate.probe.branch for gate in plan.gates if gate.probe is not None)}
        soft = len(plan.tensors[plan.soft_tokens]) if plan.soft_tokens else 0
        told: list[dict[int, Encoded]] = [{} for _ in prompts]
        for index in sorted(wanted):
            branch = plan.branches[index - 1] if index else None
            system = joined(plan.system, branch.system if branch else None)
            made = self.encode(prompts, system=system, prefill=prefill, thinking=thinking, soft_tokens=soft)
            extra = self.bare(branch.prefill) if branch else []
            for one, encoded in zip(told, made, strict=True):
                end = encoded.prompt
                one[index] = replace(encoded, ids=(*encoded.ids[:end], *extra, *encoded.ids[end:]))
        return told

    def read(self, encoded: Encoded, written: Sequence[int]) -> tuple[str, str]:
        """Return (reasoning, answer) of what was written after a prompt, its prefilled beginning included.

        Args:
            encoded: the prompt.
            written: the tokens of the answer, without the one that ended it.
        """
        whole = [*encoded.ids[encoded.prompt :], *written]
        text = str(self.tokenizer.decode(whole, skip_special_tokens=True))
        return split_thinking(text, is_open=encoded.thinking, harmony=self.harmony)

    def _tokens(self, texts: Sequence[str], soft: int) -> tuple[list[list[int]], list[int]]:
        """Return the tokens of rendered texts, and where the soft ones stand (-1 for none)."""
        special = not self.has_template
        if not soft:
            return self.tokenizer(list(texts), add_special_tokens=special)["input_ids"], [-1] * len(texts)
        halves = [text.partition(MARK) for text in texts]
        heads = [list(self.tokenizer(head, add_special_tokens=special)["input_ids"]) for head, _, _ in halves]
        rendered = [[*head, *(0,) * soft, *self.bare(tail)] for head, (_, _, tail) in zip(heads, halves, strict=True)]
        return rendered, [len(head) for head in heads]

    def _lengths(self, tails: Sequence[str]) -> list[int]:
        """Return how many tokens each tail has; a template has few different ones."""
        counted = {tail: len(self.bare(tail)) for tail in set(tails)}
        return [counted[tail] for tail in tails]

    def bare(self, text: str) -> list[int]:
        """Return the tokens of a text that stands inside a conversation."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def ends(named: Any, tokenizer: Any, config: Any) -> frozenset[int]:
    """Return the tokens that end an answer: every end-of-text and end-of-turn that a model's configurations name.

    Args:
        named: the generation configuration, None where there is none.
        tokenizer: the tokenizer.
        config: the model's configuration, asked where the generation configuration names none.
    """
    ids = [getattr(named, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)]
    ids.append(getattr(config, "eos_token_id", None) if ids[0] is None else None)
    flat = [i for value in ids for i in (value if isinstance(value, list | tuple) else [value])]
    return frozenset(int(i) for i in flat if i is not None)


def joined(first: str | None, second: str | None) -> str | None:
    """Return two system texts one below the other; None where neither is given."""
    if first is None or second is None:
        return second if first is None else first
    return "\n\n".join(text for text in (first, second) if text)
