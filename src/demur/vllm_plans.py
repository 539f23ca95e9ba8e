"""What of an intervention a vLLM engine can hold, exactly; the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from demur.chats import joined
from demur.errors import ConfigError
from demur.export.merged import Merged
from demur.interventions.adapter import FOLDER, Adapter
from demur.interventions.contrastive import Contrastive
from demur.interventions.instruct import Instruct
from demur.interventions.stack import Stack
from demur.lora import CONFIG, Lora
from demur.plan import Intervention

if TYPE_CHECKING:
    from demur.lm import LM
    from demur.mixing import Logits

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of adapters; since 0.33 1 as well."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Held:
    """An intervention as vLLM runs it; what is empty changes nothing."""

    system: str | None = None
    """A system text before the prompt's own."""
    adapter: Adapter | None = None
    """Sent along as a LoRA request."""
    told: str = ""
    """The system text of the other side of contrastive decoding."""
    logits: Logits | None = None
    """What is made of the two sides."""
    weights: Intervention | None = None
    """Written into the weights, from which the engine is started."""


def held(what: Intervention) -> Held:
    """Sort the parts of an intervention; whether weights can hold `weights` is told by `merge`.

    Raises:
        ConfigError: where two parts mix logits.
    """
    system: str | None = None
    contrasts: list[Contrastive] = []
    adapters: list[Adapter] = []
    others: list[Intervention] = []
    for part in _parts(what):
        if isinstance(part, Instruct):
            system = joined(system, part.text or None)
        elif isinstance(part, Contrastive):
            contrasts += [part] if part.strength and part.horizon != 0 else []
        elif isinstance(part, Adapter):
            adapters += [part] if part.strength else []
        else:
            others.append(part)
    if len(contrasts) > 1:
        raise ConfigError(f"generator vllm: {len(contrasts)} of the parts mix logits; at most one may")
    lone = len(adapters) == 1 and not others and _served(adapters[0].lora)
    edits = () if lone else (*adapters, *others)
    return Held(
        system=system,
        adapter=adapters[0] if lone else None,
        told=contrasts[0].text if contrasts else "",
        logits=_logits(contrasts[0]) if contrasts else None,
        weights=Stack(parts=edits) if edits else None,
    )


def merge(lm: LM, weights: Intervention, out: Path, named: str) -> None:
    """Write the model with an intervention in its weights, loaded again and compared; see the exporter `merged`.

    Args:
        lm: the model.
        weights: the intervention.
        out: a folder that is there.
        named: the intervention's folder, for messages.

    Raises:
        ConfigError: where weights do not hold it; the message says why and what else there is.
        ModelError: where the reloaded weights do something else.
    """
    plan = weights.plan(lm)
    try:
        Merged().refuse(lm, plan)
    except ConfigError as error:
        why = str(error).removeprefix("merged cannot hold this intervention exactly: ")
        raise ConfigError(
            f"generator vllm cannot run {named}: {why} vLLM takes trained adapters, changes of weights, system texts "
            f"and contrastive decoding. `demur export {named} --to merged` (or lora, gguf-vector, prefix) says what "
            "another form can hold; generator local and `demur serve` run it as it is"
        ) from None
    Merged()(lm, plan, out, {})


def adapter_folder(adapter: Adapter, saved: Path, spare: Path) -> Path:
    """Return a folder in peft's format: the one beside a saved adapter, else one written to `spare`."""
    if (saved / FOLDER / CONFIG).is_file():
        return saved / FOLDER
    adapter.lora.write(spare, strength=adapter.strength)
    return spare


def largest_rank(lora: Lora) -> int:
    """Return the least of `RANKS` that takes an adapter."""
    return next(rank for rank in RANKS if rank >= lora.rank)


def _served(lora: Lora) -> bool:
    """Say whether vLLM's LoRA layers take an adapter as it is."""
    return lora.rank <= RANKS[-1] and not lora.transposed


def _parts(what: Intervention) -> Iterator[Intervention]:
    if isinstance(what, Stack):
        for part in what.parts:
            yield from _parts(part)
    else:
        yield what


def _logits(contrast: Contrastive) -> Logits:
    made = contrast.plan(cast("LM", None)).logits  # it asks nothing of the model
    if made is None:
        raise ConfigError("generator vllm: contrastive decoding without a mix")
    return made
