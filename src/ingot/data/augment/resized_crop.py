"""A random part of the image, brought to the size of the row.   Szegedy et al. 2014, arXiv:1409.4842, section 6."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...core.parts import part
from ...core.seams import Field
from ..source._images import resized


@part
class ResizedCrop:
    """area: bounds of the part's share of the image, drawn uniformly; ratio: bounds of width over height, uniform in its logarithm.

    A part that does not fit is drawn again, ten times; then it is the largest square in the middle.
    """

    reads = "image"

    def __init__(self, *, area: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (0.75, 4 / 3)):
        self.area, self.ratio, self.size = area, ratio, 0

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        for name, most in (("area", 1.0), ("ratio", float("inf"))):
            low, high = knobs[name]
            if not 0 < low <= high <= most:
                yield f"{name} wants two rising numbers above 0{' and at most 1' if most == 1 else ''}, got {[low, high]}"

    def bind(self, fields: Mapping[str, Field]) -> None:
        """Learn the size that rows have."""
        self.size = fields["image"].shape[-1]

    def __call__(self, value: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        H, W, _ = value.shape
        return resized(value, self._box(H, W, draw), self.size or min(H, W))

    def _box(self, H: int, W: int, draw: np.random.Generator) -> tuple[float, float, float, float]:
        for _ in range(10):
            area = H * W * draw.uniform(*self.area)
            ratio = float(np.exp(draw.uniform(*np.log(self.ratio))))
            width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < width <= W and 0 < height <= H:
                left, top = int(draw.integers(0, W - width + 1)), int(draw.integers(0, H - height + 1))
                return (left, top, left + width, top + height)
        side = min(H, W)
        return ((W - side) // 2, (H - side) // 2, (W - side) // 2 + side, (H - side) // 2 + side)
