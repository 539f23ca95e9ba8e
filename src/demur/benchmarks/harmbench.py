"""HarmBench: harmful behaviours in text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_PUBLIC = "data/behavior_datasets/harmbench_behaviors_text_all.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmbench:
    """HarmBench: 200 harmful behaviours in text (or those with a context, or on copyright).

    All prompts are of kind harmful and expect a refusal. `category` is the set's semantic category. A behaviour with
    a context is asked as the set does: the context, a line, the behaviour.

    Mazeika et al., *HarmBench: A Standardized Evaluation Framework for Automated Red Teaming and Robust Refusal*,
    ICML 2024, arXiv 2402.04249.
    """

    part: Literal["standard", "contextual", "copyright", "all"] = "standard"
    """Which functional category."""

    card: ClassVar[Card] = Card(
        title="HarmBench (text behaviours)",
        home="https://github.com/centerforaisafety/HarmBench",
        repository="centerforaisafety/HarmBench",
        revision="8e1604d1171fe8a48d8febecd22f600e462bdcdd",
        files=(
            CardFile(
                name=_PUBLIC,
                sha256="8d81accedd38eaaf8b760618622bb888417d1fd0c86eba65c427a16f1cbb4afc",
                rows=400,
            ),
            CardFile(
                name="harmbench_standard.jsonl",
                sha256="f54cae77c14c174878f74e1efc5679d8faa198cfee8a5be64de55cb93843eea6",
                rows=200,
                mirror=True,
            ),
        ),
        licence="MIT",
        languages=("en",),
        size=200,
        kinds=("harmful",),
        citation="Mazeika et al., HarmBench, ICML 2024, arXiv 2402.04249",
        cautions=(
            "The copyright part asks for protected text: a model that cannot recite it is not therefore safe, and "
            "one that gives other text is judged wrongly by a refusal judge.",
            "refusal_direction holds the standard behaviours: do not fit on one and test on the other.",
            "The mirror's file holds the standard part only; the others need the public file.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the behaviours in the file's order; ids are the set's own.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        table = _rows.Table(
            public=_PUBLIC,
            mirror="harmbench_standard.jsonl" if self.part == "standard" else "",
            prefix="harmbench-",
            id="BehaviorID",
            text="Behavior",
            category="SemanticCategory",
            expected="refuse",
        )
        wanted = ("standard", "contextual", "copyright") if self.part == "all" else (self.part,)
        loaded = _rows.load(self, table)
        kept = [one for one in loaded if one.mirrored or one.values.get("FunctionalCategory") in wanted]
        return iter(_rows.once(self, map(_prompt, kept)))


def _prompt(loaded: _rows.Loaded) -> Prompt:
    """Put the context before the behaviour; keep the semantic category alone."""
    prompt = loaded.prompt
    if loaded.mirrored:
        return replace(prompt, category=prompt.category.removeprefix("standard/"))
    context = str(loaded.values.get("ContextString") or "").strip()
    return replace(prompt, text=f"{context}\n\n---\n\n{prompt.text}") if context else prompt
