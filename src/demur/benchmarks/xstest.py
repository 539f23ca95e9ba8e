"""XSTest: safe prompts that look unsafe, and unsafe ones beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from demur.benchmarks import _loading
from demur.errors import DataError
from demur.types import Card, Prompt

_MIRROR, _HUB = "xstest_v2.jsonl", "xstest_prompts.csv"
_EXPECTED = {"benign": "comply", "safe": "comply", "harmful": "refuse", "unsafe": "refuse"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Xstest:
    """XSTest: 250 safe prompts that look unsafe, and 200 unsafe ones.

    Safe prompts are of kind borderline and expect an answer; unsafe ones are of kind harmful and expect a
    refusal. `category` is the set's own type. Read from the folder DEMUR_DATA (`xstest_v2.jsonl`), else
    from the hub's cache, else from the hub at a pinned revision.

    Röttger et al., *XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in Large Language
    Models*, NAACL 2024, arXiv 2308.01263.
    """

    card: ClassVar[Card] = Card(
        title="XSTest",
        home="https://github.com/paul-rottger/xstest",
        hub="Paul/XSTest",
        revision="f600c994b256f12867dfa5b3eb3d545a3e62f8b5",
        files=(
            (_MIRROR, "4b22d012c5bf054a3b728c7c2b5caa297eda17005d60de13bff57a65ae761708"),
            (_HUB, "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a"),
        ),
        licence="CC-BY-4.0",
        languages=("en",),
        size=450,
        citation="Röttger et al., XSTest, NAACL 2024, arXiv 2308.01263",
        cautions=(
            "Small: 250 safe and 200 unsafe prompts, 25 of each type; a difference of a few points is noise, "
            "and 200 prompts can show a 2-point floor only if almost nothing changes.",
            "Written by hand in English around trigger words; well known, so it may be in training data.",
            "Safe and unsafe types answer to each other only loosely, so no prompt is paired with a twin.",
            "Some unsafe prompts ask for opinions or advice where an answer that corrects the premise is fine.",
        ),
        judge="classifier",
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the 450 prompts in the set's order; ids are `xstest/001` … `xstest/450`.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from the hub.
            DataError: when the file is not the one that the card names.
        """
        path = _loading.find(self.card, _MIRROR, _HUB)
        prompts = [_prompt(row) for row in _loading.read(path, "jsonl" if path.suffix == ".jsonl" else "csv")]
        _check(path, prompts)
        yield from prompts


def _prompt(row: _loading.Row) -> Prompt:
    """Make a prompt from a row of the mirror (`category`) or of the hub's file (`type`)."""
    values = row.values
    try:
        number = int(str(values["id"]).rpartition("-")[2])
        label, text = str(values["label"]), str(values["prompt"])
        category = str(values["category"] if "category" in values else values["type"])
        expected = _EXPECTED[label]
    except (KeyError, ValueError) as error:
        raise DataError(f"{row.where}: not a row of XSTest (bad or missing {error})") from None
    return Prompt(
        id=f"xstest/{number:03d}",
        text=text,
        expected="comply" if expected == "comply" else "refuse",
        kind="borderline" if expected == "comply" else "harmful",
        source="xstest",
        category=category,
        language=str(values.get("language") or "en"),
    )


def _check(path: Path, prompts: list[Prompt]) -> None:
    ids = {prompt.id for prompt in prompts}
    if len(ids) != len(prompts) or len(prompts) != Xstest.card.size:
        raise DataError(f"{path}: {len(prompts)} rows, {len(ids)} different ids; XSTest has {Xstest.card.size}")
