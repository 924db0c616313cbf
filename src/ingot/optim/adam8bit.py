r"""AdamW with moments in 8 bits.   Dettmers et al. 2022, arXiv:2110.02861, section 2.

    m_t = b1 D(m_{t-1}) + (1 - b1) g_t        v_t = b2 D(v_{t-1}) + (1 - b2) g_t^2       D: from codes, Q: to codes
    w_t = w_{t-1} (1 - lr weight_decay) - lr m^_t / (sqrt(v^_t) + eps)                   kept: Q(m_t), Q(v_t)

The update uses the moments before they are rounded. Q divides each block of a row by its largest magnitude and takes the nearest of
the 256 values of a dynamic table (optim/_quantize.py, with its DEPARTS). Vectors and weights of fewer than `smallest` elements keep
fp32 moments, as in bitsandbytes.

Shapes: u, m, v, g as w.   State: two bytes per element of a quantized weight and 8 bytes per block, two tensors for others, and a step
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
class Adam8bit(QuantizedAdam):
    """block: elements under one scale. smallest: weights of fewer elements keep fp32 moments. The rest as in adamw."""

    bits = 8

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        betas: tuple[Beta, Beta] = (0.9, 0.95),
        eps: Positive[float] = 1e-8,
        weight_decay: NonNegative[float] = 0.1,
        block: Positive[int] = 256,
        smallest: NonNegative[int] = 4096,
    ):
        super().__init__(params, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, block=block, smallest=smallest)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from fixed(knobs, context, "block", "smallest")
