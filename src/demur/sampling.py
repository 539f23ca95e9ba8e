"""A model's own generation settings, as its `generation_config.json` has them: what its users meet by default."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from demur import organism
from demur.errors import ConfigError, Unavailable
from demur.files import read_json
from demur.types import Sampling

FILE = "generation_config.json"
IGNORED = ("top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "no_repeat_ngram_size")
"""Settings that demur's decode loop does not apply."""
_OFF = {"top_k": (0, None), "min_p": (0, None), "typical_p": (1, None), "repetition_penalty": (1, None)}


def own_sampling(model: str, base: Sampling | None = None, *, revision: str = "") -> tuple[Sampling, tuple[str, ...]]:
    """Return `base` with the temperature and top_p that a model's generation settings name, and what is left out.

    Without `do_sample` the model's own setting is greedy: temperature 0.

    Args:
        model: `organism`, a folder in transformers format, or an id on the hub (its file is fetched).
        base: everything else; the defaults of `Sampling` where it is not given.
        revision: branch, tag or commit on the hub.

    Returns:
        the sampling, and the settings named in the file that are not applied, as `top_k=20`.

    Raises:
        ConfigError: where several samples are wanted of a model whose own setting is greedy: all would be equal.
        Unavailable: where the hub is needed and cannot be reached.
        DataError: where the file is no JSON.
    """
    wanted = base or Sampling()
    path = _path(model, revision)
    named = read_json(path) if path is not None and path.is_file() else {}
    if not named.get("do_sample"):
        if wanted.samples > 1:
            raise ConfigError(
                f"{model} answers greedily by its own generation settings: {wanted.samples} samples would be equal. "
                "Give --temperature, or --samples 1."
            )
        return dataclasses.replace(wanted, temperature=0.0, top_p=1.0), ()
    left = tuple(f"{k}={named[k]}" for k in IGNORED if k in named and named[k] not in _OFF.get(k, (0, None)))
    temperature, top_p = float(named.get("temperature", 1.0)), float(named.get("top_p", 1.0))
    return dataclasses.replace(wanted, temperature=temperature, top_p=top_p), left


def _path(model: str, revision: str) -> Path | None:
    """Return where the settings of a model are; None where it has none."""
    if model in organism.NAMES:
        return organism.path(model) / FILE
    folder = Path(model).expanduser()
    if folder.exists() or model.startswith((".", "/", "~")):
        return folder / FILE
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, FILE, revision=revision or None))
    except HFValidationError:
        raise ConfigError(f"{model!r} is no folder and no hub id; --sampling model needs one of them") from None
    except LocalEntryNotFoundError:
        advice = "load the model once while online, or give --temperature and --top-p"
        raise Unavailable(f"the generation settings of {model} are not in the local cache: {advice}") from None
    except EntryNotFoundError:
        return None
    except Exception as error:
        advice = "load the model once while online, or give --temperature and --top-p"
        raise Unavailable(f"the generation settings of {model} cannot be fetched ({error!r}): {advice}") from None
