"""Colors: gray stays gray, factors and turns do what they say, probabilities hold."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec
from ingot.data.augment import _pixels

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def test_operations_are_what_their_names_say() -> None:
    assert np.array_equal(_pixels.brightness(IMAGE, 1.0), IMAGE) and _pixels.brightness(IMAGE, 0.0).max() == 0
    assert np.ptp(_pixels.contrast(IMAGE, 0.0)) <= 1 and np.array_equal(_pixels.saturation(IMAGE, 0.0), _pixels.gray(IMAGE))
    gray = _pixels.gray(IMAGE)
    assert (
        np.array_equal(_pixels.hue(gray, 0.3), gray)
        and np.abs(_pixels.hue(_pixels.hue(IMAGE // 4 + 96, 0.5), 0.5).astype(int) - (IMAGE // 4 + 96)).max() <= 3
    )
    blurred = _pixels.blur(IMAGE, 1.0)
    assert blurred.std() < IMAGE.std() and np.array_equal(_pixels.blur(np.full_like(IMAGE, 77), 2.0), np.full_like(IMAGE, 77))


def test_probabilities_hold() -> None:
    color, draw = spec("data.augment", "color", probability=0.0, gray=0.3, blur=0.0).build(), np.random.default_rng(0)
    found = [color(IMAGE, draw) for _ in range(600)]
    grayed = [bool((one == one[:, :, :1]).all()) for one in found]
    assert 140 < sum(grayed) < 220 and all(np.array_equal(one, IMAGE) for one, gray in zip(found, grayed) if not gray)


def test_jitter_moves_every_quality() -> None:
    color, draw = spec("data.augment", "color", probability=1.0, gray=0.0).build(), np.random.default_rng(0)
    means = np.array([color(IMAGE, draw).mean(axis=(0, 1)) for _ in range(100)])
    assert means.std(axis=0).min() > 5 and 0.5 < means.mean() / IMAGE.mean() < 1.5
    assert color(IMAGE[:, :, :1], draw).shape == (12, 12, 1)
