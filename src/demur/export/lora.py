"""A LoRA adapter in peft's format."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from demur.errors import ConfigError
from demur.export import Exported
from demur.export._changes import (
    Change,
    LowRank,
    Project,
    Shift,
    changes,
    name_of,
    refuse,
    refuse_quantised,
)
from demur.export._checking import compare, quiet
from demur.files import write_json
from demur.lora import CONFIG, DOWN, PREFIX, UP, WEIGHTS
from demur.plan import Plan

if TYPE_CHECKING:
    from jaxtyping import Float

    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA adapter in peft's format, which is exactly the intervention on the untouched base model.

    A projection is of rank 1 on each writer, a trained adapter keeps its rank, an added vector is a bias: the layer's
    own where it has one (`bias="all"`), else one of the adapter (`lora_bias`), which peft reads and few servers do.
    """

    def refuse(self, lm: LM, plan: Plan) -> None:
        """Do nothing where an adapter holds the plan exactly.

        Raises:
            ConfigError: where it does not; the message says why.
        """
        self._factors(lm, plan)

    def __call__(self, lm: LM, plan: Plan, folder: Path, marks: Mapping[str, str]) -> Exported:
        """Write the adapter, load it with plain peft on the base model, and compare logits.

        Raises:
            ConfigError: where an adapter does not hold the plan, or the model is quantised and must be read.
            ModelError: where peft gives other logits.
        """
        refuse_quantised(lm, "lora")
        factors, how = self._factors(lm, plan)
        rank = max(1, *(f.rank for f in factors))
        tensors: dict[str, torch.Tensor] = {}
        for each in factors:
            tensors |= each.tensors(rank, how)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", **{f"demur.{k}": v for k, v in marks.items()}})
        write_json(folder / CONFIG, _peft_config(lm, factors, rank, how))
        notes = [f"Rank {rank} on {len(factors)} layers, scale 1, fitted to no data.", *_warnings(lm, factors, how)]
        with quiet():
            import peft

            model: Any = peft.PeftModel.from_pretrained(copy.deepcopy(lm.module), str(folder)).eval()
            by = f"peft {importlib.metadata.version('peft')} on the base model"
            checked = compare(lm, plan, by, lambda ids: model(input_ids=ids).logits[0])
        return Exported(checked=checked, notes=tuple(notes))

    def _factors(self, lm: LM, plan: Plan) -> tuple[list[_Factors], str]:
        """Return the low-rank change of every layer, and how biases are carried ("", `own` or `adapter`)."""
        made = changes(lm, plan, "lora")
        found: dict[nn.Module, _Factors] = {}
        for change in made:
            if change.module not in found:
                found[change.module] = _Factors.of(lm, change.module)
            found[change.module].take(change)
        if not found:
            raise refuse("lora", "it changes nothing")
        factors = sorted(found.values(), key=lambda f: f.name)
        return factors, _bias_carrier(lm, factors)


@dataclass(eq=False)
class _Factors:
    """The change of one layer, folded: W + sum of U D over `up` and `down`, and b + `shift`."""

    name: str
    module: nn.Module
    up: list[Float[Tensor, "out rank"]] = field(default_factory=list)
    down: list[Float[Tensor, "rank in"]] = field(default_factory=list)
    shift: Float[Tensor, " out"] | None = None

    @classmethod
    def of(cls, lm: LM, module: nn.Module) -> _Factors:
        """Begin with nothing.

        Raises:
            ConfigError: for what peft adapts otherwise than by two matrices.
        """
        weight = module._parameters.get("weight")
        if weight is None or weight.ndim != 2:
            why = f"{name_of(lm, module)} keeps all its experts in one tensor, which an adapter of two matrices misses"
            raise refuse("lora", why, "Use --to merged.")
        return cls(name_of(lm, module), module)

    @property
    def rank(self) -> int:
        """How many columns all `up` have together."""
        return sum(u.shape[1] for u in self.up)

    @property
    def embedding(self) -> bool:
        """Whether the layer is a table of token embeddings."""
        return isinstance(self.module, nn.Embedding)

    def own(self, name: str) -> Tensor | None:
        """Return a parameter of the layer itself in float64, or None where it has none of that name."""
        found = self.module._parameters.get(name)
        return None if found is None else found.detach().double().cpu()

    def matrix(self) -> Float[Tensor, "out in"]:
        """Return the layer's own weight in float64, as peft counts its sides."""
        weight = self.own("weight")
        if weight is None:
            raise refuse("lora", f"{self.name} has no matrix to change")
        return weight if isinstance(self.module, nn.Linear) else weight.T

    def take(self, change: Change) -> None:
        """Let one more change act on the layer as changed so far."""
        if isinstance(change, Shift):
            before = torch.zeros(len(change.vector)).double() if self.shift is None else self.shift
            self.shift = before + change.vector.double().cpu()
        elif isinstance(change, LowRank):
            self._fits(change)
            self.up.append(change.up.double().cpu() * change.edit.strength)
            self.down.append(change.down.double().cpu())
        else:
            self._project(change)

    def _project(self, change: Project) -> None:
        if change.norm != "none":
            why = f"it keeps the lengths of the {change.norm}s of the weights, and that change has no low rank"
            raise refuse("lora", why, "Use --to merged.")
        r, strength = change.r.double().cpu(), change.strength
        column = (-strength * r)[:, None]
        self.up = [u + column @ (r @ u)[None] for u in self.up]
        self.up.append(column)
        self.down.append((r @ self.matrix())[None])
        biases = [b for b in (self.own("bias"), self.shift) if b is not None]
        if biases:
            before = torch.zeros_like(r) if self.shift is None else self.shift
            self.shift = before - strength * (sum(biases, torch.zeros_like(r)) @ r) * r

    def _fits(self, change: LowRank) -> None:
        out, into = self.matrix().shape
        if (change.up.shape[0], change.down.shape[1]) != (out, into):
            found = (change.up.shape[0], change.down.shape[1])
            raise ConfigError(
                f"the change of {self.name} has shape {found}, its weight {(out, into)}: the adapter was made for "
                "another model"
            )

    def tensors(self, rank: int, how: str) -> dict[str, Tensor]:
        """Return the layer's tensors under peft's names, padded with zeros to a rank."""
        up = torch.zeros(self.matrix().shape[0], rank, dtype=torch.float64)
        down = torch.zeros(rank, self.matrix().shape[1], dtype=torch.float64)
        if self.up:
            up[:, : self.rank], down[: self.rank] = torch.cat(self.up, 1), torch.cat(self.down)
        names = (".lora_embedding_B", ".lora_embedding_A") if self.embedding else (UP, DOWN)
        made = {PREFIX + self.name + names[0]: up, PREFIX + self.name + names[1]: down}
        if how == "adapter":
            made[PREFIX + self.name + UP.replace("weight", "bias")] = (
                torch.zeros(len(up), dtype=torch.float64) if self.shift is None else self.shift
            )
        elif self.shift is not None:
            own = self.own("bias")
            made[PREFIX + self.name + ".base_layer.bias"] = self.shift if own is None else own + self.shift
        return {name: tensor.float().contiguous() for name, tensor in made.items()}


def _bias_carrier(lm: LM, factors: Sequence[_Factors]) -> str:
    shifted = [f for f in factors if f.shift is not None]
    if not shifted:
        return ""
    if all(f.module._parameters.get("bias") is not None for f in shifted):
        return "own"
    embedding = next((f.name for f in factors if f.embedding), None)
    if embedding or any(not isinstance(f.module, nn.Linear) for f in factors):
        other = embedding or next(f.name for f in factors if not isinstance(f.module, nn.Linear))
        raise refuse(
            "lora",
            f"{shifted[0].name} has no bias, and peft gives an adapter none of its own while it changes {other} too",
            "Export the projection and the vector apart.",
        )
    return "adapter"


def _peft_config(lm: LM, factors: Sequence[_Factors], rank: int, how: str) -> dict[str, Any]:
    kinds = {isinstance(f.module, nn.Linear | nn.Embedding) for f in factors}
    linear = {isinstance(f.module, nn.Linear) for f in factors if not f.embedding}
    if len(linear) > 1 or not kinds:
        raise ConfigError("lora: the changed layers keep their weights in different orders; use --to merged")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lm.ref.id,
        "revision": None if lm.ref.revision.startswith("sha256:") else lm.ref.revision or None,
        "r": rank,
        "lora_alpha": rank,
        "fan_in_fan_out": linear == {False},
        "target_modules": [f.name for f in factors],
        "lora_dropout": 0.0,
        "bias": "all" if how == "own" else "none",
        "lora_bias": how == "adapter",
        "inference_mode": True,
    }


def _warnings(lm: LM, factors: Sequence[_Factors], how: str) -> list[str]:
    notes = []
    if how:
        what = "the layers' own biases are replaced" if how == "own" else "the adapter has biases (`lora_bias`)"
        notes.append(f"It needs peft itself: {what}, which vLLM and other servers do not read from an adapter.")
    if any(f.embedding for f in factors):
        notes.append("It changes the embedding; peft leaves a tied head as it is, as the intervention does.")
    return notes
