r"""Stretches of time set to the clip's mean.   Park et al. 2019 (SpecAugment), arXiv:1904.08779, section 2.

``number`` times: frames [t, t + w) are set, w ~ U{0, ..., min(width, share F)}, t ~ U{0, ..., F - w}.
"""

from __future__ import annotations

import numpy as np

from ...core.parts import Fraction, Positive, part


@part
class TimeMask:
    """number: stretches. width: the longest, in frames (the paper's T). share: the longest, of the clip (p)."""

    reads = "frames"
    in_time = True  # a crop behind it may cut it off

    def __init__(self, *, number: Positive[int] = 2, width: Positive[int] = 100, share: Fraction = 1.0):
        self.number, self.width, self.share = number, width, share

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        changed, mean, F = value.copy(), value.mean(), len(value)
        for _ in range(self.number):
            width = int(draw.integers(0, min(self.width, int(self.share * F)) + 1))
            start = int(draw.integers(0, F - width + 1))
            changed[start : start + width] = mean
        return changed
