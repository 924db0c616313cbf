"""Padded crops: the same size, a window of the mirrored image, every place equally likely."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec


def test_is_a_window_of_the_padded_image() -> None:
    image = np.arange(6 * 6, dtype=np.uint8).reshape(6, 6, 1)
    crop, draw = spec("data.augment", "pad_crop", pad=2).build(), np.random.default_rng(0)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {padded[top : top + 6, left : left + 6].tobytes(): (top, left) for top in range(5) for left in range(5)}
    places = [windows[crop(image, draw).tobytes()] for _ in range(2000)]
    counts = np.bincount([5 * top + left for top, left in places], minlength=25)
    assert counts.min() > 40 and counts.max() < 130
