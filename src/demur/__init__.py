"""demur: measure, explain and mitigate over-refusal in language models, under a safety floor.

Names are loaded on first use, so that `import demur` imports neither torch nor anything else that is slow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demur.decoding import decode
    from demur.directions import Direction
    from demur.errors import ConfigError, DataError, DemurError, ModelError, NotFound, Unavailable
    from demur.floor import check
    from demur.lm import LM, attach, load
    from demur.measure import Measurement, measure
    from demur.plan import Plan
    from demur.records import RunFolder
    from demur.residuals import capture
    from demur.types import Example, FitData, Item, Metric, ModelRef, Prompt, Response, Sampling, Verdict

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "errors",
    "DataError": "errors",
    "DemurError": "errors",
    "Direction": "directions",
    "Example": "types",
    "FitData": "types",
    "Item": "types",
    "LM": "lm",
    "Measurement": "measure",
    "Metric": "types",
    "ModelError": "errors",
    "ModelRef": "types",
    "NotFound": "errors",
    "Plan": "plan",
    "Prompt": "types",
    "Response": "types",
    "RunFolder": "records",
    "Sampling": "types",
    "Unavailable": "errors",
    "Verdict": "types",
    "attach": "lm",
    "capture": "residuals",
    "check": "floor",
    "decode": "decoding",
    "load": "lm",
    "measure": "measure",
}

__all__ = [
    "LM",
    "ConfigError",
    "DataError",
    "DemurError",
    "Direction",
    "Example",
    "FitData",
    "Item",
    "Measurement",
    "Metric",
    "ModelError",
    "ModelRef",
    "NotFound",
    "Plan",
    "Prompt",
    "Response",
    "RunFolder",
    "Sampling",
    "Unavailable",
    "Verdict",
    "attach",
    "capture",
    "check",
    "decode",
    "load",
    "measure",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'demur' has no attribute {name!r}")
    return getattr(importlib.import_module(f"demur.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
