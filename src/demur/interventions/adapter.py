"""Apply a trained LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demur.interventions import Stock
from demur.lora import DOWN, UP, Lora
from demur.plan import Plan, WeightDelta

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
FOLDER = "adapter"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter(Stock):
    """Apply a trained LoRA adapter: W + strength * scale * B A on its linear layers.

    Its folder also holds `adapter/` in peft's format, which `peft.PeftModel.from_pretrained` loads as it is.
    """

    lora: Lora
    """The low-rank changes."""
    strength: float = 1.0
    """How many times the trained change is applied; 0 changes nothing."""
    note: str = ""
    """How it was chosen, in words."""

    @classmethod
    def read(cls, folder: Path, *, strength: float = 1.0) -> Adapter:
        """Read an adapter that peft wrote.

        Raises:
            DataError: where the folder holds none, or one that is not plain LoRA.
        """
        return cls(lora=Lora.read(folder), strength=strength)

    def plan(self, lm: LM) -> Plan:
        """Return one change of a weight per layer."""
        scale = self.strength * self.lora.scale
        edits = tuple(
            WeightDelta(module=name, up=name + UP, down=name + DOWN, strength=scale) for name in self.lora.layers
        )
        return Plan(weights=edits, tensors=dict(self.lora.tensors))

    def save(self, folder: Path) -> None:
        """Write `intervention.json`, `tensors.safetensors` and `adapter/`, the last in peft's format."""
        self.lora.write(folder / FOLDER, strength=self.strength)
        super(Adapter, self).save(folder)
