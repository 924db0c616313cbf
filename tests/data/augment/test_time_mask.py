"""Masks over time: whole frames at the mean, never wider than allowed, every width occurs."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.core.errors import UserError
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


def test_masks_lie_in_what_is_kept_of_a_long_clip() -> None:
    """Ten frames a row on average; a tenth of them where masks fall anywhere in clips of ten rows."""
    source, ids = spec("data.source", "synthetic_audio", count=40, seconds=1.0, rate=4000, mels=8, longest=10.0).build(), np.arange(40)
    mask, crop = spec("data.augment", "time_mask", number=1, width=20).build(), spec("data.augment", "random_crop", of="frames").build()
    changed = source.augmented([mask], 1, 0).rows(ids, ids)["frames"] != source.rows(ids, ids)["frames"]
    assert changed.any(axis=2).sum(axis=1).mean() > 5
    assert source.augmented([crop, mask], 1, 0).rows(ids[:2], ids[:2])["frames"].shape == (2, 100, 8)
    with pytest.raises(UserError, match=r"data\.augment: RandomCrop stands behind TimeMask, whose changes it may cut off; put it first"):
        source.augmented([mask, crop], 1, 0)
