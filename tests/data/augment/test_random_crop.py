"""Crops: every start is as likely, short clips stay whole, frames are cut along time."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec
from ingot.core.seams import Field


def test_starts_are_uniform_and_reach_both_ends() -> None:
    part = spec("data.augment", "random_crop").build()
    part.bind({"waveform": Field((90,))})
    draw = np.random.default_rng(0)
    starts = [int(part(np.arange(100), draw)[0]) for _ in range(2200)]
    assert set(starts) == set(range(11)) and min(np.bincount(starts)) > 140
    assert len(part(np.arange(50), draw)) == 50


def test_frames() -> None:
    part = spec("data.augment", "random_crop", of="frames").build()
    part.bind({"frames": Field((4, 3))})
    assert part.reads == "frames" and part(np.zeros((9, 3)), np.random.default_rng(0)).shape == (4, 3)
