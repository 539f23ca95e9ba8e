"""Rebuild the table of `docs/export.md` from the exporters: `PYTHONPATH=. python docs/build_export.py`.

Every architecture of the test suite meets every exporter but `prefix`, which holds texts alone; weights are random.
`--check` writes nothing and exits 1 when the page is out of date.
"""

# ruff: noqa: T201
from __future__ import annotations

import sys
from pathlib import Path

from tests.models.families import FAMILIES, lm
from tests.models.test_interventions import adapter, direction

from demur import registry
from demur.errors import ConfigError
from demur.interventions.ablate import Ablate
from demur.interventions.steer import Steer
from demur.plan import Plan

PAGE = Path(__file__).with_name("export.md")
START, END = "<!-- table: made by docs/build_export.py -->", "<!-- end of table -->"
KINDS = {
    "ablate": lambda m: Ablate(direction=direction(m)),
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
}
"""What stands in a refusal, and its short form in the table."""


def finding(exporter: object, model: object, plan: Plan) -> str:
    """Return `exact`, or why not in two words."""
    try:
        exporter.refuse(model, plan)  # type: ignore[attr-defined]
    except ConfigError as error:
        return "no: " + next(short for words, short in WHY.items() if words in str(error))
    return "**exact**"


def table() -> list[str]:
    """Return one row per architecture and intervention, one column per target."""
    exporters = {name: registry.find("export", name)() for name in registry.names("export") if name != "prefix"}
    heads = [name.replace("_", "-") for name in exporters]
    lines = [f"| architecture | intervention | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for family in FAMILIES:
        model = lm(family)
        for kind, make in KINDS.items():
            cells = [finding(e, model, make(model).plan(model)) for e in exporters.values()]
            lines.append(f"| {family} | {kind} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Write the page, or compare it."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    made = "\n".join([head + START, "", *table(), "", END + rest.partition(END)[2]])
    if "--check" in sys.argv[1:]:
        print(f"{PAGE.name} is {'up to date' if made == text else 'out of date: run docs/build_export.py'}")
        return int(made != text)
    PAGE.write_text(made, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
