"""Edits of the weights that write to the residual stream, swapped in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn

from demur.errors import ModelError
from demur.plan import Plan, WeightEdit, at_layer, unit

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM


def edits_of(plan: Plan) -> list[tuple[WeightEdit, Tensor]]:
    """Return a plan's weight edits, each with its tensor."""
    return [(edit, plan.tensors[edit.vector]) for edit in plan.weights]


@contextlib.contextmanager
def swapped(lm: LM, edits: Iterable[tuple[WeightEdit, Tensor]]) -> Iterator[None]:
    """Replace the parameters that `edits` change by edited copies; put the very same objects back at the end.

    A tied embedding is thereby untied for as long as the context is open: the head keeps its weights.
    """
    before: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for edit, tensor in edits:
            for module, name, axis, r in _targets(lm, edit, tensor):
                old = module._parameters[name]
                if old is None:
                    continue
                before.append((module, name, old))
                new = project_out(old.detach(), r, edit.strength, axis)
                module._parameters[name] = nn.Parameter(new, requires_grad=False)
        yield
    finally:
        for module, name, old in reversed(before):
            module._parameters[name] = old


def project_out(
    weight: Float[Tensor, ...], r: Float[Tensor, " d_model"], strength: float, axis: int
) -> Float[Tensor, ...]:
    """Return W - strength r r^T W, where `axis` of W is the stream and r has length 1; sums in float64."""
    if strength == 0:
        return weight.clone()
    wide = weight.double().movedim(axis, -1)
    direction = r.to(wide)
    edited = wide - strength * (wide @ direction)[..., None] * direction
    return edited.movedim(-1, axis).to(weight.dtype).contiguous()


def _targets(lm: LM, edit: WeightEdit, tensor: Tensor) -> Iterator[tuple[nn.Module, str, int, Tensor]]:
    anatomy = lm.anatomy
    if edit.part == "embedding":
        if not anatomy.embedding:
            raise ModelError(f"{lm.ref.id}: what writes the first residual state is not understood")
        for writer in anatomy.embedding:
            yield writer.module, writer.name, writer.axis, unit(at_layer(tensor, 0))
        return
    halves = lm.half(edit.part)
    for layer in edit.layers:
        half = halves[layer]
        if not half.writers:
            raise ModelError(f"{lm.ref.id}: no matrix found that writes the {edit.part} of layer {layer}")
        r = through(at_layer(tensor, layer), half.gain)
        for writer in half.writers:
            yield writer.module, writer.name, writer.axis, r
            if "bias" in writer.module._parameters:
                yield writer.module, "bias", 0, r


def through(vector: Float[Tensor, " d_model"], gain: Float[Tensor, " d_model"] | None) -> Float[Tensor, " d_model"]:
    """Return the unit vector to take out before a post-norm of gain g: normalise(g * r)."""
    return unit(vector if gain is None else vector.to(gain) * gain)
