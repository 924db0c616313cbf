r"""Two images blended, and their classes with them.   Zhang et al. 2017 (mixup), arXiv:1710.09412, equation 1.

    x = s x_i + (1 - s) x_j        s ~ Beta(alpha, alpha)

The second row is drawn from the whole source by (seed, row number), not from the batch: so a row does not depend on the others of
its batch. It costs the decoding of a second image.
"""

from __future__ import annotations

import numpy as np

from ...core.parts import Fraction, Positive, part
from ._mixing import Mixing


@part
class Mixup(Mixing):
    """alpha: of the Beta distribution. probability: of mixing at all."""

    def __init__(self, *, alpha: Positive[float] = 0.8, probability: Fraction = 1.0):
        super().__init__(alpha, probability)

    def combined(self, one: np.ndarray, other: np.ndarray, share: float, draw: np.random.Generator) -> tuple[np.ndarray, float]:
        mixed = one.astype(np.float32) * share + other.astype(np.float32) * (1 - share)
        return (mixed + 0.5).astype(one.dtype) if one.dtype == np.uint8 else mixed.astype(one.dtype), share
