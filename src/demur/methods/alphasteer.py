"""Steer each prompt as much as a linear map asks for, one that is near zero where nothing should change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from demur.directions import Direction, mean_difference
from demur.errors import ConfigError
from demur.files import fingerprint
from demur.interventions.mapped import Mapped
from demur.methods._choice import choose
from demur.methods._contrast import POINT, Against, check_layers
from demur.states import states as captured
from demur.types import Example, FitData

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

EXTRA = "local"
SPACE = {"shares": (0.2, 0.8), "against": ["harmful", "borderline"], "strengths": [1.0], "scale": (0.1, 2.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphasteer:
    """Null-space steering after Sheng et al. (AlphaSteer, arXiv 2506.07022): h + strength * x M, for prompt tokens.

    At each layer x is the state of the last prompt token, P projects to the null space of the prompts that must stay
    as they are (the singular vectors of their uncentred states with the smallest singular values), and M = P D is the
    ridge regression, inside that space, of the direction r on the prompts that are to change.

    The paper adds safety: benign prompts stay, harmful ones go to r (`role="refuse"`). With the roles swapped, harmful
    prompts and answered plain ones stay, and refused borderline prompts go away from r (`role="answer"`, the default).

    From the paper and its code: the formulas, no centring, the ridge of 10, shares of .3 to .6 (by layer there, one
    for all layers here), prompt tokens alone, M computed for all of them from the last one, about ten of 32 layers
    from a quarter of the depth to .6 of it. Ours: the swapped roles; strengths beyond the paper's .1 to .5, since r has
    its own length here and fewer layers act in a small model; M kept as two vectors, being of rank one; share and
    strength chosen on the dev split under the floor (in the role `refuse` nothing is chosen: the first of each is
    taken, since the choice is for answered prompts); states after block l - 1 where the paper says before block l.
    """

    role: Literal["answer", "refuse"] = "answer"
    """What the map does: free refused borderline prompts, or refuse harmful ones."""
    layers: tuple[int, ...] = ()
    """The blocks after which it acts; empty: those from .22 to .6 of the depth."""
    shares: tuple[float, ...] = (0.3, 0.45, 0.6)
    """p: shares of the dimensions that count as null space, to choose from."""
    strengths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """To choose from."""
    ridge: float = 10.0
    """lambda of the regression, in squared units of the stream."""
    against: Against = "borderline"
    """Whose refusals give r in the role `answer`; in the role `refuse` it is always the harmful prompts'."""
    max_new_tokens: int = 512
    """Longest answer while choosing."""

    def __post_init__(self) -> None:
        for share in self.shares:
            if not 0 < share < 1:
                raise ConfigError(f"alphasteer: a share of the null space is {share}; it must be between 0 and 1")
        if self.role not in ("answer", "refuse") or not self.shares or not self.strengths:
            raise ConfigError("alphasteer: role is answer or refuse, and shares and strengths need one value or more")

    def fit(self, lm: LM, data: FitData) -> Mapped:
        """Fit maps on the `fit` split and choose share and strength on `dev`.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when a group of prompts is missing.
        """
        n = len(lm.blocks)
        layers = self.layers or tuple(range(round(0.22 * n), max(round(0.6 * n), round(0.22 * n) + 1)))
        check_layers(lm, layers)
        plain = data.of("plain", "fit", label="compliance", least=2)
        harmful = data.of("harmful", "fit", least=2)
        borderline = [] if self.role == "refuse" else data.of("borderline", "fit", label="refusal", least=2)
        known = _States(lm, layers, [*plain, *harmful, *borderline])
        writes = self._writes(known, plain, harmful, borderline)
        kept, moved = (harmful + plain, borderline) if self.role == "answer" else (plain, harmful)
        reads = {s: self._reads(s, known.of(kept), known.of(moved), writes) for s in self.shares}
        sign = -1 if self.role == "answer" else 1
        tried = {
            f"share {s:g}, strength {a:g}": Mapped(reads=reads[s], writes=writes, strength=sign * a)
            for s in self.shares
            for a in self.strengths
        }
        if self.role == "refuse":
            return next(iter(tried.values()))
        return choose(lm, data, tried, max_new_tokens=self.max_new_tokens)

    def _writes(
        self, known: _States, plain: list[Example], harmful: list[Example], borderline: list[Example]
    ) -> Direction:
        """Return r = mean(refused) - mean(answered plain) at each layer."""
        rows = borderline if self.role == "answer" and self.against == "borderline" else harmful
        refused = [e for e in rows if e.label == "refusal"]
        return mean_difference(
            known.of(refused), known.of(plain), layers=known.layers, model=known.lm.ref, data_sha=known.sha
        )

    def _reads(self, share: float, kept: Tensor, moved: Tensor, like: Direction) -> Direction:
        rows = [null_space_reader(kept[:, i], moved[:, i], share, self.ridge) for i in range(kept.shape[1])]
        return Direction(
            vectors=torch.stack(rows),
            layers=like.layers,
            model=like.model,
            estimator="null_space_ridge",
            data_sha=like.data_sha,
            stats={"share": share, "ridge": self.ridge, "kept": len(kept), "moved": len(moved)},
        )


class _States:
    """The last prompt token's states of examples, by prompt."""

    def __init__(self, lm: LM, layers: tuple[int, ...], examples: list[Example]) -> None:
        self.lm, self.layers = lm, layers
        prompts = [e.prompt for e in examples]
        self.sha = fingerprint([[p.id, p.text] for p in prompts])
        self._states = captured(lm, prompts, layers=layers, points=(POINT,), positions="last_prompt")
        self._place = {p.id: i for i, p in enumerate(prompts)}

    def of(self, examples: list[Example]) -> Float[Tensor, "prompt layer d_model"]:
        return self._states[[self._place[e.prompt.id] for e in examples]]


def null_space(states: Float[Tensor, "prompt d_model"], share: float) -> Float[Tensor, "d_model k"]:
    """Return the right-singular vectors, uncentred, with the smallest singular values: a `share` of all, at least one.

    Float64; P = Q Q^T with Q what is returned.
    """
    wide = states.double()
    _, vectors = torch.linalg.eigh(wide.T @ wide)  # by rising eigenvalue
    kept: torch.Tensor = vectors[:, : max(1, round(share * wide.shape[1]))]
    return kept


def null_space_reader(
    kept: Float[Tensor, "kept d_model"], moved: Float[Tensor, "moved d_model"], share: float, ridge: float
) -> Float[Tensor, " d_model"]:
    """Return w of M = w r^T, so that a moved prompt's x M is near r, and a kept one's near 0.

    With X = H P the moved states in the null space of the kept ones, the paper's D = (X^T X + ridge P^T P)^+ X^T (1
    r^T), and M = P D. All of it lies in the space that Q spans, so with Z = H Q it is Q (Z^T Z + ridge I)^-1 Z^T 1 r^T.
    """
    q = null_space(kept, share)
    z = moved.double() @ q
    gram = z.T @ z + ridge * torch.eye(q.shape[1], dtype=torch.float64)
    solved: torch.Tensor = q @ torch.linalg.solve(gram, z.sum(0))
    return solved.float()
