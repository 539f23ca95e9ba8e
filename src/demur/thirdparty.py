"""What other packages say while they work for demur: known, harmless, and kept off the terminal."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

KNOWN: tuple[tuple[str, type[Warning], str], ...] = (
    # peft 0.21 asks transformers 5.23 for it by its old name
    ("`is_gradient_checkpointing` is deprecated", FutureWarning, "transformers"),
)
"""(beginning of the message, category, package whose line is named), with the versions they were seen in."""

LOUD = ("transformers", "trl", "peft", "accelerate", "datasets", "torch.distributed")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the known warnings, progress bars and notes of the training packages away, for as long as it is open."""
    import datasets
    import transformers

    bars: Any = transformers.utils.logging

    levels = {name: logging.getLogger(name).level for name in LOUD}
    shown, mapped = bars.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    bars.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            for message, category, module in KNOWN:
                warnings.filterwarnings("ignore", message, category, module)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if shown:
            bars.enable_progress_bar()
        if not mapped:
            datasets.enable_progress_bars()
