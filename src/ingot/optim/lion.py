r"""Lion: the sign of an interpolated momentum.   Chen et al. 2023, arXiv:2302.06675, Algorithm 2.

    u_t = sign(b1 m_{t-1} + (1 - b1) g_t)        m_t = b2 m_{t-1} + (1 - b2) g_t
    w_t = w_{t-1} - lr (u_t + weight_decay w_{t-1})

Every weight moves by lr, so lr wants to be 3 to 10 times smaller than AdamW's and weight_decay as many times larger (section 5).

Shapes: u, m, g as w.   State: one tensor per weight.   Cost: no matmul FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..core.axes import Axes
from ..core.parts import NonNegative, Positive, part
from ._adam import pieces
from ._groups import Beta, Group, Layout, StatefulOptimizer, count, local, local_gradient, prepare_groups


@part
class Lion(StatefulOptimizer):
    """lr: size of every weight's step. betas: b1 of the update, b2 of the momentum. weight_decay: decoupled."""

    def __init__(
        self, params: Iterable[Any], *, lr: Positive[float], betas: tuple[Beta, Beta] = (0.9, 0.99), weight_decay: NonNegative[float] = 0.0
    ):
        super().__init__(prepare_groups(params, lr=lr, weight_decay=weight_decay), {"betas": betas})

    def state_layout(self, axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Layout]:
        return {"momentum": "elementwise"}

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype, axes: Axes | None = None) -> int:
        return count(shape) * dtype.itemsize

    def new_state(self, weight: Tensor, group: Group) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(weight)}

    def update(self, group: Group, weights: list[Tensor]) -> None:
        first, second = group["betas"]
        held = [local(self.state[weight]["momentum"]) for weight in weights]
        for own, gradients, momenta in pieces([local(weight) for weight in weights], [local_gradient(weight) for weight in weights], held):
            directions = torch._foreach_lerp(momenta, gradients, 1 - first)
            torch._foreach_sign_(directions)
            if decay := group["lr"] * group["weight_decay"]:
                torch._foreach_mul_(own, 1 - decay)
            torch._foreach_add_(own, directions, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - second)
