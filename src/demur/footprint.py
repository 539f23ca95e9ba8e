"""How much memory running a model takes, from its configuration alone: its own code runs on tensors without data.

`FakeTensorMode` gives every operation's output its shape, type and lifetime but no memory; what is alive at once is
counted, and the most of it is the estimate. So no formula knows about architectures: grouped keys, experts, tied
embeddings and what autograd keeps are as the model's own code has them.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from demur.fitted import Spent

MIB = 2**20
Made = TypeVar("Made")


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are alive, each once; `peak` is the most so far."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.operations = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        self.operations += 1
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return made

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is counted."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


@contextmanager
def weightless(config: Any, dtype: torch.dtype) -> Iterator[Any]:
    """Give the model of a configuration, its weights without data, inside the mode that keeps everything so.

    Args:
        config: of transformers.
        dtype: of the weights.
    """
    import transformers
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers.initialization import no_init_weights

    with FakeTensorMode(), no_init_weights():
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        module.eval()
        module.requires_grad_(False)
        yield module


def peak(work: Callable[[], object], module: Any = None) -> tuple[int, int]:
    """Return the most bytes that were alive at once while `work` ran, beyond what it was given, and its operations.

    Args:
        work: runs inside `weightless`.
        module: whose weights and buffers are there already.
    """
    with Alive() as alive:
        for given in [*module.parameters(), *module.buffers()] if module is not None else ():
            alive.seen.add(given.untyped_storage()._cdata)
        kept = work()
    del kept
    return alive.peak, alive.operations


def size(module: Any) -> tuple[int, int]:
    """Return (parameters, bytes) of a model, shared ones and buffers once."""
    module.tie_weights()
    held = {t.untyped_storage()._cdata: t for t in [*module.parameters(), *module.buffers()]}
    own = {id(p): p.numel() for p in module.parameters()}
    return sum(own.values()), sum(t.untyped_storage().nbytes() for t in held.values())


def resident() -> int:
    """Return the bytes of memory that this process holds; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def metered(work: Callable[[], Made]) -> tuple[Made, Spent]:
    """Do some work in this process; return what it made, and the time and memory that it took.

    The peak of resident memory is the kernel's own (Linux), which is started anew: freed memory is given back first,
    so that what the work takes of it counts.
    """
    before = _from_now()
    known = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    held = torch.cuda.memory_allocated() if known else 0
    if known:
        torch.cuda.reset_peak_memory_stats()
    wall, cpu = time.monotonic(), time.process_time()
    made = work()
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    most = _peak_resident() if before else 0
    return made, Spent(
        cpu_seconds=cpu,
        wall_seconds=wall,
        peak_mib=max(0, most - before) / MIB if most else None,
        device_mib=(torch.cuda.max_memory_allocated() - held) / MIB if known else None,
    )


def _from_now() -> int:
    """Start the peak of resident memory anew; return what is held now, 0 where the system has no such peak."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library keeps what was freed
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return 0
    return resident()


def _peak_resident() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found.group(1)) * 1024 if found else 0
