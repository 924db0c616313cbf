"""What augmentations that mix two rows share: the share of the first, and the second's class beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.seams import Field


class Mixing:
    """alpha: of the Beta distribution that the share is drawn from. probability: of mixing at all. A row mixed already is left."""

    reads = "image"
    mixes = True
    adds = {"label_other": Field((), "int64"), "label_share": Field((), "float32")}  # noqa: RUF012

    def __init__(self, alpha: float, probability: float):
        self.alpha, self.probability = alpha, probability

    def mix(self, row: dict[str, Any], other: dict[str, Any], draw: np.random.Generator) -> dict[str, Any]:
        """A finished row, (C, H, W) image and label, mixed with another."""
        wanted, share = draw.random() < self.probability, float(draw.beta(self.alpha, self.alpha))
        row = {"label_other": row.get("label", -100), "label_share": np.float32(1.0)} | row
        if not wanted or row["label_share"] < 1:
            return row
        image, share = self.combined(row["image"], other["image"], share, draw)
        return row | {"image": image, "label_other": other.get("label", -100), "label_share": np.float32(share)}

    def combined(self, one: np.ndarray, other: np.ndarray, share: float, draw: np.random.Generator) -> tuple[np.ndarray, float]:
        """The new image and the share of the first in it."""
        raise NotImplementedError
