"""A stretch of a long clip, from a drawn place.   As in wav2vec 2.0, arXiv:2006.11477, section 4.2.

Rows are as long as the source's ``seconds``; without this they begin where the clip begins. Codes of an annotator are cut alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ...core.parts import part
from ...core.seams import Field


@part
class RandomCrop:
    """of: what rows hold."""

    reads = "waveform"

    def __init__(self, *, of: Literal["waveform", "frames"] = "waveform"):
        self.reads, self.size = of, 0

    def bind(self, fields: Mapping[str, Field]) -> None:
        """Learn the length that rows have."""
        self.size = fields[self.reads].shape[0]

    def place(self, length: int, size: int, draw: np.random.Generator) -> int:
        """Where a stretch of ``size`` out of ``length`` begins, uniformly."""
        return int(draw.integers(0, max(0, length - size) + 1))

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        size = self.size or max(1, len(value) // 2)
        start = self.place(len(value), size, draw)
        return value[start : start + size]
