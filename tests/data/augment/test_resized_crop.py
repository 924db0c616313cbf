"""Random parts at the row's size: bounds of area and ratio, the middle where nothing fits."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.core.resolve import spec
from ingot.core.seams import Field

pytest.importorskip("PIL")


def test_boxes_keep_their_bounds() -> None:
    crop, draw = spec("data.augment", "resized_crop", area=(0.2, 0.6), ratio=(0.5, 2.0)).build(), np.random.default_rng(0)
    boxes = np.array([crop._box(100, 140, draw) for _ in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = width * height / 14000, width / height
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 140 and boxes[:, 3].max() <= 100
    assert area.min() > 0.18 and area.max() < 0.62 and ratio.min() > 0.48 and ratio.max() < 2.1
    assert abs(area.mean() - 0.4) < 0.03 and (ratio < 1).mean() == pytest.approx(0.5, abs=0.1)


def test_comes_out_at_the_size_of_rows() -> None:
    crop = spec("data.augment", "resized_crop").build()
    crop.bind({"image": Field((3, 24, 24), "uint8")})
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert crop(image, np.random.default_rng(1)).shape == (24, 24, 3)
    assert crop(image[:, :, :1], np.random.default_rng(1)).shape == (24, 24, 1)


def test_what_never_fits_becomes_the_middle() -> None:
    crop = spec("data.augment", "resized_crop", area=(1.0, 1.0), ratio=(0.99, 1.01)).build()
    assert crop._box(10, 100, np.random.default_rng(0)) == (45, 0, 55, 10)


def test_wrong_bounds_are_refused() -> None:
    from ingot.data.augment.resized_crop import ResizedCrop

    assert "wants two rising numbers" in next(iter(ResizedCrop.check({"area": (0.5, 1.5), "ratio": (1, 2)}, {})))
