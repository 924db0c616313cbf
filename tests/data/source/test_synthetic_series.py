"""Drawn series: the class is in the period, and missing values are marked where they are."""

from __future__ import annotations

import numpy as np

from ingot.core.resolve import spec


def test_the_class_is_the_period() -> None:
    found = spec("data.source", "synthetic_series", count=12, look_back=256, classes=3, noise=0.0).build()
    given = found.rows(np.arange(12), np.arange(12))
    power = np.abs(np.fft.rfft(given["series"] - given["series"].mean(axis=1, keepdims=True), axis=1))[:, :, 0]
    periods = 256 / power.argmax(axis=1)
    for label in range(3):
        assert np.allclose(periods[given["label"] == label], 8 * 1.5**label, rtol=0.1)


def test_missing_values_are_zero_and_marked() -> None:
    found = spec("data.source", "synthetic_series", count=50, missing=0.3).build()
    given = found.rows(np.arange(50), np.arange(50))
    assert not given["series"][~given["observed"]].any() and 0.65 < given["observed"].mean() < 0.75
    assert not given["future"][~given["future_observed"]].any() and not given["future_observed"].all()
