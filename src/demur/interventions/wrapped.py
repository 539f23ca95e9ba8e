"""Change what a model is asked, or ask it twice: a wrapper around any generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from demur.errors import ConfigError
from demur.interventions import Stock
from demur.settings import PartSpec, build
from demur.types import Generator

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.plan import Plan

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wrapped(Stock):
    """Change what a model is asked, or ask it twice: a wrapper around any generator.

    It acts on conversations and not on the model, so a served model can be measured with it too:
    `demur measure --with FOLDER --generator http:...` puts the wrapper around that generator.
    """

    name: str
    """The wrapper: a generator with a setting `generator`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its other settings."""

    def around(self, generator: Generator) -> Generator:
        """Return the wrapper around a generator.

        Raises:
            NotFound, ConfigError: for a wrapper or settings that do not exist.
        """
        return cast(Generator, build("generators", PartSpec(self.name, {**self.settings, "generator": generator})))

    def plan(self, lm: LM) -> Plan:
        """Raise ConfigError: a plan acts on one reading of a prompt and cannot word it anew or ask twice."""
        raise ConfigError(
            f"{self.name} changes the prompt's own words, which no plan can do: use it with `demur measure --with`, or "
            f"as a generator, {self.name}:generator=..."
        )
