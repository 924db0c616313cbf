"""k-means: groups that lie apart are found, centers are means, all centers are used, the same seed gives the same codes."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec
from ingot.data.annotate.kmeans import nearest


def test_groups_are_found() -> None:
    draw = np.random.default_rng(0)
    middles = draw.normal(size=(5, 3)) * 10
    truth = draw.integers(0, 5, 400)
    values = (middles[truth] + draw.normal(size=(400, 3)) * 0.1).astype(np.float32)
    part = spec("data.annotate", "kmeans", clusters=5).build()
    centers = part.fit(values)
    codes = part.assign(values, centers)
    assert len({(a, b) for a, b in zip(truth.tolist(), codes.tolist(), strict=True)}) == 5
    for code in range(5):
        np.testing.assert_allclose(centers[code], values[codes == code].mean(axis=0), atol=1e-4)
    assert np.array_equal(centers, part.fit(values))


def test_no_center_stays_empty() -> None:
    values = np.concatenate([np.zeros((50, 2)), np.random.default_rng(1).normal(size=(30, 2))]).astype(np.float32)
    codes, distance = nearest(values, spec("data.annotate", "kmeans", clusters=12).build().fit(values))
    assert len(set(codes.tolist())) == 12 and (distance > -1e-5).all()


def test_codes_follow_the_sound() -> None:
    part = spec("data.annotate", "kmeans", clusters=2).build()
    t = np.arange(8000) / 16000
    low, high = np.sin(2 * np.pi * 200 * t).astype(np.float32), np.sin(2 * np.pi * 3000 * t).astype(np.float32)
    values = part.values(np.concatenate([low, high]), 16000)
    codes = part.assign(values, part.fit(values))
    assert len(codes) == 98 and len(set(codes[:46].tolist())) == 1 and len(set(codes[52:].tolist())) == 1 and codes[0] != codes[-1]
