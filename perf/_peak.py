"""The peak of resident memory in each stage of work with a model, as a process of its own: one JSON object."""

from __future__ import annotations

import ctypes
import gc
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def reset() -> None:
    """Give freed memory back and forget the peak so far (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak() -> int:
    """Return the most bytes resident since `reset`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found.group(1)) * 1024 if found else 0


def measured(work: Callable[[], Any]) -> tuple[int, Any]:
    """Return the peak while something runs, and what it returned."""
    reset()
    made = work()
    return peak(), made


def stages(model: str, sizes: dict[str, int]) -> dict[str, int]:
    """Load a model, answer, capture, train; return the peak of each, and the tokens of the longest prompt."""
    from demur.decoding import decode
    from demur.lm import load
    from demur.residuals import capture
    from demur.types import Prompt, Sampling

    found: dict[str, int] = {}
    found["load"], lm = measured(lambda: load(model, device="cpu", dtype="float32"))
    words = ["w7"] if "w7" in lm.tokenizer.get_vocab() else ["tell", "me", "how"]
    text = " ".join(words[i % len(words)] for i in range(sizes["words"]))
    prompts = [Prompt(id=str(i), text=text, expected="comply", source="perf") for i in range(sizes["prompts"])]
    found["prompt_tokens"] = len(lm.encode(prompts[0]).ids)
    sampling = Sampling(max_new_tokens=sizes["new_tokens"])
    found["capture"] = measured(lambda: capture(lm, prompts))[0]
    found["generation"] = measured(lambda: list(decode(lm, prompts, sampling)))[0]
    from demur.training import How, completion, train

    rows = [completion(prompts[0], text) for _ in range(sizes["rows"])]
    found["row_tokens"] = 2 * found["prompt_tokens"]
    how = How(batch=sizes["at_once"], at_once=sizes["at_once"], checkpoints=1)
    with tempfile.TemporaryDirectory() as folder:
        found["training"] = measured(lambda: train(lm, rows, Path(folder), objective="sft", how=how))[0]
    return found


if __name__ == "__main__":
    print(json.dumps(stages(sys.argv[1], json.loads(sys.argv[2]))))
