"""Steer away from refusal where a condition says that the prompt is none of the harmful ones (CAST, inverted)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from demur.directions import pca
from demur.errors import ConfigError
from demur.interventions.gated import Gated
from demur.interventions.steer import Steer
from demur.methods._choice import choose
from demur.methods._contrast import POINT, Contrast, check_layers
from demur.plan import Gate, Probe
from demur.residuals import stream
from demur.types import Example, FitData, Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Conditional activation steering after Lee et al. (CAST, arXiv 2409.05907), inverted: less refusal if benign.

    The condition is read once per prompt, at one layer, from the mean h of all its tokens: cos(h, tanh(C h)) with C =
    c c^T / <c, c>. The condition vector c is the first principal component of refused harmful and refused borderline
    prompts' states, pointing to the harmful ones. Where the condition says borderline, h - strength * v is applied at
    the behaviour layers, to prompt and answer.

    From the paper and its code: the score, the mean over tokens, principal components, the search over layers, both
    directions and all thresholds for the best F1, several behaviour layers (15 to 23 of 32), a gate that never closes
    again. Ours: the inversion; states and edits both after the block (the released code reads after and writes before
    it); centring on the middle of the two classes, as the prompts stand in no pairs; v from last prompt tokens of
    refused borderline and answered plain prompts (the paper: from 100 refusing and complying suffixes), in lengths of
    the distance between them, so that strengths carry over between layers; all thresholds tried instead of a grid of
    width .0001; every layer searched, not the first nine; a second threshold, which opens for `quantile` of the dev
    split's harmful prompts; threshold and strength chosen on the dev split under the floor. Not offered: restoring
    norms, and rules over several conditions.
    """

    layers: tuple[int, ...] = ()
    """The blocks after which the vector is subtracted; empty: those from .47 to .75 of the depth."""
    condition_layers: tuple[int, ...] = ()
    """The blocks after which the condition may be read; empty: all."""
    thresholds: tuple[Literal["f1", "quantile"], ...] = ("f1", "quantile")
    """To choose from: of the best F1 on the fit split, or by what unseen harmful prompts score."""
    quantile: float = 0.005
    """Share of unseen harmful prompts on which the second threshold opens."""
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5)
    """To choose from, in lengths of v."""
    max_new_tokens: int = 512
    """Longest answer while choosing."""

    def __post_init__(self) -> None:
        if set(self.thresholds) - {"f1", "quantile"} or not self.thresholds or not self.strengths:
            raise ConfigError("cast: thresholds are of f1 and quantile, and at least one strength is needed")

    def fit(self, lm: LM, data: FitData) -> Gated:
        """Fit condition and behaviour on the `fit` split; choose threshold and strength on `dev`.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when a group of prompts is missing.
        """
        n = lm.n_layers
        layers = self.layers or tuple(range(round(0.47 * n), max(round(0.75 * n), round(0.47 * n) + 1)))
        places = self.condition_layers or tuple(range(n))
        check_layers(lm, (*layers, *places))
        contrast = Contrast.of(lm, data, layers=layers)
        v = pca(
            contrast.group("refused_borderline"),
            contrast.group("answered_plain"),
            layers=layers,
            model=lm.ref,
            data_sha=contrast.data_sha,
        )
        gates = dict(self._gates(lm, data, places))
        tried = {
            f"threshold {name}, strength {strength:g}": Gated(inner=Steer(direction=v, strength=-strength), gate=gate)
            for name, gate in gates.items()
            for strength in self.strengths
        }
        return choose(lm, data, tried, max_new_tokens=self.max_new_tokens)

    def _gates(self, lm: LM, data: FitData, places: tuple[int, ...]) -> Iterator[tuple[str, Gate]]:
        """Yield each kind of threshold with its gate, at the layer and in the direction of the best F1."""
        harmful = _means(lm, data.of("harmful", "fit", label="refusal", least=2), places)
        benign = _means(lm, data.of("borderline", "fit", label="refusal", least=2), places)
        best: tuple[float, Gate] | None = None
        for index, layer in enumerate(places):
            c = condition(harmful[:, index], benign[:, index])
            gate = Gate(probe=Probe(layers=(layer,), point=POINT, position="prompt"), weight=c, feature="condition")
            scores = [gate.score(x[:, index], layer)[:, 0] for x in (benign, harmful)]
            f1, threshold, rule = best_f1(*scores)
            if best is None or f1 > best[0]:
                best = f1, replace(gate, threshold=threshold, rule=rule)
        if best is None:  # cannot happen: there is a layer
            raise ConfigError("cast: no layer to read the condition at")
        gate = best[1]
        if "f1" in self.thresholds:
            yield "f1", gate
        if "quantile" in self.thresholds and gate.probe is not None:
            layer = gate.probe.layers[0]
            unseen = _means(lm, data.of("harmful", "dev", label="refusal", least=2), (layer,))[:, 0]
            share = self.quantile if gate.rule == "below" else 1 - self.quantile
            threshold = float(torch.quantile(gate.score(unseen, layer)[:, 0].double(), share))
            yield "quantile", replace(gate, threshold=threshold)


def _means(lm: LM, examples: Sequence[Example], layers: tuple[int, ...]) -> Float[Tensor, "prompt layer d_model"]:
    """Return the mean state of each prompt's tokens, sums in float64."""
    prompts: list[Prompt] = [e.prompt for e in examples]
    total = torch.zeros(len(prompts), len(layers), lm.d_model, dtype=torch.float64)
    count = torch.zeros(len(prompts), dtype=torch.float64)
    for chunk in stream(lm, prompts, layers=layers, points=POINT, positions="prompt"):
        index = chunk.prompt.cpu()
        total.index_add_(0, index, chunk.states[:, :, 0].cpu().double())
        count.index_add_(0, index, torch.ones(len(index), dtype=torch.float64))
    return (total / count[:, None, None]).float()


def condition(
    harmful: Float[Tensor, "harmful d_model"], benign: Float[Tensor, "benign d_model"]
) -> Float[Tensor, " d_model"]:
    """Return the first principal component around the middle of the two means, at length 1, towards the harmful."""
    middle = (harmful.double().mean(0) + benign.double().mean(0)) / 2
    centred = torch.cat([harmful, benign]).double() - middle
    axis = torch.linalg.svd(centred, full_matrices=False)[2][0]
    towards = (harmful.double().mean(0) - benign.double().mean(0)) @ axis
    signed: torch.Tensor = axis if towards >= 0 else -axis
    return signed.float()


def best_f1(
    inside: Float[Tensor, " inside"], outside: Float[Tensor, " outside"]
) -> tuple[float, float, Literal["above", "below"]]:
    """Return the best F1 of telling `inside` by a score, with the threshold and the side on which they lie.

    Thresholds are the middles between neighbouring scores; of equals the first, `below` before `above`.
    """
    scores, order = torch.cat([inside, outside]).double().sort()
    marks = (order < len(inside)).double()
    below = marks.cumsum(0)[:-1]
    taken = torch.arange(1, len(scores), dtype=torch.float64)
    ends = (scores[1:] > scores[:-1]).double()  # no threshold parts equal scores
    found: list[tuple[float, float, Literal["above", "below"]]] = []
    sides: tuple[tuple[Literal["above", "below"], Tensor, Tensor], ...] = (
        ("below", below, taken),
        ("above", len(inside) - below, len(scores) - taken),
    )
    for rule, hits, fired in sides:
        f1 = 2 * hits / (fired + len(inside)) * ends
        at = int(f1.argmax())
        found.append((float(f1[at]), float((scores[at] + scores[at + 1]) / 2), rule))
    return max(found, key=lambda one: one[0])
