"""The dense projection against torch's."""

from __future__ import annotations

import torch
from torch import nn

from ingot.core.axes import axes_of
from ingot.core.resolve import spec


def test_is_torch_linear_and_follows_the_input_dtype() -> None:
    layer = spec("nn.linear", "dense").build(inputs=6, outputs=4, bias=True, axes=("hidden", "width"), role="matrix")
    reference = nn.Linear(6, 4)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(layer(x), reference(x))
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16 and layer.weight.dtype == torch.float32
    half.sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_axes() -> None:
    layer = spec("nn.linear", "dense").build(inputs=6, outputs=4, bias=True, axes=("hidden", "width"), role="matrix")
    assert axes_of(layer)["weight"] == (("hidden", "width"), "matrix") and axes_of(layer)["bias"] == (("hidden",), "bias")
