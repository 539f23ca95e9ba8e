"""Circuit breakers that also push benign prompts' refusals away from their compliant answers (X-Boundary-style)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from demur import losses
from demur.errors import DataError
from demur.interventions.adapter import Adapter
from demur.methods._passages import Texts, passages
from demur.methods._representation import Reach, Rerouted, erasing, falling, fit, reach, retaining, rising, whole
from demur.representation import Draw, Part, Passage, Read, Representation, alternate, cycle
from demur.residuals import stream
from demur.types import FitData

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class XBoundary(Rerouted):
    """Train a LoRA adapter as Circuit Breakers do, with a term for benign prompts near the boundary.

    X-Boundary-style after arXiv 2502.09990. A benign prompt with the model's refusal stands among what is erased: its
    unit states now are pushed away from the mean unit state, before, of the same prompt with a compliant answer, which
    is retained. As in the authors' release the states of the *prompt* are pushed and those of the refusal are not,
    which sits oddly with the aim; `pushed=answer` does the other.
    """

    steps: int = 180
    erase: int = 16
    """Texts to erase per update, those near the boundary among them."""
    retain: int = 16
    """Texts to retain per update: answers, refusals, and compliant answers near the boundary."""
    boundary: int = 2
    """Of the harmful texts per update, how many give way to benign ones near the boundary (500 of 3,500)."""
    pushed: Literal["prompt", "answer"] = "prompt"
    """Which states of those are pushed away."""
    slowness: float = 1.67
    """The weights shift along t / (slowness T); the release counts to 300 in 180 updates."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train on the `fit` split and choose a checkpoint on `dev`.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when there are no plain prompts that are answered, no harmful answers, or no benign prompts that
                are refused and have a compliant answer.
            ModelError: when a term is not finite.
        """
        where = reach(lm, self.layers, (10, 20))
        texts = Texts.of(data, benign=self.benign, attacked=self.attacked)
        near = [t for t in texts.refused if t.other]
        if not near:
            raise DataError(
                f"x_boundary: none of {len(texts.refused)} benign prompts that the model refuses has a compliant "
                "answer; give rows (--data) with the answer in `answer` and the refusal in `rejected`"
            )
        compliant = passages(lm, texts.answers, whole=False)
        targets = mean_units(lm, compliant, where.layers)
        kept: list[Draw] = [cycle(passages(lm, some), seed=self.seed) for some in (texts.safe, texts.refusals) if some]
        pushed = [
            dataclasses.replace(p, item=i, first=0 if self.pushed == "prompt" else p.answer)
            for i, p in enumerate(passages(lm, near))
        ]
        if self.pushed == "prompt":
            pushed = [dataclasses.replace(p, last=p.answer) for p in pushed]
        loss = self._loss(where, targets)
        return fit(lm, data, self, self._parts(lm, texts, pushed, kept), loss, where.blocks)

    def _parts(self, lm: LM, texts: Texts, pushed: list[Passage], kept: list[Draw]) -> list[Part]:
        down, up = falling(self.alpha, self.slowness), rising(self.alpha * self.retain_weight, self.slowness)
        harmful = cycle(passages(lm, texts.harmful, whole=whole(self.erased)), seed=self.seed)
        pairs = cycle(passages(lm, texts.answers))
        return [
            Part(role="erase", draw=harmful, each=self.erase - self.boundary, coefficient=down, pool="erase"),
            Part(role="boundary", draw=cycle(pushed), each=self.boundary, coefficient=down, pool="erase"),
            Part(role="retain", draw=alternate(*kept), each=self.retain - self.boundary, coefficient=up, pool="retain"),
            Part(role="pairs", draw=pairs, each=self.boundary, coefficient=up, pool="retain"),
        ]

    def _loss(self, where: Reach, targets: torch.Tensor) -> Representation:
        def pushing(read: Read) -> Any:
            now, _ = read.states(where.layers)
            return losses.away(now, targets[:, read.item].to(now.device), read.mask, tokens=read.tokens)

        keeping = retaining(where.read, self.distance)
        return Representation(
            terms={"erase": erasing(where.layers), "boundary": pushing, "retain": keeping, "pairs": keeping},
            layers=where.read,
            record={
                "loss": "rerouting, away and drift",
                "where": dataclasses.asdict(where),
                "pushed": self.pushed,
                "distance": self.distance,
            },
        )


def mean_units(lm: LM, texts: list[Passage], layers: tuple[int, ...]) -> torch.Tensor:
    """Return the mean unit state of each text, over prompt and answer: Float["layer text d_model"], on the CPU."""
    sums = torch.zeros(len(texts), len(layers), lm.d_model)
    counts = torch.zeros(len(texts))
    for chunk in stream(lm, [p.ids for p in texts], layers=layers, positions="prompt"):
        unit = F.normalize(chunk.states[:, :, 0].float(), dim=-1).cpu()
        sums.index_add_(0, chunk.prompt.cpu(), unit)
        counts.index_add_(0, chunk.prompt.cpu(), torch.ones(len(unit)))
    return (sums / counts[:, None, None]).transpose(0, 1)
