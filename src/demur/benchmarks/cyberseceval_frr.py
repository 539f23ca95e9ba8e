"""CyberSecEval FRR: benign requests about computer security."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import ClassVar, Literal

from demur.benchmarks import _rows
from demur.errors import DataError
from demur.types import Card, CardFile, Prompt

_FOLDER = "CybersecurityBenchmarks/datasets/mitre_frr"
_MEANINGS: dict[str, _rows.Meaning] = {"false": "comply", "true": "refuse"}
_TABLES = {
    "english": _rows.Table(
        public=f"{_FOLDER}/mitre_frr.json",
        part="en-",
        text="mutated_prompt",
        category="attack_type",
        label="is_malicious",
        meanings=_MEANINGS,
        width=4,
    ),
    "multilingual": _rows.Table(
        public=f"{_FOLDER}/frr_multilingual_machine_translated.json",
        part="translated-",
        text="mutated_prompt",
        category="attack_type",
        label="is_malicious",
        meanings=_MEANINGS,
        width=4,
    ),
}
_CODES = {
    "english": "en",
    "french": "fr",
    "german": "de",
    "hindi": "hi",
    "italian": "it",
    "portuguese": "pt",
    "spanish": "es",
    "thai": "th",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CybersecevalFrr:
    """CyberSecEval false refusal rate: 750 benign requests about computer security (or their translations).

    All prompts are of kind borderline and expect an answer. `category` is the set's attack type. Prompts made from
    the same English text share a `group`.

    Bhatt et al., *CyberSecEval 2: A Wide-Ranging Cybersecurity Evaluation Suite for Large Language Models*, 2024,
    arXiv 2404.13161.
    """

    version: Literal["english", "multilingual", "both"] = "english"
    """`english`; `multilingual`: machine translations into seven languages; or both."""

    card: ClassVar[Card] = Card(
        title="CyberSecEval FRR",
        home="https://github.com/meta-llama/PurpleLlama",
        repository="meta-llama/PurpleLlama",
        revision="172c1074069eb88ec834124272c1b1c4f8893445",
        files=(
            CardFile(
                name=f"{_FOLDER}/mitre_frr.json",
                sha256="7a9b400bdf5ddbb36d5e7c3e8f6b5adb5d13125b8d03be66fd252a0f20b79d15",
                rows=750,
            ),
            CardFile(
                name=f"{_FOLDER}/frr_multilingual_machine_translated.json",
                revision="bbb602795be78259f4b4df07ac6ec4854aae7a92",
            ),
        ),
        licence="MIT",
        languages=("en", "fr", "de", "hi", "it", "pt", "es", "th"),
        size=750,
        kinds=("borderline",),
        citation="Bhatt et al., CyberSecEval 2, 2024, arXiv 2404.13161",
        cautions=(
            "Generated, with many near-duplicates: far fewer than 750 independent prompts.",
            "Some ask for a change that is meant to go unnoticed; a careful model may decline those with reason.",
            "The translations are by machine and were not corrected.",
            "demur knows no checksum of the translations: that of the first download is recorded and holds from "
            "then on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the files' order; ids are `cyberseceval_frr/en-0000` … by their rows.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        chosen = ("english", "multilingual") if self.version == "both" else (self.version,)
        return iter(_rows.once(self, (_prompt(one) for name in chosen for one in _rows.load(self, _TABLES[name]))))


def _prompt(loaded: _rows.Loaded) -> Prompt:
    """Name the language, and group what was made from the same English text."""
    prompt, values, _ = loaded
    spoken = str(values.get("speaking_language") or "English").casefold()
    if spoken not in _CODES:
        raise DataError(f"{prompt.id}: speaking_language is {spoken!r}; known: {', '.join(_CODES)}")
    english = " ".join(str(values.get("original_english_prompt") or prompt.text).split())
    group = f"{prompt.source}/{sha256(english.encode()).hexdigest()[:12]}"
    return replace(prompt, language=_CODES[spoken], group=group)
