"""What a list shows of the cards: licence, size, languages, kinds, where the files come from."""

from __future__ import annotations

from dataclasses import dataclass

from demur import registry
from demur.types import Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One benchmark, as a table shows it."""

    name: str
    summary: str
    licence: str
    size: str
    """Number of prompts with default settings, that of the mirror's sample beside it."""
    languages: str
    kinds: str
    home: str
    card: Card


def lines() -> list[Line]:
    """Return a line for each benchmark, by name."""
    return [line(name) for name in registry.names("benchmarks")]


def line(name: str) -> Line:
    """Return what a list shows of one benchmark."""
    card: Card = registry.find("benchmarks", name).card  # type: ignore[attr-defined]
    return Line(
        name=name,
        summary=registry.summary("benchmarks", name),
        licence=card.licence,
        size=size(card),
        languages=" ".join(card.languages) or "any",
        kinds=", ".join(kind for kind in card.kinds if kind),
        home="made by demur" if card.home == "demur" else card.home,
        card=card,
    )


def size(card: Card) -> str:
    """Return the number of prompts, as `1,319 (298 in the mirror)`; `varies` where the file or the settings decide."""
    public = [file.rows for file in card.files if not file.mirror]
    whole = f"{card.size:,}" if card.size else f"up to {sum(public):,}" if public and all(public) else "varies"
    return f"{whole} ({card.sample:,} in the mirror)" if card.sample else whole
