"""What the task files of `demur benchmarks lm-eval` name: a benchmark's rows, and the judge as lm-eval calls it.

Importing this file registers the model `demur` with lm-eval.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from demur.ecosystem import lm_eval
from demur.ecosystem.judging import Bench, begun, bench_of, prompts_of
from demur.errors import ConfigError
from demur.types import Item, Prompt, Response, from_json, to_json

EXTRA = "eval"
PROMPT, JUDGE = "demur_prompt", "demur_judge"

lm_eval.register()


def rows(*, benchmark: str, judge: str = "", **_: Any) -> dict[str, Any]:
    """Return a benchmark as the data set of a task.

    Args:
        benchmark: a part.
        judge: a part; empty: the benchmark's own default judge.

    Raises:
        ConfigError: for prompts that lm-eval cannot ask: with earlier turns, or in a frame of their own.
    """
    import datasets

    prompts, usual = prompts_of(benchmark)
    for prompt in prompts:
        if prompt.history or prompt.get("chat") or prompt.role == "assistant":
            raise ConfigError(
                f"prompt {prompt.id} of {benchmark} is more than one message of a user's, and lm-eval asks no more; "
                "use `demur measure`, or Inspect"
            )
    made = [
        {
            "text": prompt.text,
            "system": prompt.system or "",
            "prefill": prompt.get("prefill"),
            "expected": prompt.expected or "",
            PROMPT: json.dumps(to_json(prompt), ensure_ascii=False),
            JUDGE: judge or usual,
        }
        for prompt in prompts
    ]
    return {"test": datasets.Dataset.from_list(made)}


def judged(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge one answer: 0 or 1 for each rate in whose denominator it stands; lm-eval's mean of each is the rate.

    How an answer ended (cut off, filtered) is known of demur's own model only; others' count as finished.
    """
    prompt = from_json(Prompt, json.loads(doc[PROMPT]), where="a task's row")
    answer = results[0]
    known = getattr(answer, "response", None)
    response = known or begun(prompt, Response(prompt_id=prompt.id, text=str(answer), finish="stop"))
    (found,) = _bench(doc[JUDGE])([Item(prompt, response)])
    return found.rows()


@functools.cache
def _bench(judge: str) -> Bench:
    return bench_of(judge)
