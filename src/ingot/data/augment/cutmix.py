r"""A rectangle of another image put into the image.   Yun et al. 2019 (CutMix), arXiv:1905.04899, section 3.1.

The rectangle has the image's proportions and the share 1 - s of its area, s ~ Beta(alpha, alpha), around a uniform middle; what lies
outside the image is cut off, and the label's share is that of the pixels left. The second row: as in ``mixup``.
"""

from __future__ import annotations

import numpy as np

from ...core.parts import Fraction, Positive, part
from ._mixing import Mixing


@part
class CutMix(Mixing):
    """alpha: of the Beta distribution. probability: of mixing at all."""

    def __init__(self, *, alpha: Positive[float] = 1.0, probability: Fraction = 1.0):
        super().__init__(alpha, probability)

    def combined(self, one: np.ndarray, other: np.ndarray, share: float, draw: np.random.Generator) -> tuple[np.ndarray, float]:
        _, H, W = one.shape
        height, width = (round(size * (1 - share) ** 0.5) for size in (H, W))
        top, left = int(draw.integers(H)) - height // 2, int(draw.integers(W)) - width // 2
        rows, columns = slice(max(0, top), max(0, min(H, top + height))), slice(max(0, left), max(0, min(W, left + width)))
        mixed = one.copy()
        mixed[:, rows, columns] = other[:, rows, columns]
        return mixed, 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (H * W)
