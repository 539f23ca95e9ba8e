"""Read and edit the residual stream: the only module with hooks.

`capture` runs the body without its head, on batches of similar length, up to the last block that is asked for,
and keeps only the tokens asked for. `moments` does the same in flat memory, with float64 sums.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from demur.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from demur.architectures import Frame
    from demur.chats import Encoded
    from demur.lm import LM
    from demur.rows import Action, Key
    from demur.types import Prompt

Given = TypeVar("Given")

WINDOW = 4096
"""Prompts that are sorted by length together."""
BATCH_TOKENS = {"cpu": 1024}
"""Tokens per forward pass by kind of device: on a CPU more of them leave its cache."""
GPU_TOKENS = 16384


class Port(NamedTuple):
    """Where a point of a block can be tapped: what goes into a module, or what comes out of it."""

    module: nn.Module
    incoming: bool


class Call(NamedTuple):
    """One module that ran: its first input, its first output, its keyword arguments' names."""

    module: nn.Module
    input: Tensor
    output: Tensor
    keywords: tuple[str, ...]


def first_tensor(value: Any) -> Tensor | None:
    """Return the tensor a module gave: itself, or the first of a tuple."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def record(modules: Sequence[nn.Module], run: Callable[[], object]) -> list[Call]:
    """Run something and return the calls of `modules` in the order in which they finished."""
    calls: list[Call] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = first_tensor(args) if args else first_tensor(kwargs.get("hidden_states"))
        gave = first_tensor(output)
        if given is not None and gave is not None:
            calls.append(Call(module, given.detach(), gave.detach(), tuple(kwargs)))

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        run()
    return calls


@contextlib.contextmanager
def tapped(ports: Mapping[Key, Port]) -> Iterator[dict[Key, Action]]:
    """Put hooks at `ports`; the dictionary given says what each of them does, and may be changed at any time.

    A place without an action is left alone. No tensor is changed in place. All hooks go when the context closes,
    also after an error.
    """
    actions: dict[Key, Action] = {}
    with contextlib.ExitStack() as stack:
        for key, port in ports.items():
            stack.callback(_hook(port, key, actions).remove)
        yield actions


def _hook(port: Port, key: Key, actions: Mapping[Key, Action]) -> Any:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        action = actions.get(key)
        if action is None:
            return None
        if args:
            return (action(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": action(kwargs["hidden_states"])}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        action = actions.get(key)
        if action is None:
            return None
        return (action(output[0]), *output[1:]) if isinstance(output, tuple) else action(output)

    if port.incoming:
        return port.module.register_forward_pre_hook(before, with_kwargs=True)
    return port.module.register_forward_hook(after)


@contextlib.contextmanager
def edit(lm: LM, keys: Iterable[Key]) -> Iterator[dict[Key, Action]]:
    """Tap the model at `(layer, point)` places; see `tapped`.

    Raises:
        ModelError: for a point that this model does not have or that is not understood.
    """
    with tapped({key: lm.port(*key) for key in keys}) as actions:
        yield actions


def kept(
    frame: Frame, layers: Sequence[int], run: Callable[[], Given], *, whole: bool = False
) -> tuple[dict[int, Tensor], Given]:
    """Run something on a model and return the stream after blocks, with its gradients, and what was returned.

    Args:
        frame: the parts of the model.
        layers: the blocks whose output is kept.
        run: calls the model.
        whole: whether all blocks run; else none after the last that is kept does, and what `run` returns means nothing.

    Returns:
        block -> Float["row token d_model"]: the very tensors of the forward pass.
    """
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Action:
        def action(h: Tensor) -> Tensor:
            states[layer] = h
            return h

        return action

    with contextlib.ExitStack() as stack:
        stack.enter_context(frame.only(0, len(frame.blocks) - 1 if whole else max(layers)))
        ports: dict[Key, Port] = {(layer, "resid_post"): Port(frame.blocks[layer], incoming=False) for layer in layers}
        stack.enter_context(tapped(ports)).update({key: keep(key[0]) for key in ports})
        return states, run()


class Chunk(NamedTuple):
    """Some tokens' states: which prompt each belongs to, its absolute position, and the states."""

    prompt: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    states: Float[Tensor, "token layer point d_model"]


def stream(
    lm: LM,
    prompts: Iterable[Prompt | Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
    points: str | Sequence[str] = "resid_post",
    positions: str = "last_prompt",
    batch_tokens: int | None = None,
) -> Iterator[Chunk]:
    """Yield the states of prompts, batch by batch, in an order that suits the batches.

    Args:
        lm: the model, with whatever is attached to it.
        prompts: prompts to render, or token ids as they are; may be an iterator without end in sight.
        layers: blocks to read; all by default.
        points: one or more of `plan.POINTS`.
        positions: one of `plan.POSITIONS`; the states of exactly these tokens are kept.
        batch_tokens: tokens per forward pass, padding included; by default what suits the device.

    Raises:
        ConfigError: for a layer or point that is not there.
    """
    places = _places(lm, layers, points)
    most = batch_tokens or BATCH_TOKENS.get(lm.device.type, GPU_TOKENS)
    offset, source = 0, iter(prompts)
    while window := list(islice(source, WINDOW)):
        encoded = lm.encode_all(window)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        for batch in batches([len(encoded[i].ids) for i in order], most):
            chosen = [order[i] for i in batch]
            chunk = _read(lm, [encoded[i] for i in chosen], places, positions)
            index = torch.tensor(chosen, device=chunk.prompt.device)[chunk.prompt] + offset
            yield Chunk(index, chunk.position, chunk.states)
        offset += len(window)


def capture(
    lm: LM,
    prompts: Iterable[Prompt | Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
    points: str | Sequence[str] = "resid_post",
    positions: str = "last_prompt",
    batch_tokens: int | None = None,
) -> Float[Tensor, "row layer ..."]:
    """Return the states of prompts at layers and points, in float32 on the CPU.

    The rows are in the order of the prompts; for positions that mean several tokens of a prompt, one row per
    token, in order (`stream` tells which is which).

    Args:
        lm: the model, with whatever is attached to it.
        prompts: prompts to render, or token ids as they are.
        layers: blocks to read, in the order wanted; all by default.
        points: a point, or several.
        positions: one of `plan.POSITIONS`.
        batch_tokens: tokens per forward pass, padding included; by default what suits the device.

    Returns:
        Float["row layer d_model"] for one point, Float["row layer point d_model"] for several.

    Raises:
        ConfigError: for a layer or point that is not there.
        DataError: for an empty list of prompts.
    """
    chunks = list(
        stream(lm, prompts, layers=layers, points=points, positions=positions, batch_tokens=batch_tokens),
    )
    if not chunks:
        raise DataError("capture was given no prompts")
    prompt = torch.cat([c.prompt for c in chunks]).cpu()
    position = torch.cat([c.position for c in chunks]).cpu()
    order = torch.argsort(prompt * (int(position.max()) + 1) + position)
    states = torch.cat([c.states.cpu() for c in chunks])[order]
    single = isinstance(points, str) or len(points) == 1
    return states[:, :, 0] if single else states


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[range]:
    """Cut ascending lengths into runs whose padded size is at most `batch_tokens` (a longer row stands alone)."""
    first = 0
    for index, length in enumerate(lengths):
        if index > first and (index + 1 - first) * length > batch_tokens:
            yield range(first, index)
            first = index
    if first < len(lengths):
        yield range(first, len(lengths))


def _places(lm: LM, layers: Sequence[int] | None, points: str | Sequence[str]) -> list[list[Key]]:
    from demur.plan import POINTS

    chosen = range(lm.n_layers) if layers is None else layers
    named: Sequence[Any] = (points,) if isinstance(points, str) else tuple(points)
    for layer in chosen:
        if not 0 <= layer < lm.n_layers:
            raise ConfigError(f"layer {layer} is out of range; this model has layers 0 to {lm.n_layers - 1}")
    for point in named:
        if point not in POINTS:
            raise ConfigError(f"point {point!r} is not understood; allowed: {', '.join(POINTS)}")
    return [[(layer, point) for point in named] for layer in chosen]


def _read(lm: LM, encoded: Sequence[Encoded], places: list[list[Key]], positions: str) -> Chunk:
    ids, rows, lengths = lm.batch(encoded)
    absolute = rows.positions(ids.shape[1])
    mask = rows.mask(positions, absolute) & (absolute < lengths[:, None])
    at = mask.nonzero(as_tuple=True)
    kept: dict[Key, Tensor] = {}

    def keep(key: Key) -> Action:
        def action(h: Tensor) -> Tensor:
            kept[key] = h[at].float()
            return h

        return action

    keys = {key for place in places for key in place}
    lm.forward(ids, rows, readers={key: keep(key) for key in keys}, last=max(layer for layer, _ in keys))
    states = torch.stack([torch.stack([kept[key] for key in place], dim=1) for place in places], dim=1)
    return Chunk(at[0], absolute[at], states)


@dataclass(eq=False)
class Moments:
    """Count, mean and (where wanted) covariance of states, summed in float64 in flat memory.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979), which does not cancel.
    """

    with_covariance: bool = True
    count: int = 0
    mean: Float[Tensor, "layer d_model"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    scatter: Float[Tensor, "layer d_model d_model"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def update(self, states: Float[Tensor, "row layer d_model"]) -> None:
        """Take in a batch of states."""
        wide = states.double()
        fresh, batch_mean = len(wide), wide.mean(0)
        total = self.count + fresh
        if self.with_covariance:
            centred = (wide - batch_mean).transpose(0, 1)
            scatter = centred.transpose(1, 2) @ centred
            if self.count:
                shift = batch_mean - self.mean
                scatter = self.scatter + scatter + shift[:, :, None] * shift[:, None] * (self.count * fresh / total)
            self.scatter = scatter
        self.mean = batch_mean if not self.count else self.mean + (batch_mean - self.mean) * (fresh / total)
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "layer d_model d_model"]:
        """The unbiased covariance.

        Raises:
            DataError: with fewer than two states, or where it was not asked for.
        """
        if not self.with_covariance or self.count < 2:
            raise DataError(f"no covariance: {self.count} states seen, asked for: {self.with_covariance}")
        return self.scatter / (self.count - 1)


def moments(
    lm: LM,
    prompts: Iterable[Prompt | Sequence[int]],
    *,
    layers: Sequence[int] | None = None,
    point: str = "resid_post",
    positions: str = "last_prompt",
    covariance: bool = True,
) -> Moments:
    """Return mean and covariance of the states of any number of prompts, in flat memory.

    Args:
        lm: the model.
        prompts: prompts or token ids; an iterator is read as it comes.
        layers: blocks to read; all by default.
        point: one of `plan.POINTS`.
        positions: one of `plan.POSITIONS`.
        covariance: whether to sum the d_model x d_model scatter too.
    """
    found = Moments(with_covariance=covariance)
    for chunk in stream(lm, prompts, layers=layers, points=point, positions=positions):
        found.update(chunk.states[:, :, 0])
    return found
