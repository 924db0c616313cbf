"""UTF-8 bytes as tokens: ids 0 to 255 are the bytes, the specials follow.

No training and no unknown words; about four times as many tokens as a trained vocabulary for English.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...core.parts import NonNegative, part
from ..source._fingerprint import digest


@part
class Bytes:
    """specials: names of further special ids beside ``end``, in order. sentinels: how many of ``sentinel_0``, ... follow them."""

    def __init__(self, *, specials: list[str] = ["mask"], sentinels: NonNegative[int] = 0):
        names = ["end", *(name for name in specials if name != "end"), *(f"sentinel_{index}" for index in range(sentinels))]
        self.specials = {name: 256 + index for index, name in enumerate(names)}
        self.vocabulary = 256 + len(names)
        self.begin, self.end = None, 256
        self.identity = digest("bytes", 1, names)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text, uint16, without specials."""
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; specials are left out, broken characters replaced."""
        return bytes(int(item) for item in ids if int(item) < 256).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """(vocabulary,) int64: 1 for bytes, 0 for specials."""
        return (np.arange(self.vocabulary) < 256).astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and its configuration: the same ids in the Hugging Face format."""
        from ._fast import save_fast, without_merges

        save_fast(without_merges(self.specials), self.specials, folder)
