"""How fast a device computes and reads memory, measured in a fraction of a second: for estimates of time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

SIDE = {"cpu": 1024}
"""Of the square matrices that are multiplied."""
KERNELS = 15
"""Operations of one block that are started one after the other."""


class Speed(NamedTuple):
    """What a device does in a second, and how long the smallest block takes."""

    operations: float
    bytes: float
    block: float
    """Seconds to start the operations of one block: what bounds tiny models."""


def of(place: torch.device, dtype: torch.dtype) -> Speed:
    """Measure a device.

    Args:
        place: the device.
        dtype: what it computes in.
    """
    side = SIDE.get(place.type, 4096)
    square = torch.ones(side, side, dtype=dtype, device=place)
    tiny = torch.ones(16, 16, dtype=dtype, device=place)
    product = _seconds(lambda: square @ square, place)
    once = _seconds(lambda: square @ square[:, :1], place)
    start = _seconds(lambda: tiny @ tiny, place)
    bytes_read = square.numel() * square.element_size()
    return Speed(2 * side**3 / product, bytes_read / once, KERNELS * start)


def available(place: torch.device) -> int:
    """Return the bytes of memory that are free on a device."""
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _seconds(work: Callable[[], object], place: torch.device) -> float:
    """Return the fastest of a few rounds."""
    found = []
    for _ in range(4):
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        started = time.perf_counter()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        found.append(time.perf_counter() - started)
    return min(found)
