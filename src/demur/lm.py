"""A language model: its module, its tokenizer, its blocks, and the only door to its forward pass."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from demur.architectures import Anatomy, Frame, Half, dissect, frame
from demur.binding import EMBEDDING, Action, Bound, Key, bind
from demur.chats import Chats, Encoded, Thinking, ends
from demur.errors import ConfigError, ModelError
from demur.plan import Intervention, Plan, Point, merge
from demur.residuals import Port, tapped
from demur.rows import Rows
from demur.slots import Slots, rounded
from demur.types import ModelRef, Prompt
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PROBE = (5, 3, 8, 2, 7, 4, 6, 9)
"""Tokens that a model is watched on."""


@dataclass(eq=False)
class LM:
    """A decoder-only model; changed only through `attach`."""

    module: Any
    tokenizer: Any
    ref: ModelRef
    choice: str = ""
    """Which device and dtype, and why."""
    blocks: list[nn.Module] = field(init=False)
    d_model: int = field(init=False)
    frame: Frame = field(init=False, repr=False)
    chats: Chats = field(init=False, repr=False)
    _default: Plan = field(init=False, repr=False, default_factory=Plan)
    _bound: dict[int, Bound] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.module.eval()
        self.module.requires_grad_(False)
        if getattr(self.module.config, "_attn_implementation", "eager") not in ("sdpa", "eager"):
            self.module.set_attn_implementation("sdpa")
        self.frame = frame(self.module)
        self.blocks, self.d_model = self.frame.blocks, self.frame.d_model
        self.chats = Chats(self.tokenizer)

    @property
    def n_layers(self) -> int:
        """How many blocks the model has."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.frame.embedding.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        dtype: torch.dtype = next(iter(self.module.parameters())).dtype
        return dtype

    @functools.cached_property
    def stops(self) -> frozenset[int]:
        """The tokens that end an answer: every end-of-text and end-of-turn the configuration names."""
        config = getattr(self.module, "generation_config", None)
        return ends(config, self.tokenizer, self.module.config)

    # prompts to tokens

    def encode(
        self, prompt: Prompt, *, system: str | None = None, prefill: str = "", thinking: Thinking = "auto"
    ) -> Encoded:
        """Render and tokenise one prompt; see `Chats.encode`."""
        return self.chats.encode([prompt], system=self._system(system), prefill=prefill, thinking=thinking)[0]

    def encode_all(
        self,
        prompts: Sequence[Prompt | Sequence[int]],
        *,
        system: str | None = None,
        prefill: str = "",
        thinking: Thinking = "auto",
    ) -> list[Encoded]:
        """Render and tokenise prompts; token ids are taken as they are."""
        texts = [p for p in prompts if isinstance(p, Prompt)]
        made = iter(self.chats.encode(texts, system=self._system(system), prefill=prefill, thinking=thinking))
        return [next(made) if isinstance(p, Prompt) else _given(p) for p in prompts]

    def _system(self, system: str | None) -> str | None:
        return self._default.system if system is None else system

    # plans

    def plan_of(self, what: Plan | Intervention | None) -> Plan:
        """Return the plan of an intervention; None means what is attached."""
        if what is None:
            return self._default
        return what if isinstance(what, Plan) else what.plan(self)

    def bound(self, plan: Plan) -> Bound:
        """Return the plan made ready for this model (kept for as long as the model lives)."""
        found = self._bound.get(id(plan))
        if found is None or found.plan is not plan:
            if len(self._bound) > 64:
                self._bound.clear()
            found = self._bound[id(plan)] = bind(plan, self.n_layers, self.d_model, self.device)
        return found

    def batch(
        self,
        encoded: Sequence[Encoded],
        plans: Sequence[Plan] | None = None,
        *,
        width: int = 0,
        branches: Sequence[int] | None = None,
    ) -> tuple[Int[Tensor, "row token"], Rows, Int[Tensor, " row"]]:
        """Return tokens padded on the right, their rows, and their lengths.

        Args:
            encoded: the prompts.
            plans: one for each; by default what is attached.
            width: tokens per row to pad to, at least.
            branches: which branch each prompt is told as; by default the base.
        """
        length = max([width, *(len(e.ids) for e in encoded)])
        ids = torch.tensor([[*e.ids, *(0,) * (length - len(e.ids))] for e in encoded], device=self.device)
        chosen = [self.bound(p) for p in plans] if plans is not None else [self.bound(self._default)] * len(encoded)
        rows = Rows.of(encoded, chosen, self.device, branches)
        return ids, rows, torch.tensor([len(e.ids) for e in encoded], device=self.device)

    # the forward pass

    @torch.no_grad()
    def forward(
        self,
        ids: Int[Tensor, "row token"],
        rows: Rows,
        *,
        cache: Slots | None = None,
        readers: Mapping[Key, Action] | None = None,
        taps: dict[Key, Action] | None = None,
        first: int = 0,
        last: int | None = None,
        states: Float[Tensor, "row token d_model"] | None = None,
    ) -> Float[Tensor, "row token d_model"]:
        """Run the body, with each row's plan, and return the states after the final norm.

        Rows begin at `rows.start` and are padded on the right: a causal model cannot see what comes after, so
        padding needs no mask; states there mean nothing. `rows` moves on by the tokens brought.

        Args:
            ids: the tokens.
            rows: plan, phase, absolute positions and gates of each row.
            cache: where the rows' earlier keys and values are, aimed at these rows; None to read from scratch.
            readers: called with the stream at a place, after the edits there.
            taps: hooks that are open already (see `residuals.edit`), for loops that call this often.
            first: the first block to run.
            last: the last block to run; all by default.
            states: the stream before block `first` (at least 1), in place of what the blocks before it would give.
        """
        probes: dict[Key, Action] = {}
        if rows.pending:
            rows.check_whole(ids.shape[1])
            if all(plan.one_pass for plan in rows.pending):
                probes = rows.readers()
            else:
                if taps is not None:
                    taps.clear()
                self.ask(ids, rows)
        tokens = ids.shape[1]
        actions = _chained(probes, rows.edits(tokens), readers or {})
        if taps is not None:
            taps.clear()
            taps.update(actions)
            hidden = self._run(ids, rows, cache)
        elif actions or first or last is not None:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self.frame.only(first, self.n_layers - 1 if last is None else last, states))
                stack.enter_context(tapped({key: self.port(*key) for key in actions})).update(actions)
                hidden = self._run(ids, rows, cache)
        else:
            hidden = self._run(ids, rows, cache)
        rows.known = True
        rows.advance(tokens)
        return hidden

    @torch.no_grad()
    def ask(self, ids: Int[Tensor, "row token"], rows: Rows, *, branch: int | None = None) -> None:
        """Read the rows' gates and untouched sources in a pass of their own, without any edit.

        Args:
            ids: the tokens of whole prompts.
            rows: rows that are all of one branch.
            branch: which; None where there is only the base, and all gates must be readable on it.

        Raises:
            ModelError: where a gate reads another branch and none is named.
        """
        if branch is None and any(plan.foreign for plan in rows.pending):
            raise ModelError("a plan whose gates read another branch can be answered with, not run as one forward pass")
        readers = rows.readers(branch or 0)
        if readers:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self.frame.only(0, max(layer for layer, _ in readers)))
                stack.enter_context(tapped({key: self.port(*key) for key in readers})).update(readers)
                self._run(ids, rows, None)
        rows.known = branch is None or rows.known

    def _run(self, ids: Tensor, rows: Rows, cache: Slots | None) -> Tensor:
        positions = rows.positions(ids.shape[1])
        masks = self._masks(positions, rows, cache)
        output = self.frame.body(
            input_ids=ids,
            attention_mask=masks,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _masks(self, positions: Tensor, rows: Rows, cache: Slots | None) -> Any:
        """Return the mask, or one per kind of attention, built from absolute positions."""
        tokens = positions.shape[1]
        columns = tokens if rows.longest == 0 else rounded(rows.longest + tokens)
        made: dict[int | None, Tensor | None] = {}
        for window in set(self.frame.windows):
            made[window] = self._mask(positions, columns, window, fresh=rows.longest == 0)
        if not self.frame.kinds:
            return made[self.frame.windows[0]]
        pairs = zip(self.frame.kinds, self.frame.windows, strict=True)
        return {kind: made[window] for kind, window in dict(pairs).items()}

    def _mask(self, positions: Tensor, columns: int, window: int | None, *, fresh: bool) -> Tensor | None:
        sdpa = self.module.config._attn_implementation == "sdpa"
        if fresh and sdpa and (window is None or columns <= window):
            return None
        column = torch.arange(columns, device=positions.device)
        seen = column <= positions[..., None]
        if window is not None:
            seen &= column > positions[..., None] - window
        if sdpa:
            return seen[:, None]
        floor = torch.finfo(self.dtype).min
        return torch.zeros(1, dtype=self.dtype, device=seen.device).masked_fill(~seen[:, None], floor)

    @torch.no_grad()
    def head(self, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Return raw logits in float32 from states after the final norm, with the model's own caps and scales."""
        shape = hidden.shape[:-1]
        if self._plain_head:
            logits = self.module.get_output_embeddings()(hidden)
        else:
            flat = hidden.reshape(1, -1, self.d_model)
            with _stub(self.module, self.frame.body, flat):
                logits = self.module(inputs_embeds=flat, use_cache=False).logits
        return logits.float().reshape(*shape, -1)  # type: ignore[no-any-return]

    @functools.cached_property
    def _plain_head(self) -> bool:
        """Whether the logits are the output embedding of the states and nothing else."""
        matrix = self.module.get_output_embeddings()
        if not isinstance(matrix, nn.Module):
            return False
        flat = torch.linspace(-4, 4, 3 * self.d_model, device=self.device).reshape(1, 3, -1).to(self.dtype)
        with torch.no_grad(), _stub(self.module, self.frame.body, flat):
            whole = self.module(inputs_embeds=flat, use_cache=False).logits
            return torch.equal(whole, matrix(flat))

    # the parts

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """What attention and MLP add to the stream, and the weights that write it; found on first use."""
        encoded = [_given(PROBE)]
        ids, rows, _ = self.batch(encoded, [Plan()])
        with torch.no_grad():
            return dissect(self.frame, lambda: self._run(ids, rows, None))

    def half(self, part: Literal["attention", "mlp"]) -> list[Half]:
        """Return the attention or the MLP of each block.

        Raises:
            ModelError: where the blocks' parts are not understood.
        """
        if self.anatomy.problem:
            raise ModelError(f"{self.ref.id}: its {part} is not understood: {self.anatomy.problem}")
        return self.anatomy.attention if part == "attention" else self.anatomy.mlp

    def port(self, layer: int, point: Point) -> Port:
        """Return where a point of a block, or the embedding, can be tapped.

        Raises:
            ConfigError: for a layer out of range.
            ModelError: where the block's parts are not understood.
        """
        if (layer, point) == EMBEDDING:
            return Port(self.frame.embedding, incoming=False)
        if not 0 <= layer < self.n_layers:
            raise ConfigError(f"layer {layer} is out of range; this model has layers 0 to {self.n_layers - 1}")
        block = self.blocks[layer]
        if point in ("resid_pre", "resid_post"):
            return Port(block, incoming=point == "resid_pre")
        half = self.half("mlp" if point.startswith("mlp") else "attention")[layer]
        if point == "norm_in":
            return Port(half.core, incoming=True)
        return Port(half.core if point.endswith("_write") else half.added, incoming=False)


def _given(ids: Sequence[int]) -> Encoded:
    if not ids:
        raise ConfigError("a row of token ids is empty; a model cannot read nothing")
    return Encoded(tuple(ids), len(ids), len(ids))


def _chained(*maps: Mapping[Key, Action]) -> dict[Key, Action]:
    """Return actions by place; where several maps have one, they act in the order of the maps."""
    actions: dict[Key, Action] = {}
    for key, action in (pair for one in maps for pair in one.items()):
        before = actions.get(key)
        actions[key] = action if before is None else _then(before, action)
    return actions


def _then(first: Action, second: Action) -> Action:
    return lambda h: second(first(h))


class _Output(dict[str, Any]):
    """Stands for a body's output; what it does not hold is None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        return self["last_hidden_state"] if key == 0 else super().__getitem__(key)


class _Given(nn.Module):
    def __init__(self, body: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        self.config = getattr(body, "config", None)
        self.output = _Output(last_hidden_state=hidden)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


@contextlib.contextmanager
def _stub(module: nn.Module, body: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Let the module's body give `hidden`, so that the module itself only applies its head."""
    owner, name = next((m, n) for m in module.modules() for n, child in m.named_children() if child is body)
    owner._modules[name] = _Given(body, hidden)
    try:
        yield
    finally:
        owner._modules[name] = body


# attaching


@contextlib.contextmanager
def attach(lm: LM, *interventions: Plan | Intervention) -> Iterator[LM]:
    """Make interventions the default of every row of `lm`, and swap the weights they change.

    Leaving the context restores the model bit for bit, also after an error.
    """
    plan = merge([lm.plan_of(i) for i in (lm._default, *interventions)]) if interventions else lm._default
    before = lm._default
    with contextlib.ExitStack() as stack:
        stack.enter_context(swapped(lm, [edit for what in interventions for edit in edits_of(lm.plan_of(what))]))
        lm._default = plan
        try:
            yield lm
        finally:
            lm._default = before


def load(model_id: str = "organism", *, device: str = "auto", dtype: str = "auto", revision: str | None = None) -> LM:
    """Load a model; see `demur.loading.load`."""
    from demur import loading

    return loading.load(model_id, device=device, dtype=dtype, revision=revision or "")
