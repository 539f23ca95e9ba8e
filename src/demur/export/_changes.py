"""A plan as changes of parameters, or the reason why it is none.

What a matrix writes to the stream may be projected (its weight and bias are) and shifted (its bias is). A plan that
does only this, for every token and every prompt alike, is exactly a change of weights; any other is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from demur.architectures import Half, Writer
from demur.errors import ConfigError, ModelError
from demur.plan import POINTS, Plan, Site, WeightDelta, at_layer, unit
from demur.weights import through

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

KNOWN = ("sites", "gates", "system", "logits", "weights", "tensors")
KNOWN_OF_SITE = ("op", "layers", "point", "vector", "strength", "positions", "gate")
WHY = {
    "branches": "it reads the conversation in a second way and mixes logits or decides by it",
    "soft_tokens": "it puts embeddings that are no tokens into the prompt",
}
"""Reasons against parts of a plan by name; a part without one is named as it is."""
WHY_SITE = {
    "origin": "it projects around an origin and not around zero",
    "source": "it carries the state of another token, or of the untouched model, to the token it edits",
    "keep_norm": "it gives each edited state its length back, which no fixed matrix does",
    "branches": "it acts on some readings of the conversation alone",
}
"""The same of the edits of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Project:
    """W - strength r r^T W on a writer, its bias included."""

    writer: Writer
    r: Float[Tensor, " d_model"]
    """Of length 1."""
    strength: float
    norm: Literal["none", "column", "row"] = "none"
    """Which lengths of W are kept; see `plan.WeightEdit`. The bias is edited without."""

    @property
    def module(self) -> nn.Module:
        """Whose parameters change."""
        return self.writer.module


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shift:
    """b + vector on the bias of a linear layer, which may not have one yet."""

    module: nn.Module
    vector: Float[Tensor, " d_model"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LowRank:
    """W + strength U D on a linear layer."""

    module: nn.Module
    edit: WeightDelta
    up: Float[Tensor, "out rank"]
    down: Float[Tensor, "rank in"]


Change = Project | Shift | LowRank


def refuse(target: str, why: str, advice: str = "") -> ConfigError:
    """Return the refusal of an export: what was asked, the reason, what to do instead."""
    return ConfigError(f"{target} cannot hold this intervention exactly: {why}." + (f" {advice}" if advice else ""))


def runtime_reasons(plan: Plan) -> list[str]:
    """Return why a plan is more than one fixed edit for every token, each reason in words; none where it is."""
    reasons = []
    if plan.gates or any(site.gate is not None for site in plan.sites):
        reasons.append("it is gated: whether it acts depends on the prompt")
    for name in dict.fromkeys(site.positions for site in plan.sites):
        if name != "all":
            reasons.append(f"it acts on {name} tokens alone, and weights and vectors act on all")
    for name in _beyond(plan, KNOWN):
        reasons.append(WHY.get(name, f"it uses {name}, which only demur's forward pass reads"))
    for name in dict.fromkeys(n for site in plan.sites for n in _beyond(site, KNOWN_OF_SITE)):
        reasons.append(WHY_SITE.get(name, f"an edit of the stream uses {name}, which only demur's forward pass reads"))
    return list(dict.fromkeys(reasons))


def _beyond(noun: Plan | Site, known: tuple[str, ...]) -> Iterator[str]:
    """Yield the names of fields that are none of `known` and hold something."""
    for field in dataclasses.fields(noun):
        if field.name in known:
            continue
        value = getattr(noun, field.name)
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if value is not default and not (isinstance(value, int | str | tuple | None) and value == default):
            yield field.name


def refuse_runtime(target: str, plan: Plan) -> None:
    """Refuse a plan that acts otherwise than by one fixed edit for every token of every prompt."""
    if reasons := runtime_reasons(plan):
        raise refuse(target, "; ".join(reasons), "Run it in demur, or train on answers made under it.")


def changes(lm: LM, plan: Plan, target: str) -> list[Change]:
    """Return the changes of parameters that a plan amounts to, in the order in which they act.

    Args:
        lm: the model.
        plan: what the intervention does.
        target: the name of the export, for messages.

    Raises:
        ConfigError: where the plan is no change of parameters; the message says why.
        ModelError: for a model whose writers are not understood.
    """
    refuse_runtime(target, plan)
    if plan.system is not None:
        why = "it puts a system text before the prompt, and weights hold none"
        raise refuse(target, why, "Export the text alone with --to prefix.")
    made: list[Change] = []
    for edit in plan.weights:
        if isinstance(edit, WeightDelta):
            up, down = (plan.tensors[name] for name in edit.named)
            made.append(LowRank(module=_submodule(lm, edit), edit=edit, up=up, down=down))
        elif edit.part == "embedding":
            cut = _embedding(lm, unit(at_layer(plan.tensors[edit.vector], 0)), edit.strength)
            made += [dataclasses.replace(each, norm=edit.norm) for each in cut]
        else:
            for layer in edit.layers:
                half = lm.half(edit.part)[layer]
                r = through(at_layer(plan.tensors[edit.vector], layer), half.gain)
                cut = _projections(lm, half, r, edit.strength, f"the {edit.part} of layer {layer}")
                made += [dataclasses.replace(each, norm=edit.norm) for each in cut]
    placed = [(layer, POINTS.index(site.point), site) for site in plan.sites for layer in site.layers]
    for layer, _, site in sorted(placed, key=lambda p: p[:2]):
        made += _of_site(lm, site, layer, at_layer(plan.tensors[site.vector], layer), target)
    return [c for c in made if not (isinstance(c, Project) and c.strength == 0)]


def _submodule(lm: LM, edit: WeightDelta) -> nn.Module:
    try:
        return lm.module.get_submodule(edit.module)  # type: ignore[no-any-return]
    except AttributeError:
        raise ConfigError(
            f"{lm.ref.id} has no linear layer named {edit.module!r}: the adapter was made for another model"
        ) from None


def _embedding(lm: LM, r: Tensor, strength: float) -> list[Project]:
    if not lm.anatomy.embedding:
        raise ModelError(f"{lm.ref.id}: what writes the first residual state is not understood")
    return [Project(writer=w, r=r, strength=strength) for w in lm.anatomy.embedding]


def _projections(lm: LM, half: Half, r: Tensor, strength: float, where: str) -> list[Project]:
    if not half.writers:
        raise ModelError(f"{lm.ref.id}: no matrix found that writes {where}")
    return [Project(writer=w, r=r, strength=strength) for w in half.writers]


def _of_site(lm: LM, site: Site, layer: int, vector: Tensor, target: str) -> list[Change]:
    """Return what one edit of the stream is for the weights."""
    if site.op not in ("add", "ablate", "set"):
        raise refuse(target, f"its edit {site.op!r} depends on the state it meets in a way no weight does")
    if site.strength == 0 and site.op != "set":
        return []
    made: list[Change] = []
    if site.op != "add":
        made += _ablation(lm, site, layer, vector, target)
    if site.op != "ablate" and site.strength:
        shift = (vector.double() * site.strength).float()
        made.append(Shift(module=_slot(lm, site, layer, target), vector=shift))
    return made


def _ablation(lm: LM, site: Site, layer: int, vector: Tensor, target: str) -> list[Project]:
    strength = site.strength if site.op == "ablate" else 1.0
    if site.point == "resid_pre" and layer == 0:
        return _embedding(lm, unit(vector), strength)
    if site.point in ("resid_pre", "resid_post", "norm_in"):
        why = f"it projects the stream itself at {site.point} of layer {layer}, after many parts have written to it"
        raise refuse(target, why, "Project what is written instead: the intervention `ablate` does.")
    half = lm.half("mlp" if site.point.startswith("mlp") else "attention")[layer]
    if half.gain is not None and site.point.endswith("_out"):
        why = f"{site.point} of layer {layer} stands after a post-norm, which no projection of weights reaches"
        raise refuse(target, why)
    return _projections(lm, half, unit(vector), strength, f"{site.point} of layer {layer}")


def _slot(lm: LM, site: Site, layer: int, target: str) -> nn.Module:
    """Return the linear layer whose bias would shift the stream as the site does."""
    point = site.point
    if point == "norm_in":
        raise refuse(target, f"it adds a vector to what attention reads in layer {layer} and not to the stream")
    if point == "resid_pre":
        if layer == 0:
            why = "it adds a vector before the first block, where the embedding writes, which has no bias"
            raise refuse(target, why)
        point, layer = "resid_post", layer - 1
    half = lm.half("attention" if point.startswith("attn") else "mlp")[layer]
    part = "attention" if point.startswith("attn") else "MLP"
    if half.gain is not None and not point.endswith("_write"):
        why = f"{type(lm.module).__name__} normalises what its {part} writes before it is added (post-norm), and a bias"
        raise refuse(target, f"{why} would be normalised too", "llama.cpp adds vectors after it: --to gguf-vector.")
    if len(half.writers) != 1 or half.writers[0].name != "weight":
        experts = f"the {part} of layer {layer} writes through experts, whose biases would be mixed by the router"
        raise refuse(target, experts, "llama.cpp adds vectors to the stream: --to gguf-vector.")
    return half.writers[0].module


def name_of(lm: LM, module: nn.Module) -> str:
    """Return a module's name in the model, as transformers and peft write it."""
    return str(next(name for name, found in lm.module.named_modules() if found is module))


def refuse_quantised(lm: LM, target: str) -> None:
    """Refuse a model whose weights are quantised: edits are made before quantising."""
    config = getattr(lm.module.config, "quantization_config", None)
    odd = next((n for n, p in lm.module.named_parameters() if not torch.is_floating_point(p)), "")
    small = next((n for n, p in lm.module.named_parameters() if p.is_floating_point() and p.itemsize < 2), "")
    if config is None and not odd and not small and not getattr(lm.module, "is_quantized", False):
        return
    kind = getattr(config, "quant_method", None) or (config or {}).get("quant_method", "") if config else ""
    what = f"quantised ({kind})" if kind else "quantised"
    raise refuse(
        target,
        f"the weights of {lm.ref.id} are {what}, and an edit of them would be rounded away",
        "Export from the checkpoint it was made of (--model), and quantise the result.",
    )
