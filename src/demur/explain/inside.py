"""What is read inside the model for `explain causes`: first-token refusal, a harm probe, and two directions.

Harm is read at the last instruction token, refusal at the last prompt token (after Zhao et al., arXiv 2507.11878,
who find that the two are kept apart). Their angle, and what steering each does, is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from demur import stats
from demur.boundary import LEAST_AUROC
from demur.causes.asking import wordings
from demur.causes.asking import yes as meant
from demur.directions import Direction, mean_difference, random_like
from demur.errors import DataError
from demur.interventions.steer import Steer
from demur.methods._contrast import POINT
from demur.readout import Openers, p_refuse
from demur.residuals import capture
from demur.screen import Screen
from demur.types import Example, Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

RANDOM_DIRECTIONS = 20
STRENGTHS = (-1.0, 1.0)
MOST = 150
"""Prompts of each kind that are steered."""


def instruction_states(lm: LM, prompts: Sequence[Prompt]) -> Float[torch.Tensor, "prompt layer d_model"]:
    """Return the states of every layer at the last token of the instruction."""
    rows = [e.ids[: max(e.instruction, 1)] for e in lm.encode_all(list(prompts))]
    return capture(lm, rows, points=POINT, positions="last_prompt")


@dataclass(kw_only=True)
class OpenModel:
    """One model with openers, harm probe and the two directions, fitted on labelled prompts of another split."""

    lm: LM
    openers: Openers
    layer: int
    """Where the probe reads and the directions are added."""
    harm_direction: Direction
    """mean(harmful) - mean(harmless) at the last instruction token."""
    refusal_direction: Direction
    """mean(refused) - mean(answered) at the last prompt token, over all labelled prompts."""
    probe: Pipeline
    held_out: dict[str, float | None]
    """Out-of-fold AUROC of the probe: of all harmful against all benign, and against borderline prompts alone."""
    sample: Sequence[Prompt]

    @classmethod
    def fit(
        cls,
        lm: LM,
        examples: Sequence[Example],
        openers: Openers,
        *,
        layer: int | None = None,
        borderline: bool = False,
    ) -> OpenModel:
        """Fit probe and directions.

        Args:
            lm: the model.
            examples: labelled prompts, of another split than what is explained.
            openers: the refusal openers.
            layer: where to read; None takes the layer at which the probe's out-of-fold AUROC is highest.
            borderline: whether the probe is fitted on borderline prompts too, as harmless; else only on clear cases.

        Raises:
            DataError: when harmful or harmless, refused or answered prompts are missing.
        """
        used = [e for e in examples if e.prompt.expected in ("refuse", "comply") and e.label]
        harmful = np.array([e.prompt.expected == "refuse" for e in used], dtype=bool)
        soft = np.array([e.prompt.kind == "borderline" for e in used], dtype=bool)
        refused = np.array([e.label == "refusal" for e in used], dtype=bool)
        for name, flags in (("harmful", harmful), ("harmless", ~harmful & ~soft), ("refused", refused)):
            if flags.sum() < 4 or (~flags).sum() < 4:
                raise DataError(f"the harm probe needs prompts that are {name} and others; there are {flags.sum()}")
        prompts = [e.prompt for e in used]
        at_instruction = instruction_states(lm, prompts)
        clear = np.ones(len(used), dtype=bool) if borderline else ~soft
        groups = [p.cluster for p in prompts]
        chosen, held_out = layer, {}
        areas = {}
        for n in range(lm.n_layers) if layer is None else (layer,):
            areas[n] = _out_of_fold(at_instruction[:, n].numpy(), harmful, soft, clear, groups)
        chosen = max(areas, key=lambda n: areas[n]["all"] or 0.0)
        held_out = areas[chosen]
        at_end = capture(lm, prompts, points=POINT, positions="last_prompt")
        marks = torch.tensor(harmful), torch.tensor(refused), torch.tensor(~harmful & ~soft)
        layers = tuple(range(lm.n_layers))
        harm = mean_difference(
            at_instruction[marks[0]],
            at_instruction[marks[2]],
            layers=layers,
            model=lm.ref,
            position="last_instruction",
        )
        refusal = mean_difference(at_end[marks[1]], at_end[~marks[1]], layers=layers, model=lm.ref)
        return cls(
            lm=lm,
            openers=openers,
            layer=chosen,
            harm_direction=harm,
            refusal_direction=refusal,
            probe=_probe(at_instruction[:, chosen].numpy()[clear], harmful[clear]),
            held_out=held_out,
            sample=prompts,
        )

    @property
    def unusable(self) -> str:
        """Why the probe says nothing of borderline prompts, or ""."""
        area = self.held_out["borderline"]
        if area is None:
            return "there were no borderline prompts to check the harm probe on"
        if area < LEAST_AUROC:
            return f"the harm probe's AUROC on held-out harmful and borderline prompts is {area:.2f}"
        return ""

    def first(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """Return P(refuse) at the first answer token."""
        return [float(p) for p in p_refuse(Screen(self.lm, prompts).logits(), self.openers)] if prompts else []

    def harm(self, prompts: Sequence[Prompt]) -> list[float | None]:
        """Return P(harmful) by the probe; None for all where the probe is unusable."""
        if self.unusable or not prompts:
            return [None] * len(prompts)
        states = instruction_states(self.lm, prompts)[:, self.layer].numpy()
        return [float(p) for p in self.probe.predict_proba(states)[:, 1]]

    def angles(self) -> list[float]:
        """Return the cosine of the two directions at each layer."""
        a, b = self.harm_direction.vectors.double(), self.refusal_direction.vectors.double()
        found: list[float] = torch.nn.functional.cosine_similarity(a, b, dim=-1).tolist()
        return found

    def record(self) -> dict[str, Any]:
        """Return the directions' angle, the probe's check, and what steering each does, with random controls."""
        return {
            "layer": self.layer,
            "cosine_by_layer": [round(c, 4) for c in self.angles()],
            "probe": {"held_out_auroc": self.held_out, "unusable": self.unusable},
            "steering": self.steering(),
            "openers": {"n": len(self.openers.ids), "agreement": self.openers.agreement},
        }

    def steering(self, *, seed: int = 0) -> dict[str, Any]:
        """Steer along each direction at each layer: refusal by kind, belief in harm in words, and random controls.

        Returns:
            `untouched`; `layers`, one row for each layer, direction and strength; `layer`, where subtracting the
            refusal direction lowers the refusal of borderline prompts most (the last fifth of the layers left out);
            `random`, for each direction, what random ones of equal norm do there at strength -1.
        """
        asked = self._steered()
        openers = self._yes_openers()

        def measured(direction: Direction, strength: float) -> dict[str, Any]:
            what = Steer(direction=direction, strength=strength)
            refused = {k: _share(p_refuse(s.logits(what), self.openers) > 0.5) for k, (s, _) in asked.items()}
            made: dict[str, Any] = {"refused": refused}
            if openers is not None:
                made["believed_harmful"] = {k: _yes_share(w.logits(what), *openers) for k, (_, w) in asked.items()}
            return made

        ours = {"harm": self.harm_direction, "refusal": self.refusal_direction}
        rows = [
            {"layer": layer, "direction": name, "strength": strength, **measured(direction.at(layer), strength)}
            for layer in range(self.lm.n_layers)
            for name, direction in ours.items()
            for strength in STRENGTHS
        ]
        usable = max(1, self.lm.n_layers - round(self.lm.n_layers / 5))
        less = [r for r in rows if (r["direction"], r["strength"]) == ("refusal", -1.0) and r["layer"] < usable]
        best = min(less, key=lambda r: sum(r["refused"].get(k, 0.0) for k in ("borderline", "plain")))["layer"]
        controls = {
            name: [measured(r, -1.0) for r in random_like(direction.at(best), RANDOM_DIRECTIONS, seed=seed)]
            for name, direction in ours.items()
        }
        untouched = measured(ours["refusal"].at(best), 0.0)
        return {"untouched": untouched, "layers": rows, "layer": best, "random": controls}

    def _steered(self) -> dict[str, tuple[Screen, Screen]]:
        """Return, for each kind of prompt, the prompts and the questions about their harm."""
        made = {}
        for kind in ("harmful", "borderline", "plain"):
            own = [p for p in self.sample if p.kind == kind]
            chosen = own[:: max(1, len(own) // MOST)][:MOST]
            if chosen:
                made[kind] = Screen(self.lm, chosen), Screen(self.lm, [_question(p) for p in chosen])
        return made

    def _yes_openers(self) -> tuple[list[int], list[int]] | None:
        """Return the first tokens of yes and of no in the replies this model gives, or None where it gives neither."""
        from demur.decoding import decode
        from demur.types import Sampling

        asked = [_question(p) for p in self.sample[:: max(1, len(self.sample) // 100)][:100]]
        said: dict[bool, set[int]] = {True: set(), False: set()}
        for reply in decode(self.lm, asked, Sampling(max_new_tokens=8)):
            value = meant(reply.text)
            ids = self.lm.tokenizer(reply.text, add_special_tokens=False)["input_ids"] if reply.text else []
            if value is not None and ids:
                said[value].add(int(ids[0]))
        if not said[True] or not said[False] or said[True] & said[False]:
            return None
        return sorted(said[True]), sorted(said[False])


def _question(prompt: Prompt) -> Prompt:
    return replace(prompt, text=next(wordings(prompt, "auto")), system=None, history=())


def _share(flags: torch.Tensor) -> float:
    return round(float(flags.float().mean()), 4)


def _yes_share(logits: torch.Tensor, yes: list[int], no: list[int]) -> float:
    p = torch.softmax(logits.float(), dim=-1)
    return _share(p[:, yes].sum(-1) > p[:, no].sum(-1))


def _probe(states: Any, harmful: Any) -> Pipeline:
    regression = LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced")
    return make_pipeline(StandardScaler(), regression).fit(states, harmful)


def _out_of_fold(states: Any, harmful: Any, soft: Any, clear: Any, groups: Sequence[str]) -> dict[str, float | None]:
    """AUROC of a probe fitted on clear cases of other groups."""
    score = np.zeros(len(states))
    folds = min(5, len(set(groups)))
    for train, test in GroupKFold(folds).split(states, harmful, groups):
        own = train[clear[train]]
        if harmful[own].any() and not harmful[own].all():
            score[test] = _probe(states[own], harmful[own]).decision_function(states[test])
    on_soft = harmful | soft
    return {
        "all": stats.auroc(score, harmful),
        "borderline": stats.auroc(score[on_soft], harmful[on_soft]) if soft.any() else None,
    }
