"""Exponential decay: the published temperature, from 2 to 0.5 by a factor of 0.999995 a step."""

from __future__ import annotations

import pytest

from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, **knobs: object) -> float:
    return spec("schedule", "exponential", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity("400k steps"), {"steps": 1}))


def test_the_temperature_of_wav2vec2() -> None:
    for step in (0, 1000, 100_000, 270_000, 300_000, 400_000):
        assert 2 * curve(step, final=0.25, at="277258 steps") == pytest.approx(max(2 * 0.999995**step, 0.5), rel=1e-3)
