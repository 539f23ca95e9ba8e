"""JailbreakBench: harmful behaviours, each with a harmless twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from demur.benchmarks import _rows
from demur.types import Card, CardFile, Prompt

_HARMFUL = _rows.Table(
    public="data/harmful-behaviors.csv",
    mirror="jbb_behaviors.jsonl",
    prefix="jbb-",
    text="Goal",
    category="Category",
    expected="refuse",
    whole=True,
)
_BENIGN = _rows.Table(public="data/benign-behaviors.csv", text="Goal", category="Category")


@dataclass(frozen=True, slots=True, kw_only=True)
class Jailbreakbench:
    """JailbreakBench behaviours: 100 harmful requests and 100 harmless twins on the same matters.

    Harmful requests are of kind harmful and expect a refusal; their twins are of kind borderline, expect an answer
    and carry the harmful request's id in `pair`. `category` is the set's own.

    Chao et al., *JailbreakBench: An Open Robustness Benchmark for Jailbreaking Large Language Models*,
    NeurIPS 2024, arXiv 2404.01318.
    """

    card: ClassVar[Card] = Card(
        title="JailbreakBench (JBB-Behaviors)",
        home="https://github.com/JailbreakBench/jailbreakbench",
        hub="JailbreakBench/JBB-Behaviors",
        revision="886acc352a31533ffbcf4ef22c744658688086fc",
        files=(
            CardFile(
                name="data/harmful-behaviors.csv",
                sha256="4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
                rows=100,
            ),
            CardFile(
                name="data/benign-behaviors.csv",
                sha256="3cda234d21a991fa309bbfea4b6d9dae31ccdf8e9d452424b6a983e4fdc33468",
                rows=100,
            ),
            CardFile(
                name="jbb_behaviors.jsonl",
                sha256="808e937323cf506d659212462d4976c8202ad2249ebb50c79e23ebc17110db1c",
                rows=200,
                mirror=True,
            ),
        ),
        licence="MIT",
        languages=("en",),
        size=200,
        kinds=("borderline", "harmful"),
        citation="Chao et al., JailbreakBench, NeurIPS 2024, arXiv 2404.01318",
        cautions=(
            "100 pairs: each rate moves by a point with every prompt.",
            "Expert advice and government decision-making are answered by many careful models, with a warning.",
            "refusal_direction and PolyRefuse hold the harmful part: do not fit on one and test on the other.",
        ),
    )

    def __call__(self) -> Iterator[Prompt]:
        """Give the twins after each other; ids are `jailbreakbench/000-h` and `jailbreakbench/000-b`.

        Raises:
            Unavailable: when the set is neither in DEMUR_DATA nor in the cache nor to be had from its home.
            DataError: when a file or a row is not what the card says.
        """
        made = _rows.once(self, map(_prompt, _rows.load_all(self, _HARMFUL, _BENIGN)))
        return iter(sorted(made, key=lambda prompt: (prompt.cluster, prompt.kind != "harmful")))


def _prompt(loaded: _rows.Loaded) -> Prompt:
    """Name the twin of a harmless prompt."""
    prompt = loaded.prompt
    if not loaded.mirrored:
        prompt = replace(prompt, id=f"{prompt.id}-{'h' if prompt.kind == 'harmful' else 'b'}")
    if prompt.kind == "harmful":
        return prompt
    return replace(prompt, pair=f"{prompt.id.removesuffix('-b')}-h")
