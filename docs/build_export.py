"""Rebuild the tables of `docs/export.md` from the exporters: `python docs/build_export.py`.

Every architecture of the test suite meets every exporter but `prefix`, which holds texts alone; then every method is
fitted on a small Llama, and what it gives meets every exporter. Weights are random. `--check` writes nothing and exits
1 when the page is out of date.
"""

# ruff: noqa: T201, E402
from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().with_name("export.md")
sys.path[:0] = [str(PAGE.parents[1]), str(PAGE.parents[1] / "src")]

from tests.models import test_methods
from tests.models.families import FAMILIES, lm
from tests.models.test_interventions import abliterate, adapter, direction

from demur import registry
from demur.errors import ConfigError, ModelError
from demur.interventions.ablate import Ablate
from demur.interventions.steer import Steer
from demur.interventions.wrapped import Wrapped
from demur.plan import Plan
from demur.settings import PartSpec, build

START, END = "<!-- {}: made by docs/build_export.py -->", "<!-- end of {} -->"
KINDS = {
    "ablate": lambda m: Ablate(direction=direction(m)),
    "abliterate": lambda m: abliterate(m, 1.0),
    "steer": lambda m: Steer(direction=direction(m), layer=1),
    "adapter": lambda m: adapter(m, 1.0),
}
WHY = {
    "no bias slot": "no bias slot",
    "post-norm": "post-norm",
    "through experts": "experts",
    "all its experts in one tensor": "experts",
    "depends on the state": "not additive",
    "changes weights": "weights",
    "keeps the lengths": "keeps lengths",
    "mixes logits": "two readings",
    "is gated": "gated",
    "the state of another token": "another state",
    "edits the residual stream": "not a text",
    "puts a system text": "a text",
}
"""What stands in a refusal, and its short form in the table."""


def finding(exporter: Any, model: Any, plan: Plan) -> str:
    """Return `exact`, or why not in a few words."""
    try:
        exporter.refuse(model, plan)
    except (ConfigError, ModelError) as error:
        return "no: " + next(short for words, short in WHY.items() if words in str(error))
    return "**exact**"


def exporters() -> dict[str, Any]:
    """Return every exporter by the name that `--to` takes."""
    return {name.replace("_", "-"): registry.find("export", name)() for name in registry.names("export")}


def architectures() -> list[str]:
    """Return one row per architecture and intervention, one column per target."""
    targets = {name: one for name, one in exporters().items() if name != "prefix"}
    lines = [f"| architecture | intervention | {' | '.join(targets)} |", "|---" * (2 + len(targets)) + "|"]
    for family in FAMILIES:
        model = lm(family)
        for kind, make in KINDS.items():
            cells = [finding(e, model, make(model).plan(model)) for e in targets.values()]
            lines.append(f"| {family} | {kind} | {' | '.join(cells)} |")
    return lines


def given_by(method: str, model: Any) -> Any:
    """Return what a method gives on a model of random weights."""
    if method == "ignore_words":  # finds no word there
        return Wrapped(name="ignore_words", settings={"words": ("kill",)})
    with tempfile.TemporaryDirectory() as folder:
        data = replace(test_methods.data(), out=Path(folder))
        return build("methods", PartSpec(method, test_methods.settings(method))).fit(model, data)


def methods() -> list[str]:
    """Return one row per method, one column per target."""
    targets, model = exporters(), lm("llama")
    lines = [f"| method | gives | {' | '.join(targets)} |", "|---" * (2 + len(targets)) + "|"]
    for method in registry.names("methods"):
        what = given_by(method, model)
        if isinstance(what, Wrapped):
            cells = ["no: rewrites prompts"] * len(targets)
        else:
            cells = [finding(e, model, what.plan(model)) for e in targets.values()]
        held = " (for comparison only: not exported)" if registry.comparison_only("methods", method) else ""
        lines.append(f"| `{method}`{held} | {type(what).__name__.lower()} | {' | '.join(cells)} |")
    return lines


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    for name, made in (("table", architectures()), ("methods", methods())):
        start, end = START.format(name), END.format(name)
        head, _, rest = text.partition(start)
        text = "\n".join([head + start, "", *made, "", end + rest.partition(end)[2]])
    return text


def main() -> int:
    """Write the page, or compare it."""
    text = PAGE.read_text(encoding="utf-8")
    made = page(text)
    if "--check" in sys.argv[1:]:
        print(f"{PAGE.name} is {'up to date' if made == text else 'out of date: run docs/build_export.py'}")
        return int(made != text)
    PAGE.write_text(made, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
