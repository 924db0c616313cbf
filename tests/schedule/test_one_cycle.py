"""One cycle: endpoints and peak, and torch's curve."""

from __future__ import annotations

import pytest
import torch

from ingot.core.progress import Moment, Progress
from ingot.core.quantities import parse_quantity
from ingot.core.resolve import spec


def curve(steps: float, budget: str = "1000 steps", **knobs: object) -> float:
    return spec("schedule", "one_cycle", **knobs).build(moment=Moment(Progress(steps=steps), parse_quantity(budget), {"steps": 1}))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_ends_and_peak(shape: str) -> None:
    values = [curve(step, peak="25%", initial=0.1, final=0.01, shape=shape) for step in (0, 125, 250, 625, 1000)]
    assert values == pytest.approx([0.1, 0.55, 1, 0.505, 0.01])


def test_is_torchs_one_cycle() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=1001, pct_start=301 / 1001, cycle_momentum=False)
    for step in range(1001):
        assert curve(step, peak="300 steps") == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-9)
        optimizer.step()
        if step < 1000:
            reference.step()
