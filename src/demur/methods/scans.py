"""Steer each prompt away from refusal or towards it, as its own states say after a word of assent (SCANS)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from demur.directions import Direction
from demur.errors import ConfigError
from demur.files import fingerprint
from demur.interventions.signed_steer import SignedSteer
from demur.mean_differences import difference
from demur.methods import _trials
from demur.methods._contrast import check_layers
from demur.methods._trials import Trial
from demur.plan import Gate, Probe
from demur.residuals import capture
from demur.types import ATTACK, Example, FitData, Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM
    from demur.plan import Intervention

EXTRA = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scans:
    """Steer benign prompts away from refusal and harmful ones towards it (SCANS, Cao et al., arXiv 2408.11491).

    v = normalise(mean(harmful) - mean(harmless)) of the stream after each block, at the last prompt token. A probe
    reads the prompt followed by `cue`: t = h(last prompt token) - h(cue), compared with d, the mean t of harmful
    anchors: score = mean over layers of cos(t, d). At or above the threshold +strength v is added, below it
    -strength v, from the end of the user's message on, the answer included.

    From the paper and its code: the vectors, the score, 64 + 64 anchors, the middle third of the layers (the code
    writes 10 to 19 of 32), the probe from there to the last layer, the threshold 0.75. Ours: v is scaled to the mean
    length of the states at its layer, so that strengths are shares of it (the paper's 3.5 and 4 are lengths in two
    models); beside 0.75, thresholds are tried that this share of harmful prompts that are no anchors falls below;
    one threshold and one strength for everything, chosen on dev under the safety floor at half its margin (the
    released scripts switch them by the name of the test set); ` Sure` loses its space, since templates end in one.
    """

    layers: tuple[int, ...] = ()
    """Layers that are steered; by default the middle third."""
    strengths: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    """Strengths to choose from, in mean lengths of the states at the layer."""
    thresholds: tuple[float, ...] = (0.75,)
    """Scores to choose from, at and above which a prompt is taken for harmful."""
    quantiles: tuple[float, ...] = (0.0, 0.02, 0.1)
    """Further thresholds: those below which this share of harmful prompts lies."""
    cue: str = "Sure"
    """What the probe reads after the prompt."""
    anchors: int = 64
    """Most prompts of each kind to fit on."""
    judged: int = 4
    """Settings that answer the whole dev split."""
    max_new_tokens: int = 512
    """Longest answer there."""
    seed: int = 0
    """Of the choice of anchors."""

    def fit(self, lm: LM, data: FitData) -> Intervention:
        """Fit on the `fit` split and choose on `dev`.

        Raises:
            ConfigError: for a layer out of range, a cue without tokens, or nothing to choose from.
            DataError: when harmful or plain prompts are missing.
        """
        layers = self.layers or tuple(range(lm.n_layers // 3, max(2 * lm.n_layers // 3, lm.n_layers // 3 + 1)))
        check_layers(lm, layers)
        if not lm.chats.bare(self.cue) or not self.strengths or not (self.thresholds or self.quantiles):
            raise ConfigError("scans: give a cue that has tokens, a strength, and a threshold or a quantile")
        harmful = _shuffled(data.of("harmful", "fit", least=2), self.seed)
        plain = _shuffled(data.of("plain", "fit", label="compliance", least=2), self.seed)[: self.anchors]
        anchors, others = harmful[: self.anchors], harmful[self.anchors :]
        direction = self._direction(lm, layers, anchors, plain)
        seen = tuple(range(layers[0], lm.n_layers))
        reference = self._transitions(lm, anchors, seen).double().mean(0)
        scores = _scores(self._transitions(lm, others or anchors, seen), reference)
        trials = self._trials(direction, Probe(layers=seen, minus="last", branch=1), reference, scores)
        base = _trials.screen(lm, data, trials, _trials.openers(lm, data), self.seed)
        order = _trials.shortlist(trials, base, self.judged)
        _trials.judge(lm, data, order, self.max_new_tokens)
        chosen, why = _trials.pick(order)
        note = "" if others else "thresholds rest on the anchors themselves: there are no other harmful prompts; "
        return _trials.settle(data, trials, chosen, note + why, base=base)

    def _direction(
        self, lm: LM, layers: tuple[int, ...], harmful: Sequence[Prompt], plain: Sequence[Prompt]
    ) -> Direction:
        """Return mean(harmful) - mean(harmless) at the mean length of the states, at each layer."""
        refused, answered = (capture(lm, rows, layers=layers) for rows in (harmful, plain))
        length = torch.cat([refused, answered]).double().norm(dim=-1).mean(0)
        return Direction(
            vectors=(difference(refused, answered) * length[:, None]).float(),
            layers=layers,
            model=lm.ref,
            estimator="mean_difference",
            data_sha=fingerprint([[p.id, p.text] for p in (*harmful, *plain)]),
            stats={"harmful": len(harmful), "plain": len(plain), "lengths": length.tolist()},
        )

    def _transitions(
        self, lm: LM, prompts: Sequence[Prompt], layers: tuple[int, ...]
    ) -> Float[torch.Tensor, "prompt layer d_model"]:
        """Return h(last prompt token) - h(last token of the cue)."""
        cued = [dataclasses.replace(p, meta=(("prefill", self.cue),)) for p in prompts]
        ends, cues = (capture(lm, cued, layers=layers, positions=where) for where in ("last_prompt", "last"))
        return ends - cues

    def _trials(self, direction: Direction, probe: Probe, reference: torch.Tensor, scores: torch.Tensor) -> list[Trial]:
        quantiles = {f"q{q:g}": float(torch.quantile(scores, q)) for q in self.quantiles}
        found = {**{f"{t:g}": t for t in self.thresholds}, **quantiles}
        trials = []
        for name, threshold in found.items():
            gate = Gate(probe=probe, weight=reference.float(), feature="cosine", rule="sign", threshold=threshold)
            for strength in self.strengths:
                what = SignedSteer(direction=direction, gate=gate, cue=self.cue, strength=strength)
                facts = {"threshold": threshold, "strength": strength}
                trials.append(Trial(name=f"threshold {name} strength {strength:g}", what=what, facts=facts))
        return trials


def _scores(transitions: torch.Tensor, reference: torch.Tensor) -> Float[torch.Tensor, " prompt"]:
    """Return the mean over layers of cos(t, d), as the gate does."""
    return torch.nn.functional.cosine_similarity(transitions, reference.float()[None], dim=-1).mean(-1)


def _shuffled(rows: Sequence[Example], seed: int) -> list[Prompt]:
    """Return the prompts in an order drawn by the seed; attacked ones come last."""
    chosen = [row.prompt for row in rows]
    random.Random(seed).shuffle(chosen)
    return sorted(chosen, key=lambda p: p.category.startswith(ATTACK))
