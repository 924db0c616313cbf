"""A random part of the image, brought to the size of the row.   Szegedy et al. 2014, arXiv:1409.4842, section 6."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.parts import Positive, part
from ...core.seams import Field
from ..source._images import resized


@part
class ResizedCrop:
    """small: side of the looks from the ``whole``-th on, which are parts of ``small_area`` then (multi-crop: Caron et al. 2020,
    arXiv:2006.09882, section 3.2); all looks are alike when not given. area: bounds of the part's share of the image, drawn uniformly;
    ratio: bounds of width over height, uniform in its logarithm.

    A part that does not fit is drawn again, ten times; then it is the largest square in the middle.
    """

    reads = "image"

    def __init__(
        self,
        *,
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        small: Positive[int] | None = None,
        small_area: tuple[float, float] = (0.05, 0.4),
        whole: Positive[int] = 2,
    ):
        self.area, self.ratio, self.size = area, ratio, 0
        self.small, self.small_area, self.whole = small, small_area, whole

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        for name, most in (("area", 1.0), ("small_area", 1.0), ("ratio", float("inf"))):
            low, high = knobs[name]
            if not 0 < low <= high <= most:
                yield f"{name} wants two rising numbers above 0{' and at most 1' if most == 1 else ''}, got {[low, high]}"

    def bind(self, fields: Mapping[str, Field]) -> None:
        """Learn the size that rows have."""
        self.size = fields["image"].shape[-1]

    def of_view(self, view: int) -> ResizedCrop:
        """What the view-th look of a row goes through."""
        if self.small is None or view < self.whole:
            return self
        other = copy.copy(self)
        other.area, other.size = self.small_area, self.small
        return other

    def field_of_view(self, field: Field, view: int) -> Field:
        """Shape of the view-th look."""
        return field if self.small is None or view < self.whole else replace(field, shape=(field.shape[0], self.small, self.small))

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
