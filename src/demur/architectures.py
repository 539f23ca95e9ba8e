"""Find the parts of a decoder-only model by its structure and by watching it run, not by a list of names.

Blocks are the longest module list beside the input embedding. What attention and MLP add to the residual stream
is found by looking for two child outputs `a`, `b` of a block with `output = input + a + b`; the matrices that
write them are the linear maps whose output they are (or what a post-norm makes of it).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from demur.errors import ModelError
from demur.residuals import Call, record

if TYPE_CHECKING:
    from jaxtyping import Float

MASKED = ("attention_mask", "past_key_values", "layer_past", "past_key_value")
EXPERTS = ("down_proj", "w2", "output_linear", "down_proj_weight")
KNOWN_ATTENTION = ("full_attention", "sliding_attention")


@dataclass(eq=False)
class Writer:
    """A weight that writes to the stream: `module.name`, whose axis `axis` is d_model."""

    module: nn.Module
    name: str
    axis: int


@dataclass(eq=False)
class Half:
    """The attention or the MLP of one block."""

    added: nn.Module
    """Its output is what is added to the stream."""
    core: nn.Module
    """The module itself; its output is what the writers give, before a post-norm."""
    gain: Tensor | None = None
    """Gain of the post-norm between core and added (Float[" d_model"]), None where there is none."""
    writers: list[Writer] = field(default_factory=list)


@dataclass(eq=False)
class Frame:
    """The parts of a model that can be named without running it."""

    body: nn.Module
    """The transformer without its head."""
    owner: nn.Module
    """The module that holds the list of blocks."""
    attribute: str
    blocks: list[nn.Module]
    embedding: nn.Module
    d_model: int
    windows: tuple[int | None, ...]
    """Sliding window of each block."""
    kinds: tuple[str, ...]
    """Attention kind of each block, or () where the model takes one mask for all."""

    @contextlib.contextmanager
    def only(self, first: int, last: int, states: Tensor | None = None) -> Iterator[None]:
        """Run no block before `first` and none after `last`; let block `first` read `states`, where given."""
        if first == 0 and last == len(self.blocks) - 1:
            yield
            return
        kept = getattr(self.owner, self.attribute)
        short = [_Through(states) for _ in range(first)] + list(self.blocks[first : last + 1])
        self.owner._modules[self.attribute] = nn.ModuleList(short)
        try:
            yield
        finally:
            self.owner._modules[self.attribute] = kept


@dataclass(eq=False)
class Anatomy:
    """The parts of a model that were found by watching it run."""

    attention: list[Half]
    mlp: list[Half]
    embedding: list[Writer]
    """What writes resid_pre[0]; empty where that is not understood."""
    problem: str = ""
    """Why `attention` and `mlp` are empty, where they are."""


class _Through(nn.Module):
    """Stands for a block that is not run."""

    def __init__(self, states: Tensor | None) -> None:
        super().__init__()
        self.states = states

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states if self.states is None else self.states


def frame(module: nn.Module) -> Frame:
    """Find body, blocks and embedding of a causal language model.

    Raises:
        ModelError: when the module has no list of blocks beside its input embedding, or attends in a way that
            demur cannot mask (chunked or linear attention).
    """
    config: Any = getattr(module, "config", None)
    text = config.get_text_config() if config is not None else None
    count = getattr(text, "num_hidden_layers", None)
    find: Any = getattr(module, "get_input_embeddings", None)
    embedding = find() if find is not None else None
    if text is None or count is None or not isinstance(embedding, nn.Module):
        raise ModelError(f"{type(module).__name__} is not understood: no input embedding or no number of layers")
    body, owner, name = _body(module, embedding, count)
    blocks = list(getattr(owner, name))
    kinds = tuple(getattr(text, "layer_types", None) or ())[:count]
    odd = sorted(set(kinds) - set(KNOWN_ATTENTION))
    if odd:
        raise ModelError(f"{type(module).__name__} uses {odd[0]}; demur masks {', '.join(KNOWN_ATTENTION)} only")
    window = getattr(text, "sliding_window", None)
    sliding = [kind == "sliding_attention" for kind in kinds] or [True] * count
    windows = tuple(window if own else None for own in sliding)
    return Frame(body, owner, name, blocks, embedding, int(text.hidden_size), windows, kinds)


def _body(module: nn.Module, embedding: nn.Module, count: int) -> tuple[nn.Module, nn.Module, str]:
    best: tuple[int, nn.Module, nn.Module, str] | None = None
    for path, body in module.named_modules():
        if not any(part is embedding for part in body.modules()):
            continue
        for name, blocks in body.named_modules():
            if isinstance(blocks, nn.ModuleList) and len(blocks) == count:
                owner_path, _, attribute = name.rpartition(".")
                depth = path.count(".") + (path != "")
                if name and owner_path.count(".") == 0 and (best is None or depth > best[0]):
                    best = (depth, body, body.get_submodule(owner_path), attribute)
                break
    if best is None:
        raise ModelError(f"{type(module).__name__} is not understood: no list of {count} blocks beside its embedding")
    return best[1:]


def dissect(parts: Frame, run: Any) -> Anatomy:
    """Find what attention and MLP add in each block, and the weights that write it.

    Args:
        parts: the frame of the model.
        run: called without arguments, runs the body on a few tokens.
    """
    watched = [m for block in parts.blocks for m in block.modules()]
    watched += [m for m in parts.owner.modules() if isinstance(m, nn.Embedding)]
    watched += [m for m in parts.body.modules() if m is parts.embedding]
    calls = record(list(dict.fromkeys(watched)), run)
    embedding = _embedding_writers(parts, calls)
    attention, mlp = [], []
    for block in parts.blocks:
        try:
            halves = _halves(block, calls, parts.d_model)
        except ModelError as error:
            return Anatomy([], [], embedding, str(error))
        attention.append(halves[0])
        mlp.append(halves[1])
    return Anatomy(attention, mlp, embedding)


def _embedding_writers(parts: Frame, calls: Sequence[Call]) -> list[Writer]:
    start = next(c.input for c in calls if c.module is parts.blocks[0])
    tables = [c for c in calls if isinstance(c.module, nn.Embedding) and c.output.shape[-1] == parts.d_model]
    inside = {m for block in parts.blocks for m in block.modules()}
    tables = [c for c in tables if c.module not in inside]
    total = sum((c.output.expand_as(start).float() for c in tables), torch.zeros_like(start, dtype=torch.float32))
    scale = (total * start).sum() / (total * total).sum().clamp(min=1e-30)
    if tables and torch.allclose(total * scale, start.float(), rtol=1e-2, atol=1e-2 * float(start.abs().max())):
        return [Writer(c.module, "weight", 1) for c in tables]
    return []


def _halves(block: nn.Module, calls: Sequence[Call], d_model: int) -> tuple[Half, Half]:
    whole = next(c for c in calls if c.module is block)
    children = set(block.children())
    mine = [c for c in calls if c.module in children and c.output.shape == whole.output.shape]
    attention = next((c for c in mine if any(name in c.keywords for name in MASKED)), None)
    if attention is None or len(mine) < 2:
        raise ModelError(f"{type(block).__name__}: no attention module found among its children")
    pairs = list(itertools.combinations(mine, 2))
    target = whole.output.double() - whole.input.double()
    errors = [float((target - a.output.double() - b.output.double()).abs().max()) for a, b in pairs]
    size = float(target.abs().max())
    least = min(errors)
    a, b = next(p for p, e in zip(reversed(pairs), reversed(errors), strict=True) if e <= least + 1e-9 * size)
    slack = 1e-3 if whole.output.dtype == torch.float32 else 6e-2
    if least > slack * size:
        raise ModelError(f"{type(block).__name__} does not add its attention and MLP outputs to its input as they are")
    order = {id(c): i for i, c in enumerate(mine)}
    if order[id(a)] < order[id(attention)]:
        a, b = b, a
    others = [c for c in mine if c is not attention and any(isinstance(m, nn.Linear) for m in c.module.modules())]
    others += [c for c in mine if c is not attention and c not in others and list(_fused(c.module, d_model))]
    core = others[-1] if others else b
    return _half(a, attention, calls, d_model), _half(b, core, calls, d_model)


def _half(added: Call, core: Call, calls: Sequence[Call], d_model: int) -> Half:
    gain = None
    if not torch.equal(added.output, core.output):
        gain = _gain(added.module, core.output, added.output)
    return Half(added.module, core.module, gain, _writers(core, calls, d_model))


def _gain(norm: nn.Module, before: Tensor, after: Tensor) -> Float[Tensor, " d_model"]:
    """Return the gain of an RMS post-norm: what it makes of a vector of ones."""
    with torch.no_grad():
        gain: Tensor = norm(torch.ones_like(before[:1, :1])).float().flatten()
    cosine = nn.functional.cosine_similarity(before.float() * gain, after.float(), dim=-1)
    if not bool((cosine > 0.99).all()):
        raise ModelError(f"{type(norm).__name__} between a writer and the stream is no RMS norm")
    return gain


def _writers(core: Call, calls: Sequence[Call], d_model: int) -> list[Writer]:
    fused = list(_fused(core.module, d_model))
    inside = {m for m in core.module.modules() if _is_matrix(m)}
    ran = [c for c in calls if c.module in inside and c.output.shape[-1] == d_model]
    exact = [c for c in ran if c.output.shape == core.output.shape and torch.equal(c.output, core.output)]
    chosen: list[nn.Module] = [exact[-1].module] if exact else _last_of_each(core.module, ran)
    return fused + [Writer(m, "weight", 0 if isinstance(m, nn.Linear) else 1) for m in chosen]


def _last_of_each(core: nn.Module, ran: Sequence[Call]) -> list[nn.Module]:
    """Return, for experts kept as separate modules, the matrix that each of them applies last."""
    parent = {child: (owner, name) for owner in core.modules() for name, child in owner.named_children()}
    leaves = {type(parent[c.module][0]): parent[c.module][1] for c in ran if c.module in parent}
    found = []
    for owner in core.modules():
        name = leaves.get(type(owner))
        if name is not None and _is_matrix(getattr(owner, name, None)):
            found.append(getattr(owner, name))
    return found


def _fused(core: nn.Module, d_model: int) -> Iterator[Writer]:
    for owner in core.modules():
        for name, weight in owner.named_parameters(recurse=False):
            if weight.ndim == 3 and name in EXPERTS:
                axis = 2 if getattr(owner, "is_transposed", False) else 1
                if weight.shape[axis] != d_model:
                    raise ModelError(f"{type(owner).__name__}.{name} has shape {tuple(weight.shape)}, not understood")
                yield Writer(owner, name, axis)


def _is_matrix(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
