"""Suites: benchmarks that are measured together, as named lists of parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from demur.errors import ConfigError, NotFound
from demur.settings import PartSpec, parse_part, part_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named list of benchmarks."""

    name: str
    summary: str
    parts: tuple[str, ...]
    """Each as on the command line."""

    @property
    def benchmarks(self) -> tuple[PartSpec, ...]:
        """The parts, parsed."""
        return tuple(parse_part(part) for part in self.parts)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="quick",
            summary="150 prompts in thirteen languages, both axes: a first look in minutes, too few for the floor.",
            parts=(
                "xstest:limit=40",
                "or_bench:limit=20",
                "jailbreakbench:limit=30",
                "k_over_refusal:limit=10",
                "multijail:language=[ar,bn,sw,th,vi,zh],limit=20,whole=false",
                "polyrefuse:languages=[de,es,fr,ja,ru,zh],limit=30,whole=false",
            ),
        ),
        Suite(
            name="standard",
            summary="The usual English sets in full, both axes, and HarmBench under three attacks.",
            parts=(
                "xstest",
                "or_bench",
                "oktest",
                "coconot",
                "jailbreakbench",
                "harmbench",
                "strong_reject",
                "harmbench:attack=[prefill:8,refusal_suppression,role_play]",
            ),
        ),
        Suite(
            name="multilingual",
            summary="Translated and native sets, both axes, every language they have.",
            parts=("polyrefuse", "multijail", "k_over_refusal", "xstest"),
        ),
        Suite(
            name="safety",
            summary="Harmful requests, plain and under every attack, with XSTest and harmless twins beside them.",
            parts=(
                "advbench",
                "harmbench",
                "strong_reject",
                "simple_safety_tests",
                "malicious_instruct",
                "do_not_answer",
                "wildguard_test",
                "jailbreakbench",
                "jailbreakbench:attack=all",
                "xstest",
            ),
        ),
    )
}


def find(name: str, *, where: str = "") -> Suite:
    """Return a suite by name.

    Raises:
        NotFound: for an unknown name; suggests the nearest.
    """
    if name not in SUITES:
        raise NotFound("suite", name, SUITES, where=where)
    return SUITES[name]


def expanded(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a recipe's tables with `suite` replaced by its benchmarks, before those that the recipe names itself.

    Args:
        table: the recipe as written: `suite = "quick"`, or `[suite]` with a name.
        where: named in errors.

    Raises:
        NotFound: for an unknown suite; ConfigError: for a suite that is no name, or has settings.
    """
    made = dict(table)
    if "suite" not in made:
        return made
    spec = part_from(made.pop("suite"), f"[suite] of {where}")
    if spec.settings:
        found = ", ".join(spec.settings)
        raise ConfigError(f"[suite] of {where} holds {found}; a suite has no settings, list its benchmarks instead")
    own = made.get("benchmark", [])
    made["benchmark"] = [*find(spec.name, where=where).benchmarks, *(own if isinstance(own, list) else [own])]
    return made
