"""The models that a process keeps for all its tests are, after every file, what they were before it."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from demur.lm import LM


@pytest.fixture(scope="module", autouse=True)
def _the_shared_model_is_left_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that trains or edits the embedded model of the process, and not a copy, would change what others see."""
    yield
    local = sys.modules.get("demur.generators.local")
    if local is not None and local._load.cache_info().currsize:
        assert _digest(local.Local().lm()) == _as_loaded(), f"{request.node.nodeid} changed the shared model's weights"


@functools.cache
def _as_loaded() -> str:
    from demur.lm import load

    return _digest(load("organism"))


def _digest(lm: LM) -> str:
    made = hashlib.blake2b()
    for name, tensor in sorted(lm.module.state_dict(keep_vars=True).items()):
        values = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        made.update(f"{name} {tensor.requires_grad} ".encode() + values)
    return made.hexdigest()
