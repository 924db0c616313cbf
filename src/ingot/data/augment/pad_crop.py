"""A square of the image's own size from its padded version.   He et al. 2015, arXiv:1512.03385, section 4.2."""

from __future__ import annotations

import numpy as np

from ...core.parts import Positive, part


@part
class PadCrop:
    """pad: pixels added on every side, mirrored; the place of the crop is drawn uniformly."""

    reads = "image"

    def __init__(self, *, pad: Positive[int] = 4):
        self.pad = pad

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        top, left = draw.integers(0, 2 * self.pad + 1, size=2).tolist()
        H, W, _ = value.shape
        padded = np.pad(value, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)), mode="reflect" if min(H, W) > self.pad else "edge")
        return padded[top : top + H, left : left + W]
