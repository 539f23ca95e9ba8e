"""Name the words that set refusals off, and ask the model not to be led by them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demur.causes.spans import spans, without
from demur.errors import DataError
from demur.interventions.wrapped import Wrapped
from demur.methods._choice import choose, openers_of
from demur.readout import p_refuse
from demur.screen import Screen
from demur.types import Example, FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreWords:
    """Ignore-word instructions after Yuan et al. (arXiv 2510.08158), with a list of words instead of one per prompt.

    A word sets a refusal off where the prompt without it is no longer refused (the first answer token says so). Words
    that do so in enough refused borderline prompts make the list; a prompt that holds some of them is sent with a
    sentence that names these. Only the prompt's text changes, so any endpoint will do.

    From the paper's abstract: triggers found by an explanation after the fact, and an instruction to ignore them. Ours:
    the explanation (leaving one word out; the paper compares several), one list found beforehand, so that a served
    model needs no explanation at run time, the wording, and how many words, chosen on the dev split under the floor.
    """

    prompts: int = 200
    """Refused borderline prompts that are looked at, at most."""
    least: int = 2
    """Prompts in which a word must set the refusal off."""
    share: float = 0.5
    """Of the prompts it stands in, the share in which it must do so."""
    most: tuple[int, ...] = (5, 20)
    """Lengths of the list to choose from."""
    max_new_tokens: int = 512
    """Longest answer while choosing."""

    def fit(self, lm: LM, data: FitData) -> Wrapped:
        """Find the words on the `fit` split; choose how many on `dev`.

        Raises:
            DataError: when there are no refused prompts, or no word is found.
        """
        data.of("plain", "fit", label="compliance", least=2)
        found = self.words(lm, data)
        lists = {len(found[:n]): found[:n] for n in self.most}
        tried = {f"{n} words": Wrapped(name="ignore_words", settings={"words": words}) for n, words in lists.items()}
        return choose(lm, data, tried, max_new_tokens=self.max_new_tokens)

    def words(self, lm: LM, data: FitData) -> list[str]:
        """Return the words that set refusals off, those that do so in most prompts first.

        Raises:
            DataError: when there are no refused prompts, or no word is found.
        """
        rows = data.of("borderline", "fit", label="refusal", least=2)[: self.prompts]
        openers = openers_of(lm, data)
        if openers is None:
            raise DataError("ignore_words: the answers of the examples do not show how this model begins a refusal")
        shorter = [(e, s.key, cut) for e in rows for s in spans(e.prompt.text, 1) if (cut := without(e.prompt, s))]
        probabilities = p_refuse(Screen(lm, [cut for _, _, cut in shorter]).logits(), openers).tolist()
        return self._ranked([(e, key, p) for (e, key, _), p in zip(shorter, probabilities, strict=True)])

    def _ranked(self, tried: list[tuple[Example, str, float]]) -> list[str]:
        """Rank words by the prompts in which the refusal goes with them."""
        seen: dict[str, set[str]] = defaultdict(set)
        flipped: dict[str, set[str]] = defaultdict(set)
        for example, key, probability in tried:
            seen[key].add(example.prompt.id)
            if probability < 0.5:
                flipped[key].add(example.prompt.id)
        kept = [k for k, ids in flipped.items() if len(ids) >= max(self.least, self.share * len(seen[k]))]
        if not kept:
            raise DataError(
                f"ignore_words: no word's removal ends the refusal of {self.least} of {len(seen)} words' prompts, and "
                f"of {self.share:.0%} of those it stands in; lower least or share"
            )
        return sorted(kept, key=lambda k: (-len(flipped[k]), k))
