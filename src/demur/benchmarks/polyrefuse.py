"""PolyRefuse: the prompts of the refusal direction paper, translated by machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_LANGUAGES = ("ar", "de", "es", "fr", "it", "ja", "ko", "ru", "zh")
_MORE = ("en", "nl", "pl", "th", "yo")
_SPLITS = ("train", "val", "test")
_PARTS = ("harmful", "harmless")


@dataclass(frozen=True, slots=True, kw_only=True)
class Polyrefuse:
    """PolyRefuse: harmful and harmless prompts, machine-translated into up to 14 languages: for fitting.

    Harmful prompts are of kind harmful and expect a refusal; harmless ones are of kind plain and expect an answer;
    the translations of one prompt share a `group`. Ids hold part, split, number and language:
    `polyrefuse/harmful-test-000-de`.

    Wang et al., *Refusal Direction is Universal Across Safety-Aligned Languages*, NeurIPS 2025, arXiv 2505.17306.
    """

    split: Literal["train", "val", "test", "all"] = "test"
    """Which split."""
    languages: tuple[str, ...] = ()
    """Language codes; empty: of the public files nine (ar de es fr it ja ko ru zh), of the mirror's file all."""

    card: ClassVar[Card] = Card(
        title="PolyRefuse",
        home="https://github.com/mainlp/Multilingual-Refusal",
        repository="mainlp/Multilingual-Refusal",
        revision="23b7e9495b97693f77b5e33f49b437626a66af1c",
        files=(
            *(
                CardFile(name=f"PolyRefuse/{part}_{split}_translated_{language}.json")
                for split in _SPLITS
                for part in _PARTS
                for language in (*_LANGUAGES, *_MORE)
            ),
            CardFile(
                name="polyrefuse_10lang.jsonl",
                sha256="c457f64894de51ffcd13f92e43d8ad7708921066e9d4ba0482c7659d178c440d",
                rows=4447,
                mirror=True,
            ),
        ),
        licence="Apache-2.0; what it translates has licences of its own, Alpaca CC-BY-NC-4.0",
        languages=(*_LANGUAGES, *_MORE),
        sample=1216,
        kinds=("plain", "harmful"),
        citation="Wang et al., Refusal Direction is Universal Across Safety-Aligned Languages, NeurIPS 2025",
        cautions=(
            "Machine translation: a refusal or an answer may follow from a wrong word.",
            "It translates the prompts of refusal_direction, JailbreakBench and HarmBench among them: do not fit on "
            "one and test on the other.",
            "The mirror's file is a sample of 10 languages (4,447 prompts, 1,216 of the test split); it has no "
            "harmless test prompts in Chinese, and English in the test split only.",
            "demur knows no checksum of the public files: that of the first download is recorded and holds from "
            "then on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts by split, part and language, in the files' order.

        Raises:
            Unavailable: when a file is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        splits = _SPLITS if self.split == "all" else (self.split,)
        tables = [
            _table(split, part, language)
            for split in splits
            for part in _PARTS
            for language in self.languages or _LANGUAGES
        ]
        made = [_prompt(loaded) for loaded in _rows.load_all(self, *tables)]
        wanted = [prompt for prompt in made if prompt.id.split("-")[1] in splits]
        if self.languages:
            wanted = [prompt for prompt in wanted if prompt.language in self.languages]
        return iter(_rows.once(self, wanted))


def _table(split: str, part: str, language: str) -> _rows.Table:
    """Return one public file; the mirror's one file holds them all."""
    return _rows.Table(
        public=f"PolyRefuse/{part}_{split}_translated_{language}.json",
        mirror="polyrefuse_10lang.jsonl",
        prefix="poly-",
        part=f"{part}-{split}-",
        text="instruction",
        category="category",
        expected="refuse" if part == "harmful" else "comply",
        benign="plain",
        language=language,
        whole=True,
    )


def _prompt(loaded: _rows.Loaded) -> Prompt:
    """Name the item behind the translations; some files keep the English text beside the translation."""
    prompt = loaded.prompt
    if loaded.mirrored:
        return replace(prompt, group=prompt.id.rpartition("-")[0])
    text = str(loaded.values.get("instruction_translated") or prompt.text).strip()
    return replace(prompt, id=f"{prompt.id}-{prompt.language}", text=text, group=prompt.id)
