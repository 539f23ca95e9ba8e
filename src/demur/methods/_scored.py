"""Benign prompts by how surely they are refused: the vectors between them, and which layers carry the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from demur.directions import Direction
from demur.errors import DataError
from demur.files import fingerprint
from demur.mean_differences import Estimator, difference, mean, orthogonal, weights
from demur.states import states as captured
from demur.types import FitData, ModelRef, Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

LEAST_NEUTRAL = 10
"""Neutral prompts below which their mean is not used."""
DEEPEST = 0.05
"""Share of the deepest layers that are never steered."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """Prompts with their refusal confidence and their states after every block, at the last prompt token."""

    prompts: tuple[Prompt, ...]
    scores: Float[torch.Tensor, " prompt"]
    states: Float[torch.Tensor, "prompt layer d_model"]
    neutral: float
    """Prompts within this of 0 are neither refused nor answered."""
    sha: str

    @classmethod
    def of(cls, lm: LM, known: Sequence[tuple[Prompt, float]], split: str, neutral: float) -> Scored:
        """Capture the states.

        Raises:
            DataError: with fewer than two refused or fewer than two answered prompts.
        """
        scores = torch.tensor([c for _, c in known], dtype=torch.float64)
        refused, answered = int((scores > neutral).sum()), int((scores < -neutral).sum())
        if refused < 2 or answered < 2:
            raise DataError(
                f"{refused} benign prompts of the {split} split are surely refused and {answered} surely answered; "
                "two of each are needed. Add benchmarks with more of them, or lower `neutral`."
            )
        prompts = tuple(p for p, _ in known)
        states = captured(
            lm, prompts, layers=tuple(range(lm.n_layers)), points=("resid_post",), positions="last_prompt"
        )
        sha = fingerprint([[p.id, p.text, c] for p, c in known])
        return cls(prompts=prompts, scores=scores, states=states, neutral=neutral, sha=sha)

    def counts(self, neutral: float) -> dict[str, int]:
        """Return how many prompts are refused, answered and neutral."""
        refused, answered = int((self.scores > neutral).sum()), int((self.scores < -neutral).sum())
        return {"refused": refused, "answered": answered, "neutral": len(self.scores) - refused - answered}

    def refused(self, most: int) -> list[tuple[Prompt, float]]:
        """Return the first prompts that are surely refused, with their confidence."""
        found = [(p, float(c)) for p, c in zip(self.prompts, self.scores, strict=True) if c > self.neutral]
        return found[:most]


def directions(
    data: Scored, estimator: Estimator, *, ridge: float, relative: bool
) -> tuple[Float[torch.Tensor, "layer d_model"], Float[torch.Tensor, "layer d_model"]]:
    """Return a unit vector per layer towards refusal, and the origin: the neutral mean, or the classes' middle."""
    high, low = data.scores > data.neutral, data.scores < -data.neutral
    between = ~(high | low)
    refused, answered = data.states[high], data.states[low]
    weight = (weights(data.scores[high]), weights(data.scores[low]))
    middle = (mean(refused) + mean(answered)) / 2
    origin = mean(data.states[between]) if int(between.sum()) >= LEAST_NEUTRAL else middle
    made = difference(refused, answered, estimator, weight=weight, origin=origin, ridge=ridge, relative=relative)
    return made, origin


def without_true_refusal(
    lm: LM, data: FitData, vectors: Float[torch.Tensor, "layer d_model"], share: float
) -> Float[torch.Tensor, "layer d_model"]:
    """Return the vectors less (a share of) what they have along harmful less answered plain prompts, at length 1."""
    groups = (data.of("harmful", "fit", label="refusal", least=2), data.of("plain", "fit", label="compliance", least=2))
    harmful, plain = (
        captured(
            lm,
            [e.prompt for e in rows],
            layers=tuple(range(lm.n_layers)),
            points=("resid_post",),
            positions="last_prompt",
        )
        for rows in groups
    )
    return torch.nn.functional.normalize(orthogonal(vectors, mean(harmful) - mean(plain), share), dim=-1, eps=1e-300)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layers:
    """What each layer's vector is worth: how far to go along it, and how well it tells refused from answered."""

    vectors: Float[torch.Tensor, "layer d_model"]
    origin: Float[torch.Tensor, "layer d_model"]
    up: tuple[float, ...]
    """Scale of positive strengths."""
    down: tuple[float, ...]
    """Scale of negative strengths."""
    scores: tuple[float, ...]

    def ranked(self) -> list[int]:
        """Return the layers from the best on, the deepest 5 % left out."""
        count = len(self.scores) - int(DEEPEST * len(self.scores))
        return sorted(range(count), key=lambda i: (-self.scores[i], i))

    def steering(
        self, layers: tuple[int, ...], alpha: float, model: ModelRef, sha: str, estimator: str
    ) -> tuple[Direction, Direction]:
        """Return s v and the origin at some layers, s for the sign of the strength."""
        scale = torch.tensor(self.up if alpha > 0 else self.down, dtype=torch.float64)
        index = list(layers)

        def made(rows: torch.Tensor, name: str) -> Direction:
            return Direction(vectors=rows[index].float(), layers=layers, model=model, estimator=name, data_sha=sha)

        return made(self.vectors * scale[:, None], estimator), made(self.origin, "neutral mean")

    def record(self) -> list[dict[str, Any]]:
        """Return the numbers of each layer as JSON values."""
        rows = zip(self.scores, self.up, self.down, strict=True)
        return [{"layer": i, "score": s, "up": u, "down": d} for i, (s, u, d) in enumerate(rows)]


def layers(
    held: Scored,
    vectors: Float[torch.Tensor, "layer d_model"],
    origin: Float[torch.Tensor, "layer d_model"],
    *,
    centred: bool,
) -> Layers:
    """Return scales and scores of every layer on held-out prompts (arXiv 2512.16602).

    With p = <h, v> (<h - o, v> where `centred`): up = |Q.95(p) / Q.95(c)| over c > 0, down = |Q.05(p) / Q.05(c)| over
    c < 0, 1 where there is none; score = Pearson(p, c) - sqrt(mean(c^2 where p and c differ in sign, else 0)).
    """
    states = held.states.double() - (origin if centred else 0.0)
    along = (states * vectors).sum(-1)
    c = held.scores
    return Layers(
        vectors=vectors,
        origin=origin,
        up=tuple(_scale(p[c > 0], c[c > 0], 0.95) for p in along.T),
        down=tuple(_scale(p[c < 0], c[c < 0], 0.05) for p in along.T),
        scores=tuple(_score(p, c) for p in along.T),
    )


def _scale(p: torch.Tensor, c: torch.Tensor, q: float) -> float:
    if not len(p):
        return 1.0
    found = float((torch.quantile(p, q) / torch.quantile(c, q)).abs())
    return found if 0 < found < float("inf") else 1.0


def _score(p: torch.Tensor, c: torch.Tensor) -> float:
    r = float(torch.corrcoef(torch.stack([p, c]))[0, 1])
    wrong = torch.where(torch.sign(p) != torch.sign(c), c, torch.zeros_like(c))
    score = r - float(wrong.square().mean().sqrt())
    return score if score == score else float("-inf")
