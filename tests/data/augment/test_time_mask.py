"""Masks over time: whole frames at the mean, never wider than allowed, every width occurs."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec


def test_stretches_of_the_mean() -> None:
    value = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    part, widths = spec("data.augment", "time_mask", number=1, width=6).build(), set()
    for seed in range(300):
        changed = part(value, np.random.default_rng(seed))
        hit = np.flatnonzero((changed != value).any(axis=1))
        widths.add(len(hit))
        assert not len(hit) or (np.ptp(hit) == len(hit) - 1 and np.allclose(changed[hit], value.mean()))
    assert widths == set(range(7))
    assert (
        max(
            len(
                np.flatnonzero(
                    (spec("data.augment", "time_mask", number=1, share=0.1).build()(value, np.random.default_rng(s)) != value).any(axis=1)
                )
            )
            for s in range(100)
        )
        == 4
    )
