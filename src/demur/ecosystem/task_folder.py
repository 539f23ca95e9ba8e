"""Benchmarks as a folder of lm-eval tasks: one YAML file each, rows and judge named in it and found in demur."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from demur.ecosystem.judging import bench_of, prompts_of
from demur.errors import ConfigError
from demur.files import write_text
from demur.settings import Problems

RATES = {
    "answered_rate": True,
    "held_rate": True,
    "over_refusal_rate": False,
    "harmful_compliance_rate": False,
    "broken_rate": False,
    "gibberish_rate": False,
    "truncated_rate": False,
    "filtered_rate": False,
    "unscored_rate": False,
    "contested_rate": False,
    "contested_answered_rate": False,
    "oracle_correct_rate": True,
}
"""The rates of `demur.metrics`, and whether more is better."""

TASK = """# {benchmark}, judged by {judge}
# lm_eval run --model demur --model_args model=organism --tasks FOLDER --apply_chat_template
task: {name}
custom_dataset: !function demur.ecosystem.lm_eval_tasks.rows
dataset_kwargs: {{benchmark: {part}, judge: {judged_by}}}
test_split: test
output_type: generate_until
description: system
gen_prefix: prefill
doc_to_text: text
doc_to_target: expected
process_results: !function demur.ecosystem.lm_eval_tasks.judged
generation_kwargs: {{until: [], max_gen_toks: {tokens}, do_sample: false, temperature: 0.0}}
metric_list:
{metrics}
metadata: {{version: 1}}
"""
METRIC = "  - {{metric: {name}, aggregation: mean, higher_is_better: {better}}}"


def write(benchmarks: Sequence[str], out: Path, *, judge: str = "", max_new_tokens: int = 512) -> dict[str, Path]:
    """Write benchmarks as tasks of lm-eval.

    Args:
        benchmarks: parts.
        out: the folder; files of the same names are replaced.
        judge: a part; empty: each benchmark's own default judge.
        max_new_tokens: of an answer at most.

    Returns:
        the file of each task, by the task's name.

    Raises:
        NotFound, ConfigError, Unavailable: for parts that are not there or cannot be used, all of them together.
    """
    problems = Problems()
    texts: dict[str, str] = {}
    for part in benchmarks:
        with problems.gather():
            _, usual = prompts_of(part)
            name = name_of(part)
            if name in texts:
                raise ConfigError(f"two benchmarks would be task {name!r}; the second is {part}")
            chosen = bench_of(judge or usual).name
            rates = (METRIC.format(name=rate, better=str(better).lower()) for rate, better in RATES.items())
            texts[name] = TASK.format(
                benchmark=part,
                judge=chosen,
                name=name,
                part=json.dumps(part),
                judged_by=json.dumps(judge or usual),
                tokens=max_new_tokens,
                metrics="\n".join(rates),
            )
    problems.check("the tasks")
    for name, text in texts.items():
        write_text(out / f"{name}.yaml", text)
    return {name: out / f"{name}.yaml" for name in texts}


def name_of(benchmark: str) -> str:
    """Return a task's name: `demur_world`, `demur_world_split_test_limit_24`."""
    return "demur_" + re.sub(r"[^0-9a-z]+", "_", benchmark.lower()).strip("_")
