"""Load a model from the package, a folder or the hub; choose device and dtype, and say why."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from demur import organism
from demur.errors import ConfigError, ModelError, NotFound, Unavailable, nearest, one_line
from demur.files import file_sha256
from demur.lm import LM, PROBE
from demur.plan import Plan
from demur.types import ModelRef

SMALL = 8_000_000
"""Parameters below which one CPU thread is used: a second one gains nothing, and stalls on a busy machine."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SUFFIXES = ("*.safetensors", "*.bin")
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def load(model: str = "organism", *, device: str = "auto", dtype: str = "auto", revision: str = "") -> LM:
    """Load a decoder-only language model, and check that demur's forward pass gives the model's own logits.

    For a very small model on the CPU, torch is told to use one thread.

    Args:
        model: `organism`, `organism:base`, a folder in transformers format, or an id on the Hugging Face hub.
        device: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        revision: branch, tag or commit on the hub.

    Raises:
        NotFound: for a name that neither the package nor the hub has.
        Unavailable: when the hub is needed and cannot be reached.
        ConfigError: for an unknown device or dtype.
        ModelError: for a folder that holds no model, a model that is no decoder-only language model, one whose
            structure is not understood, or one that does not fit in memory.
    """
    source, commit, config, place, kind, why = _choices(model, device, dtype, revision)
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=commit or None, **_local(source))
            module: Any = transformers.AutoModelForCausalLM.from_pretrained(
                source, revision=commit or None, dtype=kind, config=config, **_local(source)
            )
            module = module.to(place)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(f"{model} does not fit in the memory of {place}: {error}; try --dtype bfloat16") from None
    except Exception as error:
        raise ModelError(f"{model} cannot be loaded: {one_line(error)}") from None
    ref = ModelRef(id=model, revision=commit or _weights_sha(source), dtype=str(kind).removeprefix("torch."))
    lm = LM(module, tokenizer, ref, f"{place}, {ref.dtype}: {why}")
    if place.type == "cpu" and sum(p.numel() for p in module.parameters()) < SMALL:
        torch.set_num_threads(1)
        lm.choice += "; one thread, which is enough at this size"
    lm.ref = ModelRef(id=ref.id, revision=ref.revision, dtype=ref.dtype, template_sha=lm.chats.sha)
    if not lm.chats.has_template:
        lm.choice += "; no chat template: prompts are given as plain text"
    check(lm)
    return lm


def describe(model: str, *, device: str = "auto", dtype: str = "auto", revision: str = "") -> tuple[Any, Any, Any]:
    """Return the configuration, device and dtype that `load` would use; no weight is read.

    Raises:
        as `load`.
    """
    _, _, config, place, kind, _ = _choices(model, device, dtype, revision)
    return config, place, kind


def origin(model: str, revision: str = "") -> tuple[str, str, str]:
    """Return what transformers can load of a model, its hub commit or "", and how records name its weights.

    Raises:
        as `load`.
    """
    source, commit = _source(model, revision)
    return source, commit, commit or _weights_sha(source)


def _choices(
    model: str, device: str, dtype: str, revision: str
) -> tuple[str, str, Any, torch.device, torch.dtype, str]:
    """Return where the model comes from (and its commit), its configuration, device and dtype, and why this dtype."""
    if dtype not in ("auto", *DTYPES):
        raise NotFound("dtype", dtype, ("auto", *DTYPES))
    source, commit = _source(model, revision)
    config = _config(source, model, commit)
    place = _device(device)
    kind, why = _dtype(dtype, place, config, source)
    return source, commit, config, place, kind, why


def check(lm: LM) -> None:
    """Compare demur's forward pass with the model's own on a few tokens, padded and not.

    Raises:
        ModelError: where they differ: then nothing demur says of the model would be true.
    """
    short = list(PROBE[:5])
    ids, rows, _ = lm.batch(lm.encode_all([PROBE, short]), [Plan(), Plan()])
    try:
        ours = lm.head(lm.forward(ids, rows))
        with torch.no_grad():
            theirs = [
                lm.module(input_ids=torch.tensor([t], device=lm.device)).logits[0].float() for t in (PROBE, short)
            ]
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{lm.ref.id} ({type(lm.module).__name__}) is not understood: {one_line(error)}") from None
    for row, own in zip(ours, theirs, strict=True):
        off = float((row[: len(own)] - own).abs().max()) / max(1.0, float(own.abs().max()))
        if not off <= TOLERANCE.get(lm.dtype, 1e-1):
            raise ModelError(
                f"{lm.ref.id} ({type(lm.module).__name__}) is not understood: demur's forward pass gives other logits "
                f"than the model's own (relative difference {off:.1e}). It may be no causal model."
            )


def _source(model: str, revision: str) -> tuple[str, str]:
    """Return what transformers can load, and the hub commit where there is one."""
    if model in organism.NAMES:
        folder = organism.path(model)
        if not (folder / "config.json").is_file():
            raise ModelError(f"the weights of {model} are not in this installation ({folder}); install demur anew")
        return str(folder), ""
    folder = Path(model).expanduser()
    if folder.exists() or model.startswith((".", "/", "~")):
        if not (folder / "config.json").is_file():
            what = "holds no config.json" if folder.is_dir() else "is not a folder"
            raise ModelError(f"{model} is no model: it {what}; give a folder that save_pretrained wrote, or a hub id")
        return str(folder), ""
    if ("/" not in model or model.startswith("organism:")) and nearest(model, organism.NAMES):
        raise NotFound("model", model, organism.NAMES)
    return _hub(model, revision)


def _hub(model: str, revision: str) -> tuple[str, str]:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision or None)
    except HFValidationError:
        raise NotFound("model", model, organism.NAMES) from None
    if isinstance(cached, str):
        return model, Path(cached).parent.name
    advice = f"{model} is not in the local cache; load it once while online, or give a folder"
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "0") not in ("", "0"):
        raise Unavailable(f"the hub is switched off (HF_HUB_OFFLINE) and {advice}")
    try:
        return model, str(HfApi().model_info(model, revision=revision or None, timeout=5).sha)
    except GatedRepoError:
        raise Unavailable(f"{model} is gated: accept its terms on the hub and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ConfigError(f"{model} has no revision {revision!r} on the hub") from None
    except RepositoryNotFoundError:
        raise NotFound("model", model, organism.NAMES, where="the hub") from None
    except Exception as error:
        raise Unavailable(f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}) and {advice}") from None


def _local(source: str) -> dict[str, Any]:
    return {"local_files_only": True} if Path(source).is_dir() else {}


def _config(source: str, model: str, commit: str) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(source, revision=commit or None, **_local(source))
    except Exception as error:
        raise ModelError(f"{model} is no model that transformers knows: {one_line(error)}") from None
    named = list(getattr(config, "architectures", None) or [])
    if getattr(config, "is_encoder_decoder", False) or (named and not any(n.endswith(CAUSAL) for n in named)):
        what = named[0] if named else config.model_type
        raise ModelError(
            f"{model} is no decoder-only language model ({what}); demur needs one that writes left to right"
        )
    return config


def _device(device: str) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            own = os.environ.get("LOCAL_RANK", "")  # under `accelerate launch` each process has a GPU of its own
            return torch.device("cuda", int(own)) if own else torch.device("cuda")
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used ({one_line(error)}); try auto or cpu") from None
    return place


def _dtype(dtype: str, place: torch.device, config: Any, source: str) -> tuple[torch.dtype, str]:
    if dtype != "auto":
        return DTYPES[dtype], "as asked for"
    own = getattr(config, "dtype", None)
    own = own if isinstance(own, torch.dtype) else torch.float32
    if place.type == "cpu":
        size = sum(f.stat().st_size for f in Path(source).glob("*.safetensors")) if Path(source).is_dir() else 0
        needed = size * 4 // own.itemsize
        if needed > 0.7 * _memory():
            return own, f"the checkpoint's own, since float32 would need {needed / 2**30:.0f} GiB"
        return torch.float32, "no GPU is used, and CPUs compute exactly and fastest in float32"
    if own is torch.float32 and place.type == "cuda":
        return own, "the checkpoint's own"
    return (torch.bfloat16 if own is torch.bfloat16 else own), "a GPU was found, and this is the checkpoint's own"


def _memory() -> int:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 2**62


def _weights_sha(source: str) -> str:
    """Return a hash of the hashes of the weight files in a folder."""
    files = sorted(f for pattern in SUFFIXES for f in Path(source).glob(pattern))
    text = "\n".join(f"{f.name} {file_sha256(f)}" for f in files)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loading bar and the notes of transformers off the terminal."""
    log = logging.getLogger("transformers")
    level = log.level
    bars: Any = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    log.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        log.setLevel(level)
        if shown:
            bars.enable_progress_bar()
