r"""Stochastic gradient descent with momentum.   Robbins & Monro 1951; Nesterov 1983 as Sutskever et al. 2013; torch.optim.SGD.

    g_t = gradient + weight_decay w_{t-1}        m_t = momentum m_{t-1} + g_t
    w_t = w_{t-1} - lr u_t,   u_t = m_t, or g_t + momentum m_t with nesterov, or g_t without momentum

weight_decay is torch's: an L2 term inside the gradient, which momentum then averages; it is not decoupled as in AdamW.

Shapes: u, m, g as w.   State: one tensor per weight, none without momentum.   Cost: no matmul FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.axes import Axes
from ..core.errors import UserError
from ..core.parts import NonNegative, Positive, part
from ._groups import Beta, Group, Layout, StatefulOptimizer, count, local, local_gradient, prepare_groups


@part
class SGD(StatefulOptimizer):
    """momentum: share of the last direction that is kept. nesterov: look ahead along it. weight_decay: L2, inside the gradient."""

    width_rule = "other"

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        momentum: Beta = 0.9,
        nesterov: bool = False,
        weight_decay: NonNegative[float] = 0.0,
    ):
        for message in self.check({"momentum": momentum, "nesterov": nesterov}, {}):
            raise UserError(message)
        super().__init__(prepare_groups(params, lr=lr, weight_decay=weight_decay), {"momentum": momentum, "nesterov": nesterov})

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        if knobs["nesterov"] and not knobs["momentum"]:
            yield "SGD: nesterov needs momentum above 0"

    def state_layout(self, axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Layout]:
        return {"momentum": "elementwise"} if self.defaults["momentum"] else {}

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype, axes: Axes | None = None) -> int:
        return count(shape) * dtype.itemsize if self.defaults["momentum"] else 0

    def new_state(self, weight: Tensor, group: Group) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(weight)} if self.defaults["momentum"] else {}

    def update(self, group: Group, weights: list[Tensor]) -> None:
        pieces = [local(weight) for weight in weights]
        directions = [local_gradient(weight) for weight in weights]
        if group["weight_decay"]:
            directions = list(torch._foreach_add(directions, pieces, alpha=group["weight_decay"]))
        if self.defaults["momentum"]:
            momenta = [local(self.state[weight]["momentum"]) for weight in weights]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, directions)
            directions = list(torch._foreach_add(directions, momenta, alpha=group["momentum"])) if group["nesterov"] else momenta
        torch._foreach_add_(pieces, directions, alpha=-group["lr"])
