"""Fixed positions: the formula, one axis at a time, zeros in front."""

from __future__ import annotations

import math

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec


def test_one_axis_is_the_formula() -> None:
    y = spec("nn.position", "sincos", theta=100.0).build(width=8)(torch.tensor([[0, 3]]))
    f = [100.0 ** (-i / 4) for i in range(4)]
    torch.testing.assert_close(y[0, 1], torch.tensor([math.sin(3 * v) for v in f] + [math.cos(3 * v) for v in f]))
    assert y[0, 0].tolist() == [0] * 4 + [1] * 4


def test_a_grid_gives_each_axis_half_of_the_features() -> None:
    grid = spec("nn.position", "sincos").build(width=16, grid=(3, 5), leading=1)
    line = spec("nn.position", "sincos").build(width=8)
    y = grid(torch.arange(16)[None])[0]
    assert not y[0].any()
    places = torch.arange(15)
    torch.testing.assert_close(y[1:, :8], line((places % 5)[None])[0])
    torch.testing.assert_close(y[1:, 8:], line((places // 5)[None])[0])
    assert len({tuple(row) for row in y.tolist()}) == 16


def test_a_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="want a width that 4 divides"):
        spec("nn.position", "sincos").build(width=10, grid=(2, 2))
