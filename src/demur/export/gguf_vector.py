"""A control vector for llama.cpp, in GGUF."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from demur.errors import ModelError
from demur.export import Exported
from demur.export._changes import refuse, refuse_runtime
from demur.export._checking import Checked, intended, passed, quiet
from demur.plan import Plan, Site, at_layer

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "gguf"
FILE = "control-vector.gguf"
ARCHITECTURE = "controlvector"
HINT, COUNT, TENSOR = "controlvector.model_hint", "controlvector.layer_count", "direction."


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufVector:
    """A control vector for llama.cpp (`--control-vector FILE`): the vectors that steering adds, one per block.

    llama.cpp adds `direction.N` to what block N gives, N from 0, at every token; it knows none for block 0. Strengths
    are in the vectors, so the file is used at scale 1. It works on any quantisation of the model.
    """

    hint: str = ""
    """What the file says of the model it is for; by default the model type of its configuration."""

    def refuse(self, lm: LM, plan: Plan) -> None:
        """Do nothing where control vectors hold the plan exactly.

        Raises:
            ConfigError: where they do not; the message says why.
        """
        vectors(lm, plan)

    def __call__(self, lm: LM, plan: Plan, folder: Path, marks: Mapping[str, str]) -> Exported:
        """Write the file, read it back with the gguf package, and compare vectors and logits.

        Raises:
            ConfigError: where control vectors do not hold the plan.
            ModelError: where what is read back differs.
        """
        wanted = vectors(lm, plan)
        text_config = lm.module.config.get_text_config()
        with quiet():
            _write(folder / FILE, wanted, self.hint or str(text_config.model_type), marks)
            found = read(folder / FILE)
        layers = ", ".join(map(str, wanted))
        note = (
            f"Vectors for blocks {layers} (counted from 0). Use: `llama-server -m MODEL.gguf --control-vector {FILE}`."
        )
        return Exported(checked=_check(lm, plan, wanted, found), notes=(note,))


def vectors(lm: LM, plan: Plan) -> dict[int, Tensor]:
    """Return what is added to the output of each block, Float[" d_model"] in float32, by block.

    Raises:
        ConfigError: where the plan does more than that.
    """
    target = "gguf-vector"
    refuse_runtime(target, plan)
    if plan.system is not None:
        raise refuse(target, "it puts a system text before the prompt", "Export the text alone with --to prefix.")
    if plan.weights:
        raise refuse(target, "it changes weights", "Use --to merged, and convert that folder to GGUF.")
    sums: dict[int, Tensor] = {}
    for site in plan.sites:
        if site.op != "add":
            advice = "Use --to merged, and convert that folder to GGUF."
            raise refuse(
                target, f"its edit {site.op!r} depends on the state, and a control vector is only added", advice
            )
        for layer in site.layers:
            block = _block(site, layer)
            added = at_layer(plan.tensors[site.vector], layer).double() * site.strength
            sums[block] = sums.get(block, torch.zeros(lm.d_model, dtype=torch.float64)) + added
    if not sums:
        raise refuse(target, "it adds no vector at all")
    return {block: sums[block].float() for block in sorted(sums)}


def _block(site: Site, layer: int) -> int:
    """Return the block whose output the site adds to."""
    if site.point in ("resid_post", "mlp_out"):
        block = layer
    elif site.point == "resid_pre":
        block = layer - 1
    else:
        why = f"it adds at {site.point} of layer {layer}, and llama.cpp adds to the output of blocks"
        raise refuse("gguf-vector", why)
    if block < 1:
        what = "before the first block" if block < 0 else "to the output of block 0"
        raise refuse("gguf-vector", f"it adds {what}, for which llama.cpp has no vector", "Steer at layer 1 or later.")
    return block


def _write(path: Path, wanted: Mapping[int, Tensor], hint: str, marks: Mapping[str, str]) -> None:
    import gguf

    writer: Any = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_string(HINT, hint)
    writer.add_uint32(COUNT, len(wanted))
    for name, value in marks.items():
        writer.add_string(f"demur.{name}", value)
    for block, vector in wanted.items():
        writer.add_tensor(f"{TENSOR}{block}", np.ascontiguousarray(vector.numpy(), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> dict[int, Tensor]:
    """Return the vectors of a control-vector file by block, read by the gguf package.

    Raises:
        ModelError: where the file is no control vector.
    """
    import gguf

    reader: Any = gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture").contents()
    if architecture != ARCHITECTURE:
        raise ModelError(f"{path} is no control vector: its architecture is {architecture!r}")
    named = {t.name: torch.from_numpy(np.array(t.data, dtype=np.float32)) for t in reader.tensors}
    return {int(name.removeprefix(TENSOR)): vector for name, vector in sorted(named.items())}


def _check(lm: LM, plan: Plan, wanted: Mapping[int, Tensor], found: Mapping[int, Tensor]) -> Checked:
    """Compare what was read back bit for bit, and what it does at the places where llama.cpp adds it."""
    equal = [b for b in wanted if b in found and torch.equal(wanted[b], found[b])]
    if len(equal) != len(wanted) or len(found) != len(wanted):
        raise ModelError(f"the control vector read back differs at blocks {sorted(set(wanted) - set(equal))}")
    sites = tuple(
        Site(op="add", layers=(block,), point="resid_post", vector=str(block), strength=1.0) for block in found
    )
    again = Plan(sites=sites, tensors={str(block): vector for block, vector in found.items()})
    pairs = list(zip(intended(lm, again), intended(lm, plan), strict=True))
    worst = max(float((a - b).abs().max()) / max(1.0, float(b.abs().max())) for a, b in pairs)
    return passed(
        Checked(
            by=f"gguf {importlib.metadata.version('gguf')}",
            compared="vectors read back, and logits with them added to the outputs of the blocks",
            difference=worst,
            tolerance=1e-5 if lm.dtype is torch.float32 else 1e-1,
            same=len(equal),
            of=len(wanted),
        )
    )
