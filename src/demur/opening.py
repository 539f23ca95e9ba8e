"""AdaCD by prefix: the first tokens of an answer chosen from a server's log-probabilities, to be continued as usual.

The formula of AdaCD (Qi et al., arXiv 2604.17132) needs differences of logits alone, and log-probabilities have the
same. So a server that names the likeliest next tokens with their log-probabilities, and continues a begun answer, can
be asked twice per token: once plainly, once told to refuse. What the two wrote together is then the beginning of an
ordinary request. The form is ours.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

K = TypeVar("K")
Likeliest = Mapping[str, float]
"""Next tokens as text, with their log-probabilities: the likeliest ones."""
Ask = Callable[[bool, str], Awaitable[Likeliest]]
"""Asks what comes next: whether told to refuse, and the answer so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The beginning of an answer."""

    tokens: tuple[str, ...]
    ended: bool = False
    """Whether the answer ends there."""
    guessed: int = 0
    """Tokens that were chosen without knowing all the log-probabilities that could matter."""

    @property
    def text(self) -> str:
        """The beginning, as it stands in the answer."""
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The next token, and whether everything that could matter was known."""

    token: str
    known: bool


def choose(plain: Likeliest, told: Likeliest, *, alpha: float, agreement: float, plausible: float) -> Choice:
    """Return the token that AdaCD chooses.

    Args:
        plain: the likeliest tokens of the conversation as it is.
        told: those of the one told to refuse. A token that is missing is taken to be as likely as the least of them.
        alpha: how far the difference is taken.
        agreement: lambda of the paper, above .5.
        plausible: beta of the paper: tokens less likely than this share of the likeliest are left out.
    """
    mix, agreed = (alpha, 1 - alpha), (-alpha, 1 + alpha)
    token = mixed(plain, told, mix=mix, agreed=agreed, agreement=agreement, plausible=plausible)
    bound = _bound(plain, plausible)
    known = all(token in told for token, z in plain.items() if z >= bound) and min(plain.values()) < bound
    return Choice(token=token, known=known)


def mixed(
    plain: Mapping[K, float],
    told: Mapping[K, float],
    *,
    mix: tuple[float, float],
    agreed: tuple[float, float] | None = None,
    agreement: float = 0.9,
    plausible: float = 0.0,
) -> K:
    """Return the likeliest token under a z + b z*, as `demur.mixing.Logits` has it, from the listed tokens alone.

    Args:
        plain: log-probabilities of the likeliest next tokens, z.
        told: those of the other side, z*. A token that is missing is taken to be as likely as the least of them.
        mix: (a, b).
        agreed: (a, b) where the sides agree; None: as elsewhere.
        agreement: how much they must agree.
        plausible: tokens less likely than this share of the likeliest are left out.
    """
    star, best = max(told, key=told.__getitem__), max(plain.values())
    rank = 1 + sum(z > plain.get(star, -math.inf) for z in plain.values())
    agree = 1 / rank >= agreement and best >= math.log(agreement) + told[star]
    a, b = agreed if agree and agreed is not None else mix
    least, bound = min(told.values()), _bound(plain, plausible)
    scores = {token: a * z + b * told.get(token, least) for token, z in plain.items() if z >= bound}
    return max(scores, key=scores.__getitem__)


def _bound(plain: Mapping[Any, float], plausible: float) -> float:
    return max(plain.values()) + math.log(plausible) if plausible else -math.inf


async def opening(
    ask: Ask,
    *,
    alpha: float = 4.5,
    agreement: float = 0.9,
    plausible: float = 0.01,
    horizon: int = 10,
    stops: frozenset[str] = frozenset(),
    prefill: str = "",
) -> Opening:
    """Return the first tokens of an answer under AdaCD.

    Args:
        ask: gives the likeliest next tokens; nothing where the answer ends.
        alpha: as in the method `adacd`, like the next three.
        agreement: lambda of the paper.
        plausible: beta of the paper.
        horizon: tokens to choose at most.
        stops: tokens that end an answer, as text.
        prefill: how the answer begins already.
    """
    tokens: list[str] = []
    guessed = 0
    while len(tokens) < horizon:
        text = prefill + "".join(tokens)
        plain, told = await ask(False, text), await ask(True, text)
        if not plain or not told:
            return Opening(tokens=tuple(tokens), ended=True, guessed=guessed)
        choice = choose(plain, told, alpha=alpha, agreement=agreement, plausible=plausible)
        guessed += not choice.known
        if choice.token in stops:
            return Opening(tokens=tuple(tokens), ended=True, guessed=guessed)
        tokens.append(choice.token)
    return Opening(tokens=tuple(tokens), guessed=guessed)
