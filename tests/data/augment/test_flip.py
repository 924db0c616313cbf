"""Mirroring: left and right alone, as often as asked."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec


def test_mirrors_left_and_right_as_often_as_asked() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    flip, draw = spec("data.augment", "flip", probability=0.3).build(), np.random.default_rng(0)
    found = [flip(image, draw) for _ in range(1000)]
    mirrored = [np.array_equal(one, image[:, ::-1]) for one in found]
    assert all(np.array_equal(one, image) for one, other in zip(found, mirrored) if not other) and 250 < sum(mirrored) < 350
