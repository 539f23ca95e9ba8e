"""The whole model in transformers format, the intervention in its weights."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from demur.export import Exported
from demur.export._changes import Change, LowRank, Project, Shift, changes, name_of, refuse, refuse_quantised
from demur.export._checking import Checked, compare, quiet
from demur.plan import Plan
from demur.weights import add_low_rank, project_out

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "local"
FLAGS = ("mlp_bias", "attention_bias")
"""Settings of transformers' configurations that give linear layers a bias, all others of the block included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The whole model with the intervention in its weights, in transformers format: serve it as any other model.

    Projections (`ablate`), trained adapters and, where the class has a bias that can hold it, added vectors. Embedding
    and head are untied where the embedding alone changes. vLLM, SGLang, quantisers and GGUF converters read the folder
    like the model that it came from; edits are made before quantising.
    """

    shard: str = "5GB"
    """Largest file of weights."""

    def refuse(self, lm: LM, plan: Plan) -> None:
        """Do nothing where weights hold the plan exactly.

        Raises:
            ConfigError: where they do not; the message says why.
        """
        _config(lm, changes(lm, plan, "merged"))

    def __call__(self, lm: LM, plan: Plan, folder: Path, marks: Mapping[str, str]) -> Exported:
        """Write the model and its tokenizer, load them with plain transformers, and compare logits.

        Raises:
            ConfigError: where weights do not hold the plan, or are quantised.
            ModelError: where the reloaded model does something else.
        """
        refuse_quantised(lm, "merged")
        made = changes(lm, plan, "merged")
        config, notes = _config(lm, made)
        weights = {**lm.module.state_dict(), **_edited(lm, made)}
        tied = bool(config.tie_word_embeddings) and _touches_embedding(lm, made)
        if tied:
            config.tie_word_embeddings = False
            notes.append("Embedding and head were one matrix; they are untied, since the embedding alone changed.")
        config.demur = dict(marks)
        shell = _shell(lm, config)
        for name, old in shell.state_dict().items():
            weights.setdefault(name, torch.zeros(old.shape, dtype=lm.dtype))  # the biases that were made room for
        shell.load_state_dict({k: weights[k] for k in shell.state_dict()}, strict=True, assign=True)
        shell.generation_config = lm.module.generation_config
        with quiet():
            shell.save_pretrained(folder, max_shard_size=self.shard)
            lm.tokenizer.save_pretrained(folder)
        notes.append(f"{len(made)} edits of {len({id(c.module) for c in made})} modules.")
        return Exported(checked=self._check(lm, plan, folder), notes=tuple(notes))

    def _check(self, lm: LM, plan: Plan, folder: Path) -> Checked:
        import transformers

        with quiet():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=lm.dtype, local_files_only=True
            )
            model.to(lm.device)
            by = f"transformers {importlib.metadata.version('transformers')}, loaded anew from the folder"
            return compare(lm, plan, by, lambda ids: model.eval()(input_ids=ids).logits[0])


def _config(lm: LM, made: Sequence[Change]) -> tuple[Any, list[str]]:
    """Return a configuration under which every shifted layer has a bias, and what was changed in it.

    Raises:
        ConfigError: where the class has no such bias.
    """
    wanted = {name_of(lm, c.module) + ".bias" for c in made if isinstance(c, Shift)}
    wanted -= {name for name, _ in lm.module.named_parameters()}
    config = copy.deepcopy(lm.module.config)
    notes = []
    for flag in FLAGS:
        if not wanted or getattr(config, flag, None) is not False:
            continue
        tried = copy.deepcopy(config)
        setattr(tried, flag, True)
        if gained := wanted & set(_shell(lm, tried).state_dict()):
            config, wanted = tried, wanted - gained
            notes.append(
                f"`{flag}` is now true in config.json: the vector is a bias, the other biases it brings are zero. "
                f"A server must read `{flag}` for this class; transformers does."
            )
    if wanted:
        layer = sorted(wanted)[0].removesuffix(".bias")
        raise refuse(
            "merged",
            f"{type(lm.module).__name__} has no bias slot at {layer}, and one put there would be lost on loading",
            "A LoRA adapter can carry it for peft (--to lora), a control vector for llama.cpp (--to gguf-vector).",
        )
    return config, notes


def _shell(lm: LM, config: Any) -> Any:
    """Return the model's class under a configuration, its parameters without storage."""
    with torch.device("meta"):
        return type(lm.module)(config)


def _edited(lm: LM, made: Sequence[Change]) -> dict[str, Tensor]:
    """Return the changed parameters by name."""
    found: dict[str, Tensor] = {}
    names = {module: name for name, module in lm.module.named_modules()}

    def now(module: nn.Module, name: str) -> Tensor | None:
        old = module._parameters.get(name)
        return found.get(f"{names[module]}.{name}", None if old is None else old.detach())

    for change in made:
        where = names[change.module]
        if isinstance(change, LowRank):
            weight = now(change.module, "weight")
            if weight is None or weight.ndim != 2:
                raise refuse("merged", f"{where} has no matrix to change")
            found[f"{where}.weight"] = add_low_rank(change.module, weight, change.edit, change.up, change.down)
        elif isinstance(change, Shift):
            bias = now(change.module, "bias")
            base = torch.zeros(lm.d_model, dtype=torch.float64, device=lm.device) if bias is None else bias.double()
            found[f"{where}.bias"] = (base + change.vector.to(base)).to(lm.dtype)
        else:
            for name, axis in ((change.writer.name, change.writer.axis), ("bias", 0)):
                old = now(change.module, name)
                if old is not None:
                    norm = change.norm if old.ndim > 1 else "none"
                    found[f"{where}.{name}"] = project_out(old, change.r, change.strength, axis, norm)
    return found


def _touches_embedding(lm: LM, made: Sequence[Change]) -> bool:
    head = lm.module.get_output_embeddings()
    shared = getattr(head, "weight", None)
    touched = {id(c.module._parameters.get(c.writer.name)) for c in made if isinstance(c, Project)}
    touched |= {id(c.module._parameters.get("weight")) for c in made if isinstance(c, LowRank)}
    return shared is not None and id(shared) in touched
