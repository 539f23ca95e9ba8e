"""The spans that set a model's refusals of benign prompts off, and the prompts that hold one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from demur.causes.evidence import Thresholds
from demur.causes.gather import Cutting, span_effects, start
from demur.causes.spans import Looks, Swaps, spans
from demur.causes.triggers import brief, triggers
from demur.errors import DataError
from demur.files import read_lines, write_json
from demur.methods._chosen import openers
from demur.readout import REFUSALS, p_refuse
from demur.screen import Screen
from demur.types import Example, Prompt

if TYPE_CHECKING:
    from demur.lm import LM


@dataclass(frozen=True, slots=True)
class Spans:
    """Spans by language, in lower case."""

    by_language: Mapping[str, frozenset[str]]

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self.by_language.values()))

    def stand_in(self, prompt: Prompt) -> bool:
        """Say whether a prompt holds a span of its language."""
        wanted = self.by_language.get(prompt.language, frozenset())
        longest = max((len(spans(span, 1)) for span in wanted), default=0)
        return any(span.key in wanted for span in spans(prompt.text, longest))

    def write(self, path: Path) -> None:
        """Write them as JSON."""
        write_json(path, {language: sorted(own) for language, own in self.by_language.items()})

    @classmethod
    def of(
        cls,
        lm: LM,
        examples: Sequence[Example],
        *,
        looks: float,
        refused: float,
        most: int,
        cutting: Cutting | None = None,
    ) -> Spans:
        """Take spans out of refused benign prompts of the fit split, and keep those to blame.

        Args:
            lm: the model; it is asked for the first token's probability of a refusal.
            examples: with what the model did with each.
            looks: how harmful a span must look.
            refused: least share of the benign prompts with the span that is refused.
            most: refused prompts that are looked into, evenly spread.
            cutting: which spans are tried.

        Raises:
            DataError: when the fit split holds no refused benign prompt, or no span is to blame.
        """
        own = [e for e in examples if e.split == "fit" and e.label]
        benign = [e for e in own if e.prompt.expected == "comply"]
        no = [e.prompt for e in benign if e.label in REFUSALS]
        yes = [e.prompt for e in benign if e.label == "compliance"]
        if not no:
            raise DataError(f"trigger spans: none of {len(benign)} benign prompts of the fit split was refused")
        starts = openers(lm, own)
        if starts is None:
            raise DataError("trigger spans: the fit split holds no answers to find the openers of refusals in")

        def decide(prompts: Sequence[Prompt]) -> list[float | None]:
            return [float(p) for p in p_refuse(Screen(lm, prompts).logits(), starts)] if prompts else []

        asked = [no[int(i * len(no) / most)] for i in range(most)] if len(no) > most else no
        cut = cutting or Cutting(most=40)
        effects = span_effects(
            asked,
            decide,
            swaps=Swaps.of(p for p in yes if p.kind != "borderline"),
            looks=Looks.of([e.prompt for e in own], cut.longest),
            cutting=cut,
        )
        rows = [replace(start(p, filtered=False), spans=found) for p, found in zip(asked, effects, strict=True)]
        return cls._kept(brief(triggers(rows, answered=yes, refused=no, at=Thresholds())), looks, refused)

    @classmethod
    def read(cls, path: Path, *, looks: float, refused: float) -> Spans:
        """Read the brief that `demur explain triggers` wrote, and keep the spans to blame.

        Raises:
            DataError: when no span is to blame.
        """
        return cls._kept([raw for _, raw in read_lines(path)], looks, refused)

    @classmethod
    def _kept(cls, rows: Sequence[Mapping[str, object]], looks: float, refused: float) -> Spans:
        made: dict[str, set[str]] = {}
        for row in rows:
            seems, share = row.get("looks_harmful"), row.get("share_of_them_refused")
            blamed = isinstance(share, int | float) and share >= refused
            if blamed and (not isinstance(seems, int | float) or seems >= looks):
                made.setdefault(str(row["language"]), set()).add(str(row["span"]))
        if not made:
            raise DataError(
                f"trigger spans: none of {len(rows)} spans looks harmful ({looks:g} or more) and is refused in at "
                f"least {refused:g} of the benign prompts it stands in"
            )
        return cls({language: frozenset(own) for language, own in made.items()})
