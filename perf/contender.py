"""One side of a comparison, as a process that answers requests: `python contender.py NAME MODEL IDS LAYERS THREADS`.

Loads once, then reads one JSON request a line on standard input and answers one JSON line on standard output:
{"do": "states", "out": path} saves what was captured as (prompt, layer, d_model) and answers {"shape": …};
{"do": "run"} captures again and answers {"seconds": …, "peak_mb": …}. The first line out is {"ready": versions}.

It runs in the peer's own environment, so it imports only torch, transformers, numpy and that peer. Every side gets the
same token ids: a peer that wants strings gets a stand-in tokenizer that looks them up, which costs it next to nothing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, BatchEncoding

BATCH = 32
Ids = list[list[int]]
Capture = Callable[[], np.ndarray]
"""Captures all prompts and returns (prompt, layer, d_model), layers in the order asked for."""


class Lookup:
    """A tokenizer whose texts are the indices of the prompts: what a peer needs, and no more."""

    pad_token_id = 0
    eos_token_id = 0
    pad_token = eos_token = "<pad>"
    padding_side = "right"

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.texts = [str(i) for i in range(len(ids))]

    def __call__(self, texts: list[str] | str, **_: Any) -> BatchEncoding:
        """Look the texts up and pad them on the right."""
        rows = [self.ids[int(t)] for t in ([texts] if isinstance(texts, str) else texts)]
        return BatchEncoding(padded(rows, "right"))


def padded(rows: Ids, side: str) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask`, padded on one side."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, at] = torch.tensor(row)
        mask[i, at] = 1
    return {"input_ids": ids, "attention_mask": mask}


def batches(ids: Ids) -> list[Ids]:
    """Return the prompts in their given order, `BATCH` at a time."""
    return [ids[i : i + BATCH] for i in range(0, len(ids), BATCH)]


def naive(model: Any, ids: Ids, layers: list[int]) -> Capture:
    """Batches in the given order, right-padded, `output_hidden_states=True`, last token picked out."""

    def capture() -> np.ndarray:
        found = []
        for rows in batches(ids):
            inputs = padded(rows, "right")
            with torch.no_grad():
                out = model(**inputs, output_hidden_states=True)
            last = inputs["attention_mask"].sum(1) - 1
            at = torch.arange(len(rows))
            found.append(torch.stack([out.hidden_states[k + 1][at, last] for k in layers], 1).float())
        return torch.cat(found).numpy()

    return capture


def batch_1(model: Any, ids: Ids, layers: list[int]) -> Capture:
    """One prompt at a time: no padding, no mask."""

    def capture() -> np.ndarray:
        found = []
        for row in ids:
            with torch.no_grad():
                out = model(torch.tensor([row]), output_hidden_states=True)
            found.append(torch.stack([out.hidden_states[k + 1][0, -1] for k in layers]).float())
        return torch.stack(found).numpy()

    return capture


def generate_1(model: Any, ids: Ids, layers: list[int]) -> Capture:
    """`generate(max_new_tokens=1, output_hidden_states=True)` on left-padded batches."""

    def capture() -> np.ndarray:
        found = []
        for rows in batches(ids):
            out = model.generate(
                **padded(rows, "left"),
                max_new_tokens=1,
                do_sample=False,
                pad_token_id=0,
                output_hidden_states=True,
                return_dict_in_generate=True,
            )
            first = out.hidden_states[0]
            found.append(torch.stack([first[k + 1][:, -1] for k in layers], 1).float())
        return torch.cat(found).numpy()

    return capture


def repeng(model: Any, ids: Ids, layers: list[int]) -> Capture:
    """The function behind `ControlVector.train` that reads the states, at its default batch size."""
    from repeng import extract

    extract.tqdm.tqdm = lambda items, **_: items
    tokenizer = Lookup(ids)

    def capture() -> np.ndarray:
        found = extract.batched_get_hiddens(model, tokenizer, tokenizer.texts, layers, BATCH)
        return np.stack([found[k] for k in layers], 1)

    return capture


def steering_vectors(model: Any, ids: Ids, layers: list[int], batch_size: int = 1) -> Capture:
    """`extract_activations`, half of the prompts as positive and half as negative; its default batch size is 1."""
    from steering_vectors.train_steering_vector import extract_activations

    tokenizer = Lookup(ids)
    half = len(ids) // 2
    samples = list(zip(tokenizer.texts[:half], tokenizer.texts[half:], strict=True))

    def capture() -> np.ndarray:
        sides = extract_activations(model, tokenizer, samples, layers=layers, batch_size=batch_size)
        found = [torch.stack([torch.cat(side[k]) for k in layers], 1).float() for side in sides]
        return torch.cat(found).numpy()

    return capture


def steering_vectors_32(model: Any, ids: Ids, layers: list[int]) -> Capture:
    """The same with batches of 32."""
    return steering_vectors(model, ids, layers, BATCH)


def reference(model: Any, ids: Ids, layers: list[int]) -> Capture:
    """What the others are compared with: one prompt at a time, read by a hook on each block."""
    seen: dict[int, torch.Tensor] = {}

    def keep(k: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, out: Any) -> None:
            seen[k] = (out if isinstance(out, torch.Tensor) else out[0])[0, -1].float()

        return hook

    for k in layers:
        model.model.layers[k].register_forward_hook(keep(k))

    def capture() -> np.ndarray:
        found = []
        for row in ids:
            with torch.no_grad():
                model(torch.tensor([row]))
            found.append(torch.stack([seen[k] for k in layers]))
        return torch.stack(found).numpy()

    return capture


def demur(model_dir: str, ids: Ids, layers: list[int]) -> Capture:
    """Demur's own kernel."""
    from _demur import capture_states

    return capture_states(model_dir, ids, layers)


SIDES = {
    "reference": reference,
    "naive loop": naive,
    "batch-1 loop": batch_1,
    "generate(1)": generate_1,
    "repeng": repeng,
    "steering-vectors": steering_vectors,
    "steering-vectors, batch 32": steering_vectors_32,
}
PACKAGES = ("torch", "transformers", "numpy", "repeng", "steering-vectors", "demur")


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter, where installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def answer(request: dict[str, Any], capture: Capture) -> dict[str, Any]:
    """Carry out one request."""
    started = time.perf_counter()
    states = capture()
    seconds = time.perf_counter() - started
    if request["do"] == "states":
        np.save(request["out"], states)
        return {"shape": list(states.shape)}
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main(name: str, model_dir: str, ids_file: str, layers: list[int], threads: int) -> None:
    """Load, then answer until standard input ends. Whatever a library prints goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    ids = json.loads(Path(ids_file).read_text(encoding="utf-8"))
    if name == "demur":
        capture = demur(model_dir, ids, layers)
    else:
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True).eval()
        capture = SIDES[name](model, ids, layers)
    print(json.dumps({"ready": versions()}), file=lines)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), capture)), file=lines)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), int(sys.argv[5]))
