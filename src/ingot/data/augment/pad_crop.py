"""A square of the image's own size from its padded version.   He et al. 2015, arXiv:1512.03385, section 4.2."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ...core.parts import Positive, part


@part
class PadCrop:
    """pad: pixels added on every side, mirrored; the place of the crop is drawn uniformly."""

    reads = "image"

    def __init__(self, *, pad: Positive[int] = 4):
        self.pad = pad

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        top, left = (int(draw.integers(0, 2 * self.pad + 1)) for _ in range(2))
        H, W, _ = value.shape
        mirrored = min(H, W) > self.pad
        rows, columns = _places(H, self.pad, mirrored), _places(W, self.pad, mirrored)
        places = rows[top : top + H, None] * W + columns[left : left + W]
        return value.reshape(H * W, -1).take(places, axis=0)


@lru_cache(maxsize=64)  # images of a run mostly have one size
def _places(size: int, pad: int, mirrored: bool) -> np.ndarray:
    """Where the pixels of a padded side come from: outside of the image from its mirror, or from its edge where it is too small."""
    places, last = np.arange(-pad, size + pad), size - 1
    return last - np.abs(last - np.abs(places)) if mirrored else np.minimum(np.maximum(places, 0), last)
