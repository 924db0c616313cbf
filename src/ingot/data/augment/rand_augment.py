"""A few drawn operations of one strength.   Cubuk et al. 2019 (RandAugment), arXiv:1909.13719.

Of fourteen operations (rotation, shear, shift, color, contrast, brightness, sharpness, solarize, posterize, equalize, ...) ``number``
are drawn with replacement and applied one after another; those with a direction take a drawn sign.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Interval

from ...core.parts import NonNegative, Positive, part
from ._pixels import OPERATIONS

_OPERATIONS = tuple(OPERATIONS.values())


@part
class RandAugment:
    """number: operations (the paper's N). magnitude: their strength, 0 to 10 (M). deviation: standard deviation of the strength."""

    reads = "image"

    def __init__(
        self, *, number: Positive[int] = 2, magnitude: Annotated[float, Interval(gt=0, le=10)] = 9.0, deviation: NonNegative[float] = 0.0
    ):
        self.number, self.magnitude, self.deviation = number, magnitude, deviation

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        for _ in range(self.number):
            operation, sign = _OPERATIONS[int(draw.integers(len(_OPERATIONS)))], 1.0 if draw.random() < 0.5 else -1.0
            strength = float(np.clip(draw.normal(self.magnitude, self.deviation) / 10, 0, 1)) if self.deviation else self.magnitude / 10
            value = operation(value, strength, sign)
        return value
