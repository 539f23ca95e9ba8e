"""A sentence-transformers model as an embedder, by plain transformers: encode, pool, scale to length 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from demur.embeddings import Vectors
from demur.errors import Unavailable

_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceModel:
    """Embeddings of an encoder: the mean of its last states over a text, or the first one where the model says so.

    Reimers and Gurevych, *Sentence-BERT*, EMNLP 2019. Longer texts are cut at the model's own `max_seq_length`.
    """

    model: str
    """A hub id as in `sentence-transformers/all-MiniLM-L6-v2`, or a local folder."""
    revision: str = ""
    threshold: float = 0.85
    """The cosine from which two texts count as near."""
    _parts: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The last part of the model's id or folder."""
        return Path(self.model).name

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return [text, dimension] in float32, rows of length 1.

        Raises:
            Unavailable: when the model is neither here nor to be had.
        """
        tokenizer, module, first, longest = self._loaded()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        made = np.zeros((len(texts), int(module.config.hidden_size)), np.float32)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            with torch.inference_mode():
                states = module(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = states[:, 0] if first else (states * mask).sum(1) / mask.sum(1)
            made[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return made

    def _loaded(self) -> tuple[Any, Any, bool, int]:
        """Load once: tokenizer, module, whether the first token is pooled, the longest text in tokens."""
        if not self._parts:
            where = {"revision": self.revision or None}
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.model, **where)
                module = AutoModel.from_pretrained(self.model, dtype=torch.float32, **where).eval()
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:160]
                raise Unavailable(
                    f"embedder {self.model!r} cannot be loaded ({reason}); name a hub id or a folder with "
                    "config.json, model.safetensors and tokenizer.json, or use 'shingles'"
                ) from None
            pooling = _setting(self.model, "1_Pooling/config.json", "pooling_mode_cls_token", False)
            longest = _setting(self.model, "sentence_bert_config.json", "max_seq_length", 256)
            most = int(getattr(module.config, "max_position_embeddings", longest))
            self._parts.extend([tokenizer, module, bool(pooling), min(int(longest), most)])
        tokenizer, module, first, longest = self._parts
        return tokenizer, module, first, longest


def _setting(model: str, file: str, key: str, default: Any) -> Any:
    """Return a setting of the model's sentence-transformers files; the default where there is no such file."""
    path = Path(model) / file
    if not Path(model).is_dir():
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, file)
        path = Path(found) if isinstance(found, str) else path
    return json.loads(path.read_text("utf-8")).get(key, default) if path.is_file() else default
