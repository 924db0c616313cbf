"""Colors jittered, taken away or blurred.   Chen et al. 2020 (SimCLR), arXiv:2002.05709, appendix A.

Brightness, contrast and saturation are multiplied by a factor drawn from [1 - s, 1 + s], the hue is turned by up to ``hue`` of the
circle, in a drawn order; then, each with its probability, the image becomes gray, and is blurred with sigma drawn from [0.1, 2].

DEPARTS: the blur's sigma is in pixels of the stored image, whatever its size; the paper blurs after the crop.
"""

from __future__ import annotations

import numpy as np

from ...core.parts import Fraction, NonNegative, part
from . import _pixels


@part
class Color:
    """brightness, contrast, saturation: s. hue: share of the circle. probability: of any jitter. gray, blur: probabilities."""

    reads = "image"

    def __init__(
        self,
        *,
        brightness: NonNegative[float] = 0.4,
        contrast: NonNegative[float] = 0.4,
        saturation: NonNegative[float] = 0.4,
        hue: Fraction = 0.1,
        probability: Fraction = 0.8,
        gray: Fraction = 0.2,
        blur: Fraction = 0.0,
    ):
        self.strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.hue, self.probability, self.gray, self.blur = hue, probability, gray, blur

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        if draw.random() < self.probability:
            for at in draw.permutation(4).tolist():
                value = self._jittered(value, at, draw)
        if draw.random() < self.gray:
            value = _pixels.gray(value)
        return _pixels.blur(value, draw.uniform(0.1, 2.0)) if draw.random() < self.blur else value

    def _jittered(self, value: np.ndarray, at: int, draw: np.random.Generator) -> np.ndarray:
        if at == 3:
            return _pixels.hue(value, draw.uniform(-self.hue, self.hue)) if self.hue else value
        name = ("brightness", "contrast", "saturation")[at]
        strength = self.strengths[name]
        changed: np.ndarray = getattr(_pixels, name)(value, draw.uniform(max(0.0, 1 - strength), 1 + strength)) if strength else value
        return changed
