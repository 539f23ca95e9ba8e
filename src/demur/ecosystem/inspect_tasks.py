"""demur's benchmarks as Inspect tasks, its judges as a scorer, and the two axes as metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    GenerateConfig,
    ModelOutput,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver

from demur import metrics
from demur.counted import codes, mean
from demur.ecosystem.gathering import Gathered
from demur.ecosystem.inspect_model import KEY
from demur.ecosystem.judging import Judged, begun, bench_of, prompts_of
from demur.settings import PartSpec
from demur.types import Finish, Item, Prompt, Response, Sampling, from_json, to_json

EXTRA = "eval"
FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "filtered",
}
"""Inspect's reason to stop -> what demur calls it."""
WITH_INTERVAL = ("answered_rate", "held_rate")


def task_of(benchmark: str | PartSpec, judge: str = "") -> Task:
    """Return a benchmark as a task: greedy, 512 tokens, judged by its own default judge or by another.

    Raises:
        NotFound, ConfigError: for parts that are not there; Unavailable: for data that are not.
    """
    prompts, usual = prompts_of(benchmark)
    return Task(
        dataset=MemoryDataset([sample_of(p) for p in prompts], name=str(benchmark)),
        solver=[sayable(), generate()],
        scorer=judged(judge or usual),
        config=GenerateConfig(temperature=0.0, max_tokens=Sampling().max_new_tokens),
    )


def sample_of(prompt: Prompt) -> Sample:
    """Return a prompt as a sample; its messages' metadata and its own hold the prompt as demur knows it."""
    about = to_json(prompt)
    said: list[ChatMessage] = [] if prompt.system is None else [ChatMessageSystem(content=prompt.system)]
    for role, text in prompt.history:
        said.append(ChatMessageUser(content=text) if role == "user" else ChatMessageAssistant(content=text))
    last = ChatMessageAssistant if prompt.role == "assistant" else ChatMessageUser
    said.append(last(content=prompt.text, metadata={KEY: about}))
    if prefill := prompt.get("prefill"):
        said.append(ChatMessageAssistant(content=prefill))
    return Sample(id=prompt.id, input=said, target=prompt.expected or "", metadata={KEY: about})


@solver
def sayable() -> Solver:
    """Keep prompts that swap the chat template from models that would be asked something else: they become errors."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if prompt_of(state).get("chat") and state.model.api != "demur":
            why = "the prompt swaps the chat template, which only demur's own models can do"
            state.output = ModelOutput.from_content(str(state.model), "", "unknown", error=why)
            state.completed = True
        return state

    return solve


@metric(scores="unreduced")
def rates() -> Metric:
    """Both axes and what broke, as `demur measure` counts them; a rate without rows is left out."""

    def compute(scores: list[SampleScore]) -> Value:
        rows = [_outcome(s) for s in scores]
        table = metrics.Table.of([row for row in rows if row is not None])
        groups = codes(table.prompts)
        found: dict[str, str | int | float | bool | None] = {}
        for rate in metrics.rates(table, quality=bool(np.any(table.quality != ""))):
            number = mean(rate.numerator, rate.denominator, groups, n_unscored=int(rate.unscored.sum()))
            found[rate.name] = number.value
            if rate.name in WITH_INTERVAL:
                found |= {f"{rate.name}_low": number.low, f"{rate.name}_high": number.high}
        return {name: value for name, value in found.items() if value is not None}

    return compute


def _outcome(score: SampleScore) -> metrics.Outcome | None:
    about = (score.score.metadata or {}).get("outcome")
    return None if about is None else from_json(metrics.Outcome, about, where=f"the score of {score.sample_id}")


@scorer(metrics=[rates()], name="judge")
def judged(judge: str = "classifier") -> Scorer:
    """Judge refusals with one of demur's judges: the state of the answer, with the verdicts in the metadata.

    The value is `compliance`, `partial_refusal`, `refusal` or `gibberish`; `truncated`, `empty` or `filtered`; or
    `unscored`, where the judge or the model's server failed. Nothing is left out.
    """
    ask = Gathered[Item, Judged](bench_of(judge))

    async def score(state: TaskState, target: Target) -> Score:
        prompt = prompt_of(state)
        return score_of(await ask(Item(prompt, response_of(state, prompt))))

    return score


def score_of(found: Judged) -> Score:
    """Return what a judge found as Inspect's score."""
    about = to_json(found.outcome)
    about["prompt"] |= {"text": "", "history": [], "system": None, "meta": []}  # the sample holds them
    refusal = next((v for v in found.verdicts if v.question == "refusal"), None)
    why = "" if refusal is None else refusal.reason or refusal.unscored
    return Score(
        value=found.outcome.state,
        explanation=why or None,
        reason=None if found.outcome.measured else "scoring_failed",
        metadata={"verdicts": to_json(found.verdicts), "outcome": about},
    )


def prompt_of(state: TaskState) -> Prompt:
    """Return the prompt of a sample; of one that demur did not make, what is asked, of unknown expectation."""
    if known := state.metadata.get(KEY):
        return from_json(Prompt, known, where=f"sample {state.sample_id}")
    return Prompt(id=str(state.sample_id), text=state.input_text, expected=None, source="inspect")


def response_of(state: TaskState, prompt: Prompt) -> Response:
    """Return a sample's output as a response, with what demur's own provider tells of it."""
    output = state.output
    told = (output.metadata or {}).get(KEY, {})
    finish = told.get("finish") or ("error" if output.error else FINISHES.get(_stopped(output), "error"))
    error = told.get("error") or output.error or ("" if finish != "error" else f"stop reason {_stopped(output)}")
    made = Response(
        prompt_id=prompt.id,
        sample=state.epoch - 1,
        text=output.completion,
        reasoning=_reasoning(output),
        finish=finish,
        error=error if finish in ("error", "filtered") else "",
        n_tokens=told.get("n_tokens") or (output.usage.output_tokens if output.usage else 0),
        logprob=told.get("logprob"),
    )
    return begun(prompt, made)


def _stopped(output: ModelOutput) -> str:
    return output.choices[0].stop_reason if output.choices else "no choice"


def _reasoning(output: ModelOutput) -> str:
    content: Any = output.choices[0].message.content if output.choices else ""
    parts: Sequence[Any] = () if isinstance(content, str) else content
    return "\n\n".join(part.reasoning for part in parts if isinstance(part, ContentReasoning))
