"""Examples as rows that trl's trainers take: its conversational preference, prompt-completion and prompt-only formats.

| file | rows | for |
|---|---|---|
| `preference.jsonl` | `prompt`, `chosen`, `rejected`: examples with both answers | `DPOTrainer` |
| `sft.jsonl` | `prompt`, `completion`: examples with an answer | `SFTTrainer` |
| `prompts.jsonl` | `prompt`: every example | trainers that write the answers themselves |

Examples of the split `dev` stand in `dev-….jsonl`. An answer that is not what was wanted is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from demur.errors import DataError
from demur.files import write_rows
from demur.types import Example, Prompt

FILES = ("preference", "sft", "prompts")
WANTED = {"comply": ("compliance",), "refuse": ("refusal",)}
"""Labels that an answer to learn may have, by what is expected."""
Row = dict[str, Any]


class Written(NamedTuple):
    """What was written."""

    files: dict[Path, int]
    """File -> rows; a file without rows is not written."""
    left_out: dict[str, dict[str, int]]
    """Format -> why an example is not in it -> how many."""


def preference(prompt: Prompt, chosen: str, rejected: str) -> Row:
    """Return a row in trl's conversational preference format, with the prompt's kind."""
    return {"prompt": messages(prompt), "chosen": _said(chosen), "rejected": _said(rejected), "kind": prompt.kind}


def completion(prompt: Prompt, answer: str) -> Row:
    """Return a row in trl's conversational prompt-completion format, with the prompt's kind."""
    return {"prompt": messages(prompt), "completion": _said(answer), "kind": prompt.kind}


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """Return a prompt as chat messages."""
    system = [("system", prompt.system)] if prompt.system else []
    turns = [*system, *prompt.history, (prompt.role, prompt.text)]
    return [{"role": role, "content": text} for role, text in turns]


def fault(e: Example, paired: bool) -> str:
    """Return why an example cannot be learnt from, "" where it can.

    Args:
        e: the example; without a label it is taken as it is, with one it must be what a good model would do.
        paired: whether the answer to unlearn is needed, too.
    """
    if not e.answer:
        return "there is no answer to learn"
    if paired and not e.rejected:
        return "there is no answer to unlearn"
    if unsayable(e.prompt):
        return "the prompt begins the answer itself or swaps the chat template, which trl's formats cannot say"
    if e.label is not None and e.label not in WANTED.get(e.prompt.expected or "", (e.label,)):
        return f"the answer is a {e.label}, and {e.prompt.expected} is expected"
    return ""


def unsayable(prompt: Prompt) -> bool:
    """Say whether a prompt begins the answer itself or swaps the chat template."""
    return bool(prompt.get("prefill") or prompt.get("chat"))


def write(examples: Iterable[Example], out: Path) -> Written:
    """Write examples as files that `datasets.load_dataset("json", data_files=…)` and trl take unchanged.

    Args:
        examples: as `demur mine` selects them, or of any other source.
        out: the folder.

    Raises:
        DataError: where no example can be said in any format.
    """
    rows: dict[tuple[str, str], list[Row]] = {(split, name): [] for split in ("fit", "dev") for name in FILES}
    left: dict[str, Counter[str]] = {name: Counter() for name in FILES}
    for e in examples:
        for name in FILES:
            if why := _why(e, name):
                left[name][why] += 1
            else:
                rows[e.split, name].append(_row(e, name))
    files = {}
    for (split, name), found in rows.items():
        path = out / f"{'dev-' if split == 'dev' else ''}{name}.jsonl"
        if found:
            write_rows(path, found)
            files[path] = len(found)
        else:
            path.unlink(missing_ok=True)
    if not files:
        raise DataError("no example can be said in trl's formats: every prompt begins its answer or swaps the template")
    return Written(files, {name: dict(counts) for name, counts in left.items() if counts})


def _why(e: Example, name: str) -> str:
    if name == "prompts":
        return "the prompt begins the answer itself or swaps the chat template" if unsayable(e.prompt) else ""
    return fault(e, paired=name == "preference")


def _row(e: Example, name: str) -> Row:
    if name == "preference":
        row = preference(e.prompt, e.answer, e.rejected)
    elif name == "sft":
        row = completion(e.prompt, e.answer)
    else:
        row = {"prompt": messages(e.prompt), "kind": e.prompt.kind}
    return {key: value for key, value in row.items() if key != "kind"}


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
