"""The model as lm-eval sees it: every token goes through demur's own forward pass, so that interventions act.

Needs the extra `eval`. Imported by `capability`, and by `ecosystem.lm_eval_model`, which lm-eval finds by name.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from demur.chats import Encoded
from demur.chats import Thinking as Think
from demur.decoding import decode
from demur.errors import ConfigError
from demur.lm import LM
from demur.plan import Plan
from demur.residuals import batches
from demur.thinking import Thinking, think
from demur.types import Prompt, Response, Sampling, from_json
from demur.weights import edits_of, swapped

BATCH_TOKENS = 4096
LONGEST = 4096
"""Tokens of context at most, where a model allows more."""
ANSWER = 256
"""Tokens of an answer where the task says none."""
PROMPT = "demur_prompt"
"""The field of a task's row that holds a demur prompt, as JSON."""


class Harness(TemplateLM):  # type: ignore[misc]
    """An lm-eval model over an `LM` with a plan (None: what is attached); edited weights are swapped in by call."""

    def __init__(self, lm: LM, plan: Plan | None = None) -> None:
        super().__init__()
        self.what = plan
        self.plan = lm.plan_of(plan)
        self.chats = lm.chats
        self.known = lm
        self.lm = copy.copy(lm)
        self.lm.chats = _Raw(self.tok_encode, lm.chats.read, lm.chats.harmony)  # type: ignore[assignment]
        self.chatting = False

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return min(self.lm.stops, default=0)

    @property
    def max_length(self) -> int:
        """Tokens that a row may have."""
        return min(int(getattr(self.lm.module.config, "max_position_embeddings", LONGEST)), LONGEST)

    @property
    def tokenizer_name(self) -> str:
        """Names the chat template in lm-eval's own cache keys."""
        return f"{self.lm.ref.id}-{self.lm.ref.template_sha}".replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the template, for lm-eval's records."""
        return str(getattr(self.lm.tokenizer, "chat_template", "") or "") if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render turns as the model reads them, with the plan's system text; a last assistant turn is begun."""
        self.chatting = True
        turns = list(chat_history)
        begun = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
        system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
        history = tuple((t["role"], t["content"]) for t in turns[:-1])
        asked = Prompt(
            id="", text=turns[-1]["content"], expected=None, source="lm-eval", system=system, history=history
        )
        return self.chats.render(asked, system=self.plan.system) + begun

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokenise; a rendered chat holds its special tokens already."""
        special = not self.chatting if add_special_tokens is None else add_special_tokens
        return list(self.lm.tokenizer(string, add_special_tokens=special)["input_ids"])

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return, for each (texts, context, continuation), the continuation's log-probability and if it is greedy."""
        _sayable(self.plan)
        rows = []
        for _texts, context, continuation in requests:
            ids = (*context, *continuation)[-self.max_length :]
            start = max(len(ids) - len(continuation), 1)
            rows.append(Encoded(ids, start, start))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        with swapped(self.lm, edits_of(self.plan) if self.what is not None else []):
            for run in batches([len(rows[i].ids) for i in order], BATCH_TOKENS):
                chosen = [order[i] for i in run]
                for i, scored in zip(chosen, self._scores([rows[i] for i in chosen]), strict=True):
                    found[i] = scored
        return found

    def _scores(self, rows: Sequence[Encoded]) -> list[tuple[float, bool]]:
        ids, states, _ = self.lm.batch(rows, [self.plan] * len(rows))
        hidden = self.lm.forward(ids, states)
        scored = []
        for i, row in enumerate(rows):
            logits = self.lm.head(hidden[i, row.prompt - 1 : len(row.ids) - 1]).double()
            target = torch.tensor(row.ids[row.prompt :], device=logits.device)
            chosen = logits.log_softmax(-1).gather(-1, target[:, None])
            scored.append((float(chosen.sum()), bool((logits.argmax(-1) == target).all())))
        return scored

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, window by window."""
        found = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            found.append(sum(score for score, _ in self._loglikelihood_tokens(parts)))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer each (text, settings), cut before the first of its stop strings.

        Where the text is what the template makes of a demur prompt, that prompt is answered, as `demur measure` does.
        """
        answers = [""] * len(requests)
        alike: dict[tuple[Sampling, bool], dict[int, Prompt]] = {}
        for i, request in enumerate(requests):
            prompt = self._known(request)
            raw = Prompt(id=str(i), text=request.args[0], expected=None, source="lm-eval")
            alike.setdefault((_sampling(request.args[1]), prompt is not None), {})[i] = prompt or raw
        for (how, known), asked in alike.items():
            room = max(self.max_length - how.max_new_tokens, 1)
            self.lm.chats.room = room  # type: ignore[attr-defined]
            places: dict[str, list[int]] = {}
            for i, prompt in asked.items():
                places.setdefault(prompt.id, []).append(i)
            unique = [asked[first] for first, *_ in places.values()]
            answered = think(self.known, unique, how, Thinking(), self.what) if known else None
            for response in answered or decode(self.lm, unique, how, self.what):
                for i in places[response.prompt_id]:
                    text = _cut(response.text, requests[i].args[1].get("until") or [])
                    answers[i] = Answer(text, response) if known and text == response.text else text
        return answers

    def _known(self, request: Any) -> Prompt | None:
        """Return the demur prompt behind a request, None where there is none or its text is not what is asked."""
        doc = getattr(request, "doc", None)
        if not isinstance(doc, Mapping) or PROMPT not in doc:
            return None
        prompt = from_json(Prompt, json.loads(doc[PROMPT]), where="a task's row")
        said = self.chats.render(prompt, system=self.plan.system) + prompt.get("prefill")
        return prompt if said == request.args[0] else None


class Answer(str):
    """The text of an answer, and the answer itself: how it ended is more than lm-eval asks for."""

    response: Response

    def __new__(cls, text: str, response: Response) -> Answer:
        """Return the text with its response."""
        made = super().__new__(cls, text)
        made.response = response
        return made


@dataclass(eq=False)
class _Raw:
    """Stands for a model's chats where the text is rendered already."""

    tokenise: Any
    read: Callable[[Encoded, Sequence[int]], tuple[str, str]]
    harmony: bool
    room: int = LONGEST

    def tell(
        self, prompts: Sequence[Prompt], plan: Plan, *, prefill: str = "", thinking: Think = "auto"
    ) -> list[dict[int, Encoded]]:
        _sayable(plan)
        made = [tuple(self.tokenise(p.text))[-self.room :] for p in prompts]
        return [{0: Encoded(ids, len(ids), len(ids))} for ids in made]


def _sayable(plan: Plan) -> None:
    """Check that a plan asks for no other wording of the prompt than the one that lm-eval has rendered."""
    if plan.mixes or plan.soft_tokens or any(gate.probe and gate.probe.branch for gate in plan.gates):
        raise ConfigError(
            "the intervention words the prompt in a second way (a branch or soft tokens), and lm-eval gives a text "
            "that is rendered already; tasks of `demur benchmarks lm-eval`, asked as chats, can be run with it"
        )


def _sampling(settings: dict[str, Any]) -> Sampling:
    drawn = bool(settings.get("do_sample", False))
    return Sampling(
        max_new_tokens=int(settings.get("max_gen_toks") or ANSWER),
        temperature=float(settings.get("temperature") or 0.0) if drawn else 0.0,
        top_p=float(settings.get("top_p") or 1.0) if drawn else 1.0,
    )


def _cut(text: str, until: str | Sequence[str]) -> str:
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            text = text.split(stop)[0]
    return text
