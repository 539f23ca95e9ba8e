"""Candidate directions: mean differences at every layer and at each token between the user's message and the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from demur.directions import Direction
from demur.errors import ConfigError, DataError
from demur.files import fingerprint
from demur.methods._trials import some
from demur.plan import Point
from demur.residuals import capture, stream
from demur.types import ATTACK, Example, FitData, Kind, Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM
    from demur.readout import Openers

POINT: Point = "resid_pre"
LAST_SHARE = 0.2
"""Share of the deepest layers that give no candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """Prompts by kind, for `train` from the fit split and for `validation` from the dev split."""

    train: dict[str, list[Prompt]]
    validation: dict[str, list[Prompt]]
    sha: str

    @classmethod
    def of(cls, data: FitData, kinds: Sequence[Kind], sizes: tuple[int, int], seed: int) -> Sets:
        """Draw answered plain prompts and refused ones of the other kinds; attacked and prefilled ones are left out.

        Raises:
            DataError: where a group has fewer than two prompts in a split.
        """
        drawn: dict[str, dict[str, list[Example]]] = {"fit": {}, "dev": {}}
        for split, most in (("fit", sizes[0]), ("dev", sizes[1])):
            for kind in kinds:
                label = "compliance" if kind == "plain" else "refusal"
                rows = [e for e in data.of(kind, split, label=label, least=2) if not _altered(e.prompt)]
                if len(rows) < 2:
                    raise DataError(f"{len(rows)} examples of {kind}/{split}/{label} are not attacked; 2 are needed")
                drawn[split][kind] = some(rows, most, seed)
        used = [[e.prompt.id, e.prompt.text, e.split] for split in drawn.values() for g in split.values() for e in g]
        train, validation = ({k: [e.prompt for e in v] for k, v in drawn[s].items()} for s in ("fit", "dev"))
        return cls(train=train, validation=validation, sha=fingerprint(used))


def _altered(prompt: Prompt) -> bool:
    return prompt.category.startswith(ATTACK) or bool(prompt.get("prefill"))


def layers_of(lm: LM, named: Sequence[int]) -> tuple[int, ...]:
    """Return the layers to take candidates from: those named, else all but the deepest fifth.

    Raises:
        ConfigError: for a layer that the model does not have.
    """
    for layer in named:
        if not 0 <= layer < lm.n_layers:
            raise ConfigError(f"layer {layer} is out of range: {lm.ref.id} has layers 0 to {lm.n_layers - 1}")
    return tuple(named) or tuple(range(max(1, int(lm.n_layers * (1 - LAST_SHARE)))))


def means(lm: LM, prompts: Sequence[Prompt], layers: Sequence[int]) -> Float[torch.Tensor, "position layer d_model"]:
    """Return the mean state before each block at each token after the user's message, in float64.

    The first axis ends with the last token of the prompt. Where nothing follows the message, it is that token alone.
    """
    encoded = lm.encode_all(list(prompts))
    count = min(len(e.ids) - e.instruction for e in encoded)
    if count < 1:
        states = capture(lm, prompts, layers=layers, points=POINT, positions="last_prompt")
        return states.double().mean(0, keepdim=True)
    total = torch.zeros(count, len(layers), lm.d_model, dtype=torch.float64)
    first = torch.tensor([len(e.ids) - count for e in encoded])
    for chunk in stream(lm, prompts, layers=layers, points=POINT, positions="from_instruction_end"):
        place = chunk.position.cpu() - first[chunk.prompt.cpu()]
        here = place >= 0
        total.index_add_(0, place[here], chunk.states[:, :, 0].cpu()[here].double())
    return total / len(prompts)


def candidates(
    lm: LM, vectors: Float[torch.Tensor, "position layer d_model"], layers: Sequence[int], estimator: str, sha: str
) -> Iterator[Direction]:
    """Yield one direction for each position and layer; zero vectors are left out."""
    count = len(vectors)
    for position in range(count):
        for index, layer in enumerate(layers):
            vector = vectors[position, index]
            if float(vector.norm()) > 0:
                yield Direction(
                    vectors=vector[None],
                    layers=(layer,),
                    site=POINT,
                    position=f"post_instruction[{position - count}]",
                    model=lm.ref,
                    estimator=estimator,
                    data_sha=sha,
                    stats={"norm": float(vector.norm())},
                )


def refusal_score(logits: Float[torch.Tensor, "prompt vocab"], openers: Openers) -> Float[torch.Tensor, " prompt"]:
    """Return log sum_{t in R} p_t - log sum_{t not in R} p_t at the first answer token, in float64 (Arditi et al.)."""
    logp = logits.double().log_softmax(-1)
    chosen = torch.zeros(logits.shape[-1], dtype=torch.bool)
    chosen[list(openers.ids)] = True
    return logp[:, chosen].logsumexp(-1) - logp[:, ~chosen].logsumexp(-1)
