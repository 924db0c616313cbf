"""AdamW with moments in 8 bits: its bytes, and what becomes of a small second moment. The rest: test_quantized_adam.py."""

from __future__ import annotations

import torch
from torch import nn

from ingot.core.resolve import spec
from ingot.optim._quantize import codecs, dequantize, quantize

BITS, BLOCK = 8, 256
SECOND = codecs(BITS)["exp_avg_sq"]


def test_the_second_moment_is_zero_only_where_it_may_be() -> None:
    """With 4 bits nothing is rounded to zero, for the step divides by the root of it; with 8 bits the table reaches far down."""
    values = torch.full((1, BLOCK), 1e-4)
    values[0, 0] = 1
    codes, scales = quantize(values, SECOND)
    assert float(dequantize(codes, scales, BLOCK, SECOND).min()) > 0


def test_state_bytes_are_codes_and_scales() -> None:
    optimizer = spec("optim", "adam8bit", lr=0.01, smallest=0).build(params=[nn.Parameter(torch.zeros(64, 512))])
    assert optimizer.state_bytes((64, 512), torch.float32) == 2 * (64 * 512 * BITS // 8 + 4 * 64 * 512 // BLOCK) + 4
    assert optimizer.state_bytes((64, 301), torch.float64) == 2 * (64 * 301 + 4 * 64 * 2) + 4
    assert set(optimizer.state_layout(None, (64, 512)).values()) == {"scalar", "quantized"}
