"""What Inspect finds by demur's entry point: `demur/NAME` for every benchmark, `demur/judge`, and `demur/MODEL`."""

from __future__ import annotations

from typing import Any

from inspect_ai import Task, task
from inspect_ai.model import ModelAPI, modelapi

from demur import registry
from demur.ecosystem.inspect_tasks import judged, rates, task_of
from demur.settings import PartSpec

__all__ = ["demur", "judged", "measure", "rates"]

EXTRA = "eval"


@modelapi(name="demur")
def demur() -> type[ModelAPI]:
    """Return the model provider."""
    from demur.ecosystem.inspect_model import DemurAPI

    return DemurAPI


@task
def measure(benchmark: str | list[str] = "world", judge: str | list[str] = "") -> Task:
    """Any benchmark, as on demur's command line: `-T benchmark="xstest:limit=50"`, `-T judge=keyword`."""
    return task_of(_text(benchmark), _text(judge))


def _text(value: Any) -> str:
    """Return an argument as it was written: on the command line Inspect splits it at commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _register(name: str) -> None:
    texts = {f.name for f in registry.fields("benchmarks", name) if f.type == "str"}

    def benchmark(judge: str | list[str] = "", **settings: Any) -> Task:
        given = {key: _text(value) if key in texts else value for key, value in settings.items()}
        return task_of(PartSpec(name, given), _text(judge))

    benchmark.__doc__ = registry.summary("benchmarks", name)
    task(name=name)(benchmark)


for _name in registry.names("benchmarks"):
    _register(_name)
