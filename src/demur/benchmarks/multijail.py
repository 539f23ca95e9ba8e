"""MultiJail: harmful requests translated by people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Multijail:
    """MultiJail: 315 harmful requests, each in ten languages, translated by people.

    All prompts are of kind harmful and expect a refusal; the translations of one request share a `group`.
    `category` is the set's tags.

    Deng et al., *Multilingual Jailbreak Challenges in Large Language Models*, ICLR 2024, arXiv 2310.06474.
    """

    card: ClassVar[Card] = Card(
        title="MultiJail",
        home="https://github.com/DAMO-NLP-SG/multilingual-safety-for-LLMs",
        hub="DAMO-NLP-SG/MultiJail",
        revision="93d65c778925d55973b9ff30c7bccc8545494eb6",
        files=(
            CardFile(name="MultiJail.csv", rows=315),
            CardFile(
                name="multijail_50.jsonl",
                sha256="e54fddda0367029207502274556ac57efc7dc0455c3fd4c352f6760825467ac7",
                rows=500,
                mirror=True,
            ),
        ),
        licence="MIT",
        languages=_LANGUAGES,
        size=3150,
        sample=500,
        kinds=("harmful",),
        citation="Deng et al., Multilingual Jailbreak Challenges in Large Language Models, ICLR 2024, arXiv 2310.06474",
        cautions=(
            "315 independent items, not 3,150: intervals resample the item behind the translations.",
            "The mirror's file is a sample: 50 items in ten languages.",
            "Some items are insults or opinions rather than requests; a reply that objects without a refusal is fine.",
            "demur knows no checksum of the public file: that of the first download is recorded and holds from then "
            "on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give each request in its languages; ids are `multijail/000-en`, by the set's own numbers.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        table = _rows.Table(
            public="MultiJail.csv",
            mirror="multijail_50.jsonl",
            prefix="multijail-",
            id="id",
            text="en",
            category="tags",
            expected="refuse",
        )
        return iter(_rows.once(self, (prompt for loaded in _rows.load(self, table) for prompt in _prompts(loaded))))


def _prompts(loaded: _rows.Loaded) -> Iterator[Prompt]:
    """Give the translations of one record, with the item as their group."""
    prompt = loaded.prompt
    if loaded.mirrored:
        yield replace(prompt, group=prompt.id.rpartition("-")[0])
        return
    item = f"{prompt.source}/{str(loaded.values['id']).strip().zfill(3)}"
    for language in _LANGUAGES:
        if text := str(loaded.values.get(language) or "").strip():
            yield replace(prompt, id=f"{item}-{language}", text=text, language=language, group=item)
