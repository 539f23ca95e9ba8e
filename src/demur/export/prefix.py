"""A system text for any endpoint, and a chat template that puts it in."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.errors import ModelError
from demur.export import Exported
from demur.export._changes import refuse, runtime_reasons
from demur.export._checking import TEXTS, Checked
from demur.files import write_text
from demur.plan import Plan
from demur.types import Prompt

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
TEXT, TEMPLATE = "system.txt", "chat_template.jinja"
CONVERSATIONS: tuple[tuple[str | None, tuple[tuple[str, str], ...]], ...] = (
    (None, ()),
    ("Be brief.", ()),
    (None, (("user", "Hello."), ("assistant", "Hello, you."))),
)
"""System texts and earlier turns with which the template is rendered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The system text of an intervention, for any endpoint, and a chat template that puts it before every prompt.

    `system.txt` is the text as it is. `chat_template.jinja` is the model's own template behind a few lines that put the
    text before the prompt's own system text (or, where the template shows none, before the first user message): servers
    take it as `--chat-template`.
    """

    def refuse(self, lm: LM, plan: Plan) -> None:
        """Do nothing where a text is all that the plan holds.

        Raises:
            ConfigError: where there is more, or no text; the message says what.
        """
        text_of(plan)

    def __call__(self, lm: LM, plan: Plan, folder: Path, marks: Mapping[str, str]) -> Exported:
        """Write text and template, render prompts with them by the tokenizer alone, and compare tokens.

        Raises:
            ConfigError: where the plan is more than a text.
            ModelError: where the template renders something else.
        """
        text = text_of(plan)
        write_text(folder / TEXT, text)
        notes = [f"Give the content of `{TEXT}` as the system message of every request."]
        if lm.chats.has_template:
            mark = "".join(f"{name}: {value}; " for name, value in marks.items())
            template = with_text(str(lm.tokenizer.chat_template), text, shown=lm.chats.has_system, mark=mark)
            write_text(folder / TEMPLATE, template)
            notes.append(f"Or let the server put it in: `vllm serve MODEL --chat-template {TEMPLATE}`.")
        return Exported(checked=_check(lm, text, folder), notes=tuple(notes))


def text_of(plan: Plan) -> str:
    """Return the text that a plan puts before every prompt.

    Raises:
        ConfigError: where the plan does anything else, or has no text.
    """
    others = list(runtime_reasons(plan))
    others += ["it edits the residual stream"] * bool(plan.sites) + ["it changes weights"] * bool(plan.weights)
    if others:
        raise refuse("prefix", "; ".join(others), "A prefix carries a text alone.")
    if not plan.system:
        raise refuse("prefix", "it holds no system text")
    return plan.system


def with_text(template: str, text: str, *, shown: bool, mark: str = "") -> str:
    """Return a chat template that puts a text before every conversation.

    Args:
        template: the model's own, in Jinja.
        text: the text.
        shown: whether the template shows a system message; where not, the text goes before the first user message.
        mark: a remark that is kept in the template and not rendered.
    """
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
    remark = "{#- " + mark.replace("#}", "# }") + "-#}\n" if mark else ""
    join = quoted + ' + "\\n\\n" + '
    if shown:
        lines = (
            "{%- if messages[0].role == 'system' -%}"
            "{%- set messages = [{'role': 'system', 'content': " + join + "messages[0].content}] + messages[1:] -%}"
            "{%- else -%}"
            "{%- set messages = [{'role': 'system', 'content': " + quoted + "}] + messages -%}"
            "{%- endif -%}"
        )
    else:
        lines = (
            "{%- if messages[0].role == 'system' -%}"
            "{%- set demur_text = " + join + "messages[0].content -%}{%- set messages = messages[1:] -%}"
            "{%- else -%}{%- set demur_text = " + quoted + " -%}{%- endif -%}"
            "{%- set messages = [{'role': messages[0].role, 'content': demur_text + \"\\n\\n\" + messages[0].content}]"
            " + messages[1:] -%}"
        )
    return remark + lines + "\n" + template


def _check(lm: LM, text: str, folder: Path) -> Checked:
    """Render conversations as a server would, from the files alone, and compare tokens with demur's."""
    written = (folder / TEXT).read_bytes().decode()
    template = (folder / TEMPLATE).read_bytes().decode() if lm.chats.has_template else None
    equal, of = 0, 0
    for own, history in CONVERSATIONS:
        for question in TEXTS:
            prompt = Prompt(id="check/0", text=question, expected=None, source="check", system=own, history=history)
            equal += _rendered(lm, prompt, written, template) == list(lm.encode(prompt, system=text).ids)
            of += 1
    if equal != of:
        raise ModelError(f"the template renders {of - equal} of {of} conversations otherwise than demur does")
    by = f"transformers {importlib.metadata.version('transformers')}, the tokenizer with the written files"
    return Checked(by=by, compared="tokens of rendered conversations", difference=0.0, tolerance=0.0, same=equal, of=of)


def _rendered(lm: LM, prompt: Prompt, text: str, template: str | None) -> list[int]:
    if template is None:
        parts = [text, prompt.system, *(t for _, t in prompt.history), prompt.text]
        return list(lm.tokenizer("\n\n".join(p for p in parts if p))["input_ids"])
    turns: list[dict[str, Any]] = [{"role": role, "content": said} for role, said in prompt.history]
    turns.append({"role": "user", "content": prompt.text})
    if prompt.system is not None:
        turns.insert(0, {"role": "system", "content": prompt.system})
    rendered = lm.tokenizer.apply_chat_template(
        turns, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return list(lm.tokenizer(rendered, add_special_tokens=False)["input_ids"])
