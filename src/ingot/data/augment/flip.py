"""Left and right exchanged."""

from __future__ import annotations

import numpy as np

from ...core.parts import Fraction, part


@part
class Flip:
    """probability: of a mirrored image."""

    reads = "image"

    def __init__(self, *, probability: Fraction = 0.5):
        self.probability = probability

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return value[:, ::-1] if draw.random() < self.probability else value
