r"""Neighboring mel bands set to the clip's mean.   Park et al. 2019 (SpecAugment), arXiv:1904.08779, section 2.

``number`` times: bands [f, f + w) are set, w ~ U{0, ..., width}, f ~ U{0, ..., M - w}.
"""

from __future__ import annotations

import numpy as np

from ...core.parts import Positive, part


@part
class FrequencyMask:
    """number: groups of bands. width: the widest (the paper's F)."""

    reads = "frames"

    def __init__(self, *, number: Positive[int] = 2, width: Positive[int] = 27):
        self.number, self.width = number, width

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        changed, mean, M = value.copy(), value.mean(), value.shape[1]
        for _ in range(self.number):
            width = int(draw.integers(0, min(self.width, M) + 1))
            start = int(draw.integers(0, M - width + 1))
            changed[:, start : start + width] = mean
        return changed
