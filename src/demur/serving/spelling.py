"""How single tokens are written: as text, and as bytes, which also half a character has."""

from __future__ import annotations

import functools
import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """The texts and bytes of a tokenizer's tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizer in transformers' form."""
        self.tokenizer = tokenizer
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._letters = byte_letters() if "ByteLevel" in str(decoder) else {}
        self._known: dict[int, tuple[str, list[int]]] = {}

    def of(self, token: int) -> tuple[str, list[int]]:
        """Return a token's text and its bytes."""
        if token not in self._known:
            self._known[token] = self._spell(token)
        return self._known[token]

    def _spell(self, token: int) -> tuple[str, list[int]]:
        text = str(self.tokenizer.decode([token], skip_special_tokens=False))
        raw = self.tokenizer.convert_ids_to_tokens(token)
        if isinstance(raw, str) and (found := _BYTE.fullmatch(raw)):
            return text, [int(found[1], 16)]
        if isinstance(raw, str) and self._letters and text != raw and all(letter in self._letters for letter in raw):
            return text, [self._letters[letter] for letter in raw]
        return text, list(text.encode())


@functools.cache
def byte_letters() -> dict[str, int]:
    """Return the bytes by the letters that byte-level tokenizers write them as (GPT-2's alphabet)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
