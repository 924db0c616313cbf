"""Health: what the measures are on features that are known, and the alarm when all rows are alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ingot.core.resolve import spec
from ingot.evaluate.health import class_alignment, effective_rank, spread, uniformity


def test_known_features() -> None:
    eye = torch.eye(8, dtype=torch.float64)
    assert effective_rank(eye) == pytest.approx(8, rel=1e-4)
    one = torch.ones(8, 5, dtype=torch.float64)
    assert effective_rank(one) == pytest.approx(1, rel=1e-4) and spread(one) == pytest.approx(0) and uniformity(one) == pytest.approx(0)
    two = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert uniformity(two) == pytest.approx(-8)
    many = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert spread(many) == pytest.approx(1, abs=0.01) and uniformity(many) == pytest.approx(-4, abs=0.2) and effective_rank(many) > 62
    labels = torch.tensor([0, 0, 1, 1])
    square = torch.tensor([[1.0, 0], [0, 1], [2, 0], [3, 0]], dtype=torch.float64)
    assert class_alignment(square, labels) == pytest.approx((2 + 0) / 2) and math.isnan(class_alignment(square, torch.tensor([0, 1, 2, 3])))


def test_a_living_model_raises_no_alarm_and_a_dead_one_does(setting: Any) -> None:
    evaluator = spec("evaluate", "health").build(layout=setting.layout)
    found = setting.measure(evaluator)
    assert found["rank"] > 2 and found["spread"] > 0.1 and {"uniformity", "alignment"} < found.keys() and not list(evaluator.alarms(found))
    with torch.no_grad():
        setting.model.embedding.project.weight.zero_()
        setting.model.embedding.position.weight.zero_()
    dead = setting.measure(evaluator)
    assert len(list(evaluator.alarms(dead))) == 2 and "collapses" in next(iter(evaluator.alarms(dead)))


def test_alignment_is_of_the_views_where_there_are_some(setting: Any) -> None:
    def looks(same: bool) -> Any:
        return lambda rows: (
            [micro | {"image_1": micro["image"] if same else micro["image"].flip(0)} for micro in window]
            for window in setting.windows(rows=16)
        )

    evaluator = spec("evaluate", "health").build(layout=setting.layout)
    assert setting.measure(evaluator, looks=looks(True))["alignment"] == pytest.approx(0, abs=1e-12)
    assert setting.measure(evaluator, looks=looks(False))["alignment"] > 0.01
