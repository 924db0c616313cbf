"""Counted FLOPs against the convention, worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ingot.ops.attention import attention
from ingot.ops.cross_entropy import linear_cross_entropy
from ingot.ops.flops import register

register()
register()  # twice is once
B, H, T, d = 2, 3, 140, 8
CAUSAL = 4 * d * H * T * (T + 1) // 2  # of one row, forward


def leaves() -> list[torch.Tensor]:
    return [torch.randn(B, H, T, d, requires_grad=True) for _ in range(3)]


def counted(f: object, backward: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        out = f()  # type: ignore[operator]
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backward", [False, True])
def test_attention_counts_unmasked_pairs(backward: bool) -> None:
    q, k, v = leaves()
    times = 3 if backward else 1
    assert counted(lambda: attention(q, k, v, causal=True), backward) == times * B * CAUSAL
    assert counted(lambda: attention(q, k, v, causal=False), backward) == times * B * 4 * d * H * T * T
    segments = torch.tensor([[1] * 100 + [2] * 40, [1] * 20 + [0] * 120])
    pairs = 100 * 101 // 2 + 40 * 41 // 2 + 20 * 21 // 2
    assert counted(lambda: attention(q, k, v, causal=True, segments_BT=segments), backward) == times * 4 * d * H * pairs


@pytest.mark.parametrize("backward", [False, True])
def test_torchs_cpu_attention_counts_the_same(backward: bool) -> None:
    q, k, v = leaves()
    times = 3 if backward else 1
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), backward) == times * B * CAUSAL
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), backward) == times * B * CAUSAL


@pytest.mark.parametrize("kind", ["meta", "cpu"])
def test_cross_entropy_counts_scored_positions_once_each_way(kind: str) -> None:
    D, V = 6, 50
    h, w = torch.randn(B, T, D, requires_grad=True, device=kind), torch.randn(V, D, requires_grad=True, device=kind)
    targets = torch.randint(0, V, (B, T))
    targets[:, 30:] = -100
    targets = targets.to(kind)
    scored = B * (30 if kind == "cpu" else T)
    uneven = torch.tensor([1.0, 2.0], device=kind)
    assert counted(lambda: linear_cross_entropy(h, w, targets)[0], True) == 3 * 2 * scored * D * V
    assert counted(lambda: linear_cross_entropy(h, w, targets)[0] * uneven, True) == 3 * 2 * scored * D * V
    with torch.no_grad():
        assert counted(lambda: linear_cross_entropy(h, w, targets)[0], False) == 2 * scored * D * V


def test_decompositions_count_by_the_textbook() -> None:
    register()
    for shape, long, short, count in (((12, 8), 12, 8, 1), ((3, 8, 12), 12, 8, 3)):
        matrix = torch.randn(shape)
        with FlopCounterMode(display=False) as flops:
            torch.linalg.svd(matrix, full_matrices=False)
        assert flops.get_total_flops() == count * (6 * long * short**2 + 20 * short**3)
    with FlopCounterMode(display=False) as flops:
        torch.linalg.qr(torch.randn(12, 8))
    assert flops.get_total_flops() == 4 * 12 * 8**2 - 4 * 8**3 // 3
