"""Monarch: the layer against a dense matrix built from block-diagonals and permutations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ingot.core.axes import axes_of
from ingot.core.resolve import spec
from ingot.optim.muon import matrix_view


def dense_of(layer: Any) -> Tensor:
    """P2 R P1 L with every factor written out, cut to size."""
    k, q, s = layer.blocks, layer.q, layer.s
    first, second = torch.block_diag(*layer.first), torch.block_diag(*layer.second)
    deal = torch.zeros(k * q, k * q, dtype=first.dtype)  # output i of L goes to block i mod k, place i div k
    for i in range(k * q):
        deal[(i % k) * q + i // k, i] = 1
    interleave = torch.zeros(k * s, k * s, dtype=first.dtype)
    for block in range(k):
        for place in range(s):
            interleave[place * k + block, block * s + place] = 1
    return (interleave @ second @ deal @ first)[: layer.outputs, : layer.inputs]


@pytest.mark.parametrize(("inputs", "outputs", "blocks"), [(24, 16, 4), (24, 24, 2), (24, 40, 4), (24, 18, 5), (24, 7, 3)])
def test_is_its_dense_matrix(make: Any, x: Tensor, inputs: int, outputs: int, blocks: int) -> None:
    layer = make("monarch", inputs=inputs, outputs=outputs, blocks=blocks)
    whole = dense_of(layer)
    torch.testing.assert_close(layer(x), x @ whole.t() + layer.bias)
    torch.testing.assert_close(layer.effective(), whole)


def test_gradients_are_those_through_the_dense_matrix(make: Any, x: Tensor, score: Any) -> None:
    layer = make("monarch")
    score(layer(x)).backward()
    found = {name: weight.grad.clone() for name, weight in layer.named_parameters()}
    layer.zero_grad()
    score(x.detach() @ dense_of(layer).t() + layer.bias).backward()
    for name, weight in layer.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)


def test_every_input_reaches_every_output(make: Any) -> None:
    layer = make("monarch", inputs=36, outputs=36, blocks=4)
    assert (layer.effective() != 0).all()
    assert list(spec("nn.linear", "monarch").target.check({"blocks": 8}, {"width": 32}))


def test_holds_fewer_weights_than_dense(make: Any) -> None:
    layer = make("monarch", inputs=64, outputs=64, blocks=8, bias=False)
    assert sum(weight.numel() for weight in layer.parameters()) == 2 * 64 * 64 // 8


@pytest.mark.parametrize(("inputs", "outputs"), [(256, 256), (256, 1024), (1024, 256), (250, 90)])
def test_starts_at_the_size_of_a_dense_matrix(make: Any, drawn: Any, inputs: int, outputs: int) -> None:
    layer = drawn(make("monarch", inputs=inputs, outputs=outputs), 0.04)
    assert float(layer.effective().detach().square().mean().sqrt()) == pytest.approx(0.04, rel=0.05)


def test_its_blocks_are_matrices_of_their_own(make: Any) -> None:
    layer = make("monarch")
    axes = axes_of(layer)
    assert matrix_view(axes["first"], tuple(layer.first.shape)) == (4, 4, 6)
    initializer = spec("model.init", "mup", base_width=12).build()
    assert (
        initializer.lr_scale("first", axes["first"], tuple(layer.first.shape))
        == initializer.lr_scale("second", axes["second"], tuple(layer.second.shape))
        == 0.5
    )
