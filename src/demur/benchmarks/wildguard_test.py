"""WildGuardTest: harmful and harmless prompts, plain and adversarial, labelled by people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_TABLE = _rows.Table(
    public="test/wildguard_test.parquet",
    category="subcategory",
    label="prompt_harm_label",
    meanings={"unharmful": "comply", "harmful": "refuse", "": None},
    width=4,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WildguardTest:
    """WildGuardTest: 1,725 prompts, harmful or not, plain or adversarial, labelled by people.

    Harmless prompts are of kind borderline and expect an answer; harmful ones are of kind harmful and expect a
    refusal; those on which the annotators did not agree expect nothing and count in neither rate. `category` is the
    set's subcategory; `meta` holds `adversarial`. The answers of the set are not read.

    Gated: accept the terms on its home and set HF_TOKEN. The file is parquet: pip install pyarrow, or put a copy as
    CSV or JSONL into DEMUR_DATA.

    Han et al., *WildGuard: Open One-Stop Moderation Tools for Safety Risks, Jailbreaks, and Refusals of LLMs*,
    NeurIPS 2024, arXiv 2406.18495.
    """

    card: ClassVar[Card] = Card(
        title="WildGuardTest (prompts)",
        home="https://huggingface.co/datasets/allenai/wildguardmix",
        hub="allenai/wildguardmix",
        revision="d29c47f41c8b51348b5c8e8c81c039b3132b66d1",
        files=(CardFile(name="test/wildguard_test.parquet"),),
        licence="ODC-BY",
        access=(
            "It is gated: accept the terms on https://huggingface.co/datasets/allenai/wildguardmix and set HF_TOKEN "
            "to a token of that account."
        ),
        languages=("en",),
        size=1725,
        kinds=("borderline", "harmful"),
        citation="Han et al., WildGuard, NeurIPS 2024, arXiv 2406.18495",
        cautions=(
            "Made to test guards, not answering models: several harmless adversarial prompts are role play without a "
            "clear task.",
            "The file is parquet and needs pyarrow: pip install pyarrow.",
            "demur knows no checksum of its public file: that of the first download is recorded and holds from "
            "then on.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the prompts in the file's order; ids are `wildguard_test/0000` … by its rows.

        Raises:
            Unavailable: when the set cannot be had, or pyarrow is missing; the message says what to do.
            DataError: when a file or a row is not what the card says.
        """
        for prompt, values, _ in _rows.load(self, _TABLE):
            adversarial = str(values.get("adversarial", "")).casefold() == "true"
            yield replace(prompt, meta=(("adversarial", str(adversarial).lower()),))
