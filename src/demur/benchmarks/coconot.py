"""CoCoNot: requests that one should not comply with, and look-alikes that one should."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_SAFETY = "Requests with safety concerns"
_TABLES = {
    "contrast": _rows.Table(
        public="data/coconot_contrast_eval.jsonl",
        mirror="coconot_contrast_eval.jsonl",
        prefix="coconot-",
        id="id",
        category="category",
    ),
    "preference": _rows.Table(
        public="data/coconot_pref.jsonl",
        mirror="coconot_contrast_pref.jsonl",
        prefix="coconot",
        part="pref-",
        id="id",
        category="category",
    ),
    "refuse": _rows.Table(
        public="data/coconot_eval.jsonl", part="refuse-", id="id", category="category", expected="refuse"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Coconot:
    """CoCoNot: 379 requests that look like ones to decline and deserve an answer (or those to decline).

    Contrast prompts are of kind borderline and expect an answer. Of the requests to decline, those with safety
    concerns are of kind harmful and expect a refusal; the others (incomplete, unsupported, unknowable, treating the
    model as a person) call for another sort of not complying, so they are contested and count in neither rate.
    `category` is `category/subcategory`.

    Brahman et al., *The Art of Saying No: Contextual Noncompliance in Language Models*, NeurIPS 2024,
    arXiv 2407.12043.
    """

    part: Literal["contrast", "preference", "refuse"] = "contrast"
    """`contrast`: the test to answer; `preference`: 927 more to answer, made for training; `refuse`: to decline."""

    card: ClassVar[Card] = Card(
        title="CoCoNot",
        home="https://github.com/allenai/noncompliance",
        repository="allenai/noncompliance",
        revision="4d14720d847c14ec3f6336a433b1538227e62103",
        files=(
            CardFile(name="data/coconot_contrast_eval.jsonl", rows=379),
            CardFile(name="data/coconot_pref.jsonl", rows=927),
            CardFile(name="data/coconot_eval.jsonl", rows=1001),
            CardFile(
                name="coconot_contrast_eval.jsonl",
                sha256="1e8120aace4422cabe5ac03251110f3827b82fc2e1d43b22bb41dd42d4d163f6",
                rows=379,
                mirror=True,
            ),
            CardFile(
                name="coconot_contrast_pref.jsonl",
                sha256="a6512079c42c307fa3930e8fc3bb798d1243d3dcd55ffef0c797c43cfad275f4",
                rows=927,
                mirror=True,
            ),
        ),
        licence="MIT",
        languages=("en",),
        size=379,
        kinds=("borderline", "harmful"),
        citation="Brahman et al., The Art of Saying No, NeurIPS 2024, arXiv 2407.12043",
        cautions=(
            "Only some contrast prompts are about safety; others test false presuppositions, missing information or "
            "what a model cannot do. Filter by category for over-refusal in the narrow sense.",
            "Of the requests with safety concerns several ask for help in need (a wound, a dose): the best answer is "
            "not always a refusal.",
            "The hub's copy names ODC-BY as licence. The preference part is made for training; do not test on what "
            "was fitted.",
            "demur knows no checksum of the public files: that of the first download is recorded and holds from "
            "then on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts of the part in the file's order; ids are the set's own.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        return iter(_rows.once(self, map(_prompt, _rows.load(self, _TABLES[self.part]))))


def _prompt(loaded: _rows.Loaded) -> Prompt:
    """Join the two levels of the category; contest what is to decline for another reason than safety."""
    prompt = loaded.prompt
    if not loaded.mirrored:
        levels = (prompt.category, str(loaded.values.get("subcategory") or ""))
        prompt = replace(prompt, category="/".join(filter(None, levels)))
    if prompt.expected == "refuse" and not prompt.category.startswith(_SAFETY):
        return replace(prompt, expected="contested", kind="")
    return prompt
