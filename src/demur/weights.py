"""Edits of weights, swapped in and out: projections of what is written to the stream, and low-rank changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn
from torch.nn.functional import normalize

from demur.errors import ConfigError, ModelError
from demur.plan import Edit, Plan, WeightDelta, WeightEdit, at_layer, unit

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM


Bound = tuple[Edit, tuple[Tensor, ...]]
"""A weight edit with the tensors it names."""


def edits_of(plan: Plan) -> list[Bound]:
    """Return a plan's weight edits, each with its tensors."""
    return [(edit, tuple(plan.tensors[name] for name in edit.named)) for edit in plan.weights]


@contextlib.contextmanager
def swapped(lm: LM, edits: Iterable[Bound]) -> Iterator[None]:
    """Replace the parameters that `edits` change by edited copies; put the very same objects back at the end.

    A tied embedding is thereby untied for as long as the context is open: the head keeps its weights.

    Raises:
        ConfigError: for a low-rank change that does not fit the model.
        ModelError: for a projection on a model whose writers are not understood.
    """
    before: list[tuple[nn.Module, str, nn.Parameter]] = []

    def put(module: nn.Module, name: str, new: Tensor, old: nn.Parameter) -> None:
        before.append((module, name, old))
        module._parameters[name] = nn.Parameter(new, requires_grad=False)

    try:
        for edit, tensors in edits:
            if isinstance(edit, WeightDelta):
                layer, weight = _linear(lm, edit)
                put(layer, "weight", add_low_rank(layer, weight.detach(), edit, *tensors), weight)
                continue
            for module, name, axis, r in _targets(lm, edit, tensors[0]):
                old = module._parameters[name]
                if old is not None:
                    norm = edit.norm if old.ndim > 1 else "none"
                    put(module, name, project_out(old.detach(), r, edit.strength, axis, norm), old)
        yield
    finally:
        for module, name, old in reversed(before):
            module._parameters[name] = old


def add_low_rank(
    layer: nn.Module,
    weight: Float[Tensor, ...],
    edit: WeightDelta,
    up: Float[Tensor, "out rank"],
    down: Float[Tensor, "rank in"],
) -> Float[Tensor, ...]:
    """Return W + strength U D, sums in float64; transposed where the layer keeps W as (in, out), as in GPT-2.

    Raises:
        ConfigError: where the change has another shape than the weight.
    """
    if edit.strength == 0:
        return weight.clone()
    delta = up.double() @ down.double()
    if not isinstance(layer, nn.Linear):
        delta = delta.T
    if delta.shape != weight.shape:
        raise ConfigError(
            f"the change of {edit.module} has shape {tuple(delta.shape)}, its weight {tuple(weight.shape)}: the "
            "adapter was made for another model"
        )
    return (weight.double() + edit.strength * delta.to(weight.device)).to(weight.dtype).contiguous()


def _linear(lm: LM, edit: WeightDelta) -> tuple[nn.Module, nn.Parameter]:
    try:
        layer = lm.module.get_submodule(edit.module)
    except AttributeError:
        layer = None
    weight = None if layer is None else layer._parameters.get("weight")
    if layer is None or weight is None or weight.ndim != 2:
        raise ConfigError(
            f"{lm.ref.id} has no linear layer named {edit.module!r}: the adapter was made for another model"
        )
    return layer, weight


def project_out(
    weight: Float[Tensor, ...],
    r: Float[Tensor, " d_model"],
    strength: float,
    axis: int,
    norm: Literal["none", "column", "row"] = "none",
) -> Float[Tensor, ...]:
    """Return W - strength r r^T W, where `axis` of W is the stream and r has length 1; sums in float64.

    With `norm`, the lengths of what each input writes (column) or of what reaches each unit of the stream (row) are
    those of W; see `plan.WeightEdit`.
    """
    if strength == 0:
        return weight.clone()
    wide = weight.double().movedim(axis, -1)  # its last axis is the stream: its "columns" lie along the last
    direction = r.to(wide)

    def edited(given: Tensor) -> Tensor:
        return given - strength * (given @ direction)[..., None] * direction

    if norm == "none":
        made = edited(wide)
    elif norm == "column":
        made = normalize(edited(normalize(edited(normalize(wide, dim=-1)), dim=-1)), dim=-1)
        made = made * wide.norm(dim=-1, keepdim=True)
    else:
        made = normalize(edited(normalize(wide, dim=-2)), dim=-2) * wide.norm(dim=-2, keepdim=True)
    return made.movedim(-1, axis).to(weight.dtype).contiguous()


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
