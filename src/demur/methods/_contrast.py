"""What steering methods fit on: the states of four groups of prompts at the last prompt token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from demur.directions import Direction, mean_difference
from demur.errors import ConfigError, DataError
from demur.files import fingerprint
from demur.plan import Gate, Point, Probe
from demur.states import states as captured
from demur.types import Example, FitData

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

POINT: Point = "resid_post"
Against = Literal["harmful", "borderline"]
Positions = Literal["all", "last_prompt"]
GROUPS: Mapping[str, tuple[str, str]] = {
    "refused_harmful": ("harmful", "refusal"),
    "answered_plain": ("plain", "compliance"),
    "refused_borderline": ("borderline", "refusal"),
    "answered_borderline": ("borderline", "compliance"),
}
"""Group name -> (prompt kind, what the model did)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contrast:
    """States of the four groups, per split, and the directions and probes that follow from them."""

    lm: LM
    layers: tuple[int, ...]
    states: Mapping[tuple[str, str], torch.Tensor]
    """(group, split) -> Float[Tensor, "prompt layer d_model"], float32 on the CPU."""
    data_sha: str
    _probes: dict[int, tuple[torch.Tensor, float]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, lm: LM, data: FitData, layers: Sequence[int] | None = None) -> Contrast:
        """Capture the states of every example whose kind and label fall in a group.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when a group that every method needs is empty.
        """
        chosen = tuple(layers) if layers is not None else tuple(range(len(lm.blocks)))
        check_layers(lm, chosen)
        rows: dict[tuple[str, str], list[Example]] = {}
        for example in data.examples:
            for group, (kind, label) in GROUPS.items():
                if (example.prompt.kind, example.label) == (kind, label):
                    rows.setdefault((group, example.split), []).append(example)
        data.of("harmful", "fit", label="refusal", least=2)
        data.of("plain", "fit", label="compliance", least=2)
        order = [(key, e) for key, examples in rows.items() for e in examples]
        states = captured(lm, [e.prompt for _, e in order], layers=chosen, points=(POINT,), positions="last_prompt")
        made = {}
        start = 0
        for key, examples in rows.items():
            made[key] = states[start : start + len(examples)]
            start += len(examples)
        sha = fingerprint([[e.prompt.id, e.prompt.text, e.label, e.split] for _, e in order])
        return cls(lm=lm, layers=chosen, states=made, data_sha=sha)

    def group(self, name: str, split: str = "fit") -> torch.Tensor:
        """Return the states of one group, shape (prompt, layer, d_model).

        Raises:
            DataError: when the group has fewer than two prompts.
        """
        states = self.states.get((name, split))
        if states is None or len(states) < 2:
            have = ", ".join(f"{g}/{s}: {len(x)}" for (g, s), x in sorted(self.states.items()))
            raise DataError(f"group {name}/{split} has fewer than two prompts; there are {have or 'none'}")
        return states

    def direction(self, against: Against = "harmful") -> Direction:
        """Return mean(refused harmful or refused borderline) − mean(answered plain), at each layer."""
        positive = self.group(f"refused_{against}")
        return mean_difference(
            positive, self.group("answered_plain"), layers=self.layers, model=self.lm.ref, data_sha=self.data_sha
        )

    def at(self, layer: int, *names: str, split: str = "fit") -> Float[torch.Tensor, "prompt d_model"]:
        """Return the states of several groups at one layer, one after the other."""
        index = self.layers.index(layer)
        return torch.cat([self.group(n, split)[:, index] for n in names])

    def gate(self, layer: int, quantile: float) -> Gate:
        """Return a gate that opens for prompts which a probe does not call harmful.

        The threshold is the `quantile` of the dev split's harmful scores, so that about that share of unseen harmful
        prompts falls on the open side.
        """
        if layer not in self._probes:
            self._probes[layer] = self._probe(layer)
        weight, bias = self._probes[layer]
        dev = self.at(layer, "refused_harmful", split="dev").double()
        threshold = float(torch.quantile(dev @ weight + bias, quantile))
        probe = Probe(layers=(layer,), point=POINT)
        return Gate(probe=probe, weight=weight.float(), bias=bias, threshold=threshold, rule="below")

    def _probe(self, layer: int) -> tuple[torch.Tensor, float]:
        """Fit a logistic regression of harmful against refused borderline states of the fit split."""
        harmful, benign = self.at(layer, "refused_harmful"), self.at(layer, "refused_borderline")
        x = torch.cat([harmful, benign]).double().numpy()
        y = np.r_[np.ones(len(harmful)), np.zeros(len(benign))]
        mean, scale = x.mean(0), x.std(0) + 1e-6
        fit = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000).fit((x - mean) / scale, y)
        weight = fit.coef_[0] / scale
        return torch.from_numpy(weight), float(fit.intercept_[0] - weight @ mean)


def check_layers(lm: LM, layers: Sequence[int]) -> None:
    """Raise ConfigError when a layer is not one of the model's."""
    for layer in layers:
        if not 0 <= layer < len(lm.blocks):
            raise ConfigError(
                f"layer {layer} is out of range: {lm.ref.id} has layers 0 to {len(lm.blocks) - 1}; choose one of these"
            )
