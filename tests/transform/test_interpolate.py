"""Interpolation repeats every block in its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _growth import PLAIN

from ingot.core.errors import UserError
from ingot.core.resolve import spec


@pytest.mark.parametrize(("depth", "sources"), [(None, [0, 0, 1, 1]), (3, [0, 0, 1]), (5, [0, 0, 0, 1, 1])])
def test_neighbours_stay_neighbours(growth: Any, depth: int | None, sources: list[int]) -> None:
    grown = growth(PLAIN)
    grown.train(3)
    old, moments = {name: value.clone() for name, value in grown.model.state_dict().items()}, grown.moments("exp_avg")
    grown.grow(spec("transform", "interpolate", depth=depth))
    for layer, source in enumerate(sources):
        name = "encoder.blocks.{}.mixer.value.weight"
        assert torch.equal(grown.model.state_dict()[name.format(layer)], old[name.format(source)])
        assert torch.equal(grown.moments("exp_avg")[name.format(layer)], moments[name.format(source)])
    assert f"encoder.blocks.{len(sources)}.mixer.value.weight" not in grown.model.state_dict()


def test_a_stack_cannot_shrink(growth: Any) -> None:
    with pytest.raises(UserError, match="has 2 blocks already"):
        growth(PLAIN).grow(spec("transform", "interpolate", depth=2))
