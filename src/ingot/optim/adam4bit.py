r"""AdamW with moments in 4 bits.   Li, Chen & Zhu 2023, arXiv:2309.01507, section 4.

    m_t = b1 D(m_{t-1}) + (1 - b1) g_t        v_t = b2 D(v_{t-1}) + (1 - b2) g_t^2       D: from codes, Q: to codes
    w_t = w_{t-1} (1 - lr weight_decay) - lr m^_t / (sqrt(v^_t) + eps)                   kept: Q(m_t), Q(v_t)

The update uses the moments before they are rounded. Blocks of 128 elements of a row; 16 values: the dynamic table for m, for v
sixteenths without zero, since a second moment rounded to zero makes a huge step (optim/_quantize.py). Two codes share a byte.
Vectors and weights of fewer than `smallest` elements keep fp32 moments.

DEPARTS: v is scaled by blocks (the paper's "B128/Linear, no zero", which torchao has too), not by its rank-1 normalization, whose
column scales would tie all ranks of a sharded weight together.

Shapes: u, m, v, g as w.   State: one byte per element of a quantized weight and 8 bytes per block, two tensors for others, and a step
count.   Cost: no matmul FLOPs.   Sharding: blocks lie within rows, which are never cut, so any number of ranks has the same codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..core.parts import NonNegative, Positive, part
from ._declared import fixed
from ._groups import Beta
from ._quantized_adam import QuantizedAdam


@part
class Adam4bit(QuantizedAdam):
    """block: elements under one scale. smallest: weights of fewer elements keep fp32 moments. The rest as in adamw."""

    bits = 4

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        betas: tuple[Beta, Beta] = (0.9, 0.95),
        eps: Positive[float] = 1e-8,
        weight_decay: NonNegative[float] = 0.1,
        block: Positive[int] = 128,
        smallest: NonNegative[int] = 4096,
    ):
        super().__init__(params, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, block=block, smallest=smallest)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from fixed(knobs, context, "block", "smallest")
