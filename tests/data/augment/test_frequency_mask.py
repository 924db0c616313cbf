"""Masks over frequency: whole bands at the mean, never wider than allowed, every width occurs."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec


def test_bands_of_the_mean() -> None:
    value = np.random.default_rng(0).normal(size=(10, 20)).astype(np.float32)
    part, widths = spec("data.augment", "frequency_mask", number=1, width=4).build(), set()
    for seed in range(200):
        changed = part(value, np.random.default_rng(seed))
        hit = np.flatnonzero((changed != value).any(axis=0))
        widths.add(len(hit))
        assert not len(hit) or (np.ptp(hit) == len(hit) - 1 and np.allclose(changed[:, hit], value.mean()))
    assert widths == set(range(5))
