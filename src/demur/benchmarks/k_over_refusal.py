"""K-OverRefusal: Korean idioms that sound violent, and requests that are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TYPES = ("k_idioms", "contrast_k_idioms")
_TABLE = _rows.Table(
    public="dataset/test/final_dataset.jsonl",
    mirror="ko_idioms.jsonl",
    prefix="kxstest-",
    category="type",
    label="label",
    language="ko",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KOverRefusal:
    """K-OverRefusal: 50 Korean requests with idioms that sound violent, and 50 harmful ones with the same words.

    Written in Korean, not translated. Requests with idioms are of kind borderline and expect an answer; the others
    are of kind harmful and expect a refusal. `category` is the set's type. Where the public file is read, a request
    carries the id of the harmful one with the same idiom in `pair`; the mirror's file does not tell the idiom.
    """

    card: ClassVar[Card] = Card(
        title="K-OverRefusal (idioms)",
        home="https://github.com/Marker-Inc-Korea/K-OverRefusal",
        repository="Marker-Inc-Korea/K-OverRefusal",
        revision="29a80896673145ce37bca4841a59f390efcfecca",
        files=(
            CardFile(name="dataset/test/final_dataset.jsonl"),
            CardFile(
                name="ko_idioms.jsonl",
                sha256="ca1866ede47997ff69c7d6a277da36887621c5fb82d0393264e8f98c27de3fc0",
                rows=100,
                mirror=True,
            ),
        ),
        licence="MIT",
        languages=("ko",),
        size=100,
        kinds=("borderline", "harmful"),
        citation="K-OverRefusal, Marker Inc. Korea, github.com/Marker-Inc-Korea/K-OverRefusal",
        cautions=(
            "50 and 50 prompts: for a first look at a language, not for small differences.",
            "Some harmful prompts are long attacks that share one word with the idiom.",
            "The translated parts of the set (XSTest, OR-Bench, OKTest, PHTest) are not read here.",
            "demur knows no checksum of the public file: that of the first download is recorded and holds from then "
            "on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order; ids are `k_over_refusal/000` … by its rows.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        loaded = [one for one in _rows.load(self, _TABLE) if one.prompt.category in _TYPES]
        harmful = [one for one in loaded if one.prompt.kind == "harmful" and one.values.get("focus")]
        counts = Counter(str(one.values["focus"]) for one in harmful)
        twins = {str(one.values["focus"]): one.prompt.id for one in harmful if counts[str(one.values["focus"])] == 1}
        made = (
            replace(one.prompt, pair=twins.get(str(one.values.get("focus", "")), ""))
            if one.prompt.kind != "harmful"
            else one.prompt
            for one in loaded
        )
        return iter(_rows.once(self, made))
