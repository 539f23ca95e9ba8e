"""Low-rank changes of linear layers (LoRA), read from and written to peft's folder format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demur.errors import DataError
from demur.files import read_json, write_json
from demur.plan import load_tensors, save_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
}
"""Settings of a peft adapter that must have one of these values, where they are given."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lora:
    """W + (alpha / rank) B A on every named layer (Hu et al., arXiv 2106.09685)."""

    rank: int
    alpha: float
    root: bool = False
    """Whether the scale is alpha / sqrt(rank), as in rank-stabilised LoRA."""
    transposed: bool = False
    """Whether the layers keep their weights as (in, out), as GPT-2's do."""
    targets: tuple[str, ...]
    """Ends of the names of the changed layers, as peft wants them."""
    base: str = ""
    """The model it was trained on."""
    tensors: Mapping[str, Tensor]
    """`<layer>.lora_A.weight`: Float["rank in"]; `<layer>.lora_B.weight`: Float["out rank"]."""

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.root else self.rank)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the changed layers, sorted."""
        return tuple(sorted(name.removesuffix(DOWN) for name in self.tensors if name.endswith(DOWN)))

    def record(self) -> dict[str, Any]:
        """Return everything but the tensors, as JSON values."""
        plain = {"rank": self.rank, "alpha": self.alpha, "root": self.root, "transposed": self.transposed}
        return {**plain, "targets": list(self.targets), "base": self.base}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lora:
        """Build one from what `record` gave and its tensors."""
        return cls(**{**record, "targets": tuple(record["targets"])}, tensors=tensors)

    @classmethod
    def read(cls, folder: Path) -> Lora:
        """Read a folder in peft's format.

        Raises:
            DataError: where it holds none, or one that is more than low-rank changes of linear layers.
        """
        config = read_json(folder / CONFIG)
        for name, allowed in PLAIN.items():
            if name in config and config[name] not in allowed:
                raise DataError(
                    f"{folder / CONFIG}: {name} is {config[name]!r}; only plain LoRA is understood "
                    f"({name} = {allowed[0]!r}). Merge the adapter into its model and use that folder"
                )
        raw = load_tensors(folder / WEIGHTS)
        odd = [name for name in raw if not (name.startswith(PREFIX) and name.endswith((DOWN, UP)))]
        if odd:
            raise DataError(f"{folder / WEIGHTS}: {odd[0]!r} is no low-rank change of a linear layer")
        named = config.get("target_modules") or ()
        return cls(
            rank=int(config["r"]),
            alpha=config["lora_alpha"],
            root=bool(config.get("use_rslora")),
            transposed=bool(config.get("fan_in_fan_out")),
            targets=(named,) if isinstance(named, str) else tuple(sorted(named)),
            base=str(config.get("base_model_name_or_path") or ""),
            tensors={name.removeprefix(PREFIX): tensor.float() for name, tensor in raw.items()},
        )

    def stacked(self, other: Lora, *, strength: float = 1.0) -> Lora:
        """Return one adapter that does what this one and `strength` times the other do together: ranks add up.

        Raises:
            DataError: where one of them keeps its layers' weights transposed and the other does not.
        """
        if self.transposed != other.transposed:
            raise DataError("two adapters of models that keep their weights differently cannot be stacked")
        made: dict[str, Tensor] = {}
        for layer in sorted({*self.layers, *other.layers}):
            parts = [(one, times) for one, times in ((self, 1.0), (other, strength)) if layer in one.layers]
            down = torch.cat([one.tensors[layer + DOWN] for one, _ in parts])
            up = torch.cat([one.tensors[layer + UP] * (one.scale * times) for one, times in parts], dim=1)
            missing = self.rank + other.rank - len(down)
            made[layer + DOWN] = torch.nn.functional.pad(down, (0, 0, 0, missing))
            made[layer + UP] = torch.nn.functional.pad(up, (0, missing))
        rank = self.rank + other.rank
        targets = tuple(sorted({*self.layers, *other.layers}))
        return Lora(rank=rank, alpha=rank, transposed=self.transposed, targets=targets, base=self.base, tensors=made)

    def write(self, folder: Path, *, strength: float = 1.0) -> None:
        """Write a folder that `peft.PeftModel.from_pretrained` loads, the changes taken `strength` times."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS, {PREFIX + name: tensor for name, tensor in self.tensors.items()})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": self.alpha * strength,
            "use_rslora": self.root,
            "fan_in_fan_out": self.transposed,
            "target_modules": list(self.targets),
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
        }
        write_json(folder / CONFIG, config)
