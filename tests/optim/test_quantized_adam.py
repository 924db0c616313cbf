"""What AdamW with moments in 8 and in 4 bits shares: it is torchao's, where its blocks are ours; codes are the nearest, and blocks never
cross rows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ingot.core.resolve import spec
from ingot.optim._quantize import Codec, _bounds, codecs, dequantize, quantize

BLOCKS = {8: 256, 4: 128}
each_width = pytest.mark.parametrize("bits", BLOCKS)


def ours(bits: int, **knobs: Any) -> Any:
    return lambda weights: spec("optim", f"adam{bits}bit", **{"lr": 0.01} | knobs).build(params=weights)


@each_width
def test_agrees_with_torchao_on_recorded_gradients(bits: int, compare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torchao = pytest.importorskip("torchao.optim")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    apart, quantized = [], []

    def each(step: int, mine: Any, reference: Any) -> None:
        weight, twin = (optimizer.param_groups[0]["params"][0] for optimizer in (mine, reference))
        for key in ("exp_avg", "exp_avg_sq"):
            theirs = reference.state[twin][key]
            codes, other = mine.state[weight][f"{key}_codes"].flatten(), theirs.codes.flatten()
            quantized.append(len(codes))
            halves = ([codes >> 4, codes & 15], [other >> 4, other & 15]) if bits == 4 else ([codes], [other])
            apart.extend(int((a.int() - b.int()).abs().max()) for a, b in zip(*halves))
            torch.testing.assert_close(mine.state[weight][f"{key}_scales"].flatten(), theirs.scale, rtol=1e-5, atol=0)

    def theirs(weights: list[nn.Parameter]) -> Any:
        return getattr(torchao, f"AdamW{bits}bit")(weights, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)

    assert compare(ours(bits), theirs, each=each, at="zero") < 1e-5
    assert max(apart) <= 1 and len(quantized) == 400


@pytest.mark.parametrize("codec", [codec for bits in BLOCKS for codec in codecs(bits).values()])
def test_codes_are_the_nearest_values(codec: Codec) -> None:
    bits, block_size = codec.bits, BLOCKS[codec.bits]
    torch.manual_seed(0)
    values = torch.randn(5, 300) if codec.signed else torch.rand(5, 300)
    values[2] = 0
    values[3] *= 1e-6
    codes, scales = quantize(values, codec)
    table, back = codec.table(values.device), dequantize(codes, scales, 300, codec)
    assert len(table) == 2**bits and torch.equal(table, table.sort().values) and (float(table[0]) < 0) == codec.signed
    for block in range(-(-300 // block_size)):
        part = slice(block * block_size, min(300, (block + 1) * block_size))
        largest = values[:, part].abs().amax(1).clamp(min=1e-12)
        torch.testing.assert_close(scales[:, block], largest)
        nearest = ((values[:, part] / largest[:, None])[:, :, None] - table).abs().min(-1).values
        found = (back[:, part] / largest[:, None] - values[:, part] / largest[:, None]).abs()
        torch.testing.assert_close(found, nearest, rtol=0, atol=1e-6)
    # at and around every boundary, as by search
    edges = (_bounds(bits, codec.signed, table.device)[:, None] + torch.tensor([-1e-7, 0, 1e-7])).reshape(1, -1).clamp(-1, 1)
    edges = torch.cat([edges, torch.ones(1, 1)], 1)
    wide = Codec(bits, codec.signed, edges.shape[1])
    found = dequantize(*quantize(edges, wide), edges.shape[1], wide)
    assert torch.equal(found, table[torch.bucketize(edges, _bounds(bits, codec.signed, table.device), right=True)])
    # the sign survives, and the largest of a block is exact
    signs = (back * values)[[0, 1, 3, 4]]
    assert float(signs.min()) >= 0 and torch.equal(back.abs().amax(1)[[0, 1, 3, 4]], values.abs().amax(1)[[0, 1, 3, 4]])


@each_width
def test_odd_rows_and_short_blocks(bits: int) -> None:
    torch.manual_seed(0)
    block, first = BLOCKS[bits], codecs(bits)["exp_avg"]
    for columns in (1, 3, block - 1, block + 1, 2 * block):
        values = torch.randn(4, columns)
        codes, scales = quantize(values, first)
        assert codes.shape == (4, columns if bits == 8 else (columns + 1) // 2) and scales.shape == (4, -(-columns // block))
        whole = dequantize(codes, scales, columns, first)
        apart = torch.cat([dequantize(*quantize(values[i : i + 2], first), columns, first) for i in (0, 2)])
        assert torch.equal(whole, apart)  # rows may live on different ranks
        assert float((whole - values).abs().max() / values.abs().max()) < (0.1 if bits == 8 else 0.5)


@each_width
def test_what_is_not_finite_has_codes_too(bits: int) -> None:
    """A step that the loop is about to skip must not fail on the way."""
    values = torch.rand(2, 8)
    values[0, 3], values[1, 2] = -torch.nan, torch.inf
    for codec in codecs(bits).values():
        assert quantize(values, codec)[0].dtype == torch.uint8


@each_width
def test_vectors_and_small_weights_are_kept_whole(bits: int) -> None:
    weights = [nn.Parameter(torch.randn(shape)) for shape in ((64, 64), (8, 8), (5000,))]
    optimizer = ours(bits)(weights)
    reference = spec("optim", "adamw", lr=0.01).build(params=copy.deepcopy(weights))
    for weight, twin in zip(weights, reference.param_groups[0]["params"]):
        weight.grad = torch.randn_like(weight)
        twin.grad = weight.grad.clone()
    optimizer.step()
    reference.step()
    assert ["exp_avg_codes" in optimizer.state[weight] for weight in weights] == [True, False, False]
    for weight, twin in zip(weights, reference.param_groups[0]["params"]):
        torch.testing.assert_close(weight, twin, rtol=1e-5, atol=1e-6)  # the first update is made before anything is rounded


@pytest.mark.parametrize(("bits", "within"), [(8, 0.05), (4, 0.4)])
def test_follows_adamw(recorded: Any, bits: int, within: float) -> None:
    start, steps = recorded
    ends = []
    for make in (ours(bits, smallest=0), lambda weights: spec("optim", "adamw", lr=0.01).build(params=weights)):
        weights = [nn.Parameter(tensor.clone()) for tensor in start]
        optimizer = make(weights)
        for gradients in steps[:60]:
            for weight, gradient in zip(weights, gradients):
                weight.grad = gradient.clone()
            optimizer.step()
        ends.append([weight.detach() - tensor for weight, tensor in zip(weights, start)])
    for short, full in zip(*ends):
        assert float((short - full).norm() / full.norm()) < within
