"""Where three classes of prompts lie: overlap of their states, and MOSR's measurements of the boundary, by layer.

All states are of the last prompt token. After Zhang et al. (arXiv 2511.19009), who say that over-refused prompts lie at
the boundary between benign and malicious ones; how they measure it is not known to us, so that every formula is ours:
a logistic probe of harmful against plain prompts of another split, and on what only looks harmful (refused and
answered apart) the share that it calls harmful, the mean margin in units of harmful prompts' own, and
t = <mean(h) - mean(plain), v> / <v, v>, v = mean(harmful) - mean(plain).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from demur.boundary import Axis
from demur.readout import Openers, find_openers
from demur.types import Prompt, Response, Verdict

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

_SWAPPED = {"refusal": "compliance", "partial_refusal": "compliance", "compliance": "refusal"}


def cosines(states: Float[Tensor, "prompt layer d_model"], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mean cosine of each pair of classes at each layer, no prompt with itself.

    Args:
        states: of the prompts.
        classes: the class of each.

    Returns:
        a row per layer and pair: `raw`, and `centred` on the mean of the classes' means, since states share a large
        common part. None where the states do not differ.
    """
    names = list(dict.fromkeys(classes))
    rows = {name: [i for i, c in enumerate(classes) if c == name] for name in names}
    made = []
    for layer in range(states.shape[1]):
        own = states[:, layer].double()
        centre = torch.stack([own[rows[name]].mean(0) for name in names]).mean(0)
        kinds = {"raw": own, "centred": own - centre}
        units = {key: torch.nn.functional.normalize(h, dim=-1) for key, h in kinds.items()}
        for i, a in enumerate(names):
            for b in names[i:]:
                values = {key: _mean_cosine(u[rows[a]], u[rows[b]], same=a == b) for key, u in units.items()}
                made.append({"layer": layer, "a": a, "b": b, **values})
    return made


def _mean_cosine(a: Tensor, b: Tensor, *, same: bool) -> float | None:
    table = a @ b.T
    count = table.numel() - (len(a) if same else 0)
    if not count or not bool(a.any()) or not bool(b.any()):
        return None
    return float((table.sum() - (table.diagonal().sum() if same else 0.0)) / count)


def positions(
    plain: Float[Tensor, "plain layer d_model"],
    harmful: Float[Tensor, "harmful layer d_model"],
    seen: Mapping[str, Float[Tensor, "prompt layer d_model"]],
) -> list[dict[str, Any]]:
    """Return probe, margin and t of each group of prompts at each layer.

    Args:
        plain: states of answered plain prompts of the fit split.
        harmful: states of refused harmful prompts of the fit split.
        seen: states of other prompts, by group; the group `toxic` gives the margin's unit.
    """
    made = []
    truth = np.array([0] * len(plain) + [1] * len(harmful))
    for layer in range(plain.shape[1]):
        both = torch.cat([plain[:, layer], harmful[:, layer]])
        if bool((both == both[0]).all()):
            continue  # the first layer's input at one and the same token
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(both.numpy(), truth)
        axis = Axis.between(harmful[:, layer], plain[:, layer])
        margins = {name: probe.decision_function(h[:, layer].numpy()) for name, h in seen.items() if len(h)}
        unit = float(margins["toxic"].mean()) if "toxic" in margins else None
        for name, margin in margins.items():
            made.append(
                {
                    "layer": layer,
                    "group": name,
                    "n": len(margin),
                    "called_harmful": float((margin > 0).mean()),
                    "margin": float(margin.mean()) / unit if unit else None,
                    "t": float(axis.coordinate(seen[name][:, layer]).mean()),
                }
            )
    return made


def openers_of(lm: LM, responses: Sequence[Response], verdicts: Sequence[Verdict]) -> dict[str, Openers]:
    """Return the openers of the model's refusals and, found alike, of its answers."""
    turned = [replace(v, label=_SWAPPED[v.label]) for v in verdicts if v.question == "refusal" and v.label in _SWAPPED]
    return {"refuse": find_openers(lm, responses, verdicts), "answer": find_openers(lm, responses, turned)}


@torch.no_grad()
def lens(
    lm: LM, prompts: Sequence[Prompt], groups: Sequence[str], openers: Mapping[str, Openers]
) -> list[dict[str, Any]]:
    """Return the mass that each layer's own state gives to opening a refusal and an answer (LogitLens), by group.

    The state after a block goes through the final norm and the head, as if the blocks above it were not there.

    Args:
        lm: the model.
        prompts: what is asked.
        groups: the group of each.
        openers: token ids by name, as `openers_of` gives them.
    """
    encoded, named = lm.encode_all(list(prompts)), np.array(groups)
    made = []
    for layer in range(lm.n_layers):
        mass: dict[str, list[float]] = {name: [] for name in openers}
        for start in range(0, len(encoded), 64):
            ids, rows, lengths = lm.batch(encoded[start : start + 64])
            hidden = lm.forward(ids, rows, last=layer)
            logits = lm.head(hidden[torch.arange(len(lengths), device=ids.device), lengths - 1])
            p = torch.softmax(logits.double(), -1)
            for name, own in openers.items():
                mass[name] += p[:, list(own.ids)].sum(-1).tolist()
        for group in dict.fromkeys(groups):
            row = {name: float(np.array(values)[named == group].mean()) for name, values in mass.items()}
            made.append({"layer": layer, "group": group, "n": int((named == group).sum()), **row})
    return made
