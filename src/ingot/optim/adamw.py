r"""AdamW: Adam with decoupled weight decay.   Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2; Kingma & Ba 2015, arXiv:1412.6980.

    m_t = b1 m_{t-1} + (1 - b1) g_t        v_t = b2 v_{t-1} + (1 - b2) g_t^2
    w_t = w_{t-1} - lr weight_decay w_{t-1} - lr m^_t / (sqrt(v^_t) + eps),   m^ = m / (1 - b1^t),   v^ = v / (1 - b2^t)

It is torch.optim.AdamW, bit for bit, with its fused kernel where every weight's device has one. The defaults are those of language
model pre-training (Brown et al. 2020, arXiv:2005.14165: betas 0.9 and 0.95, weight decay 0.1), not torch's.

Shapes: m, v, g as w.   State: two tensors per weight and a step count.   Cost: no matmul FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ..core.axes import Axes
from ..core.parts import NonNegative, Positive, part
from ._groups import Beta, Group, Layout, StatefulOptimizer, count, prepare_groups

_FUSED = {"cpu", "cuda"}


@part
class AdamW(torch.optim.AdamW, StatefulOptimizer):
    """betas: averaging of the gradient and of its square. eps: added to the root. weight_decay: decoupled, times lr."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        betas: tuple[Beta, Beta] = (0.9, 0.95),
        eps: NonNegative[float] = 1e-8,
        weight_decay: NonNegative[float] = 0.1,
    ):
        groups = prepare_groups(params, lr=lr, weight_decay=weight_decay)
        fused = all(weight.device.type in _FUSED and weight.is_floating_point() for group in groups for weight in group["params"])
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused or None)

    def state_layout(self, axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Layout]:
        return {"step": "scalar", "exp_avg": "elementwise", "exp_avg_sq": "elementwise"}

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype, axes: Axes | None = None) -> int:
        return 2 * count(shape) * dtype.itemsize + torch.float32.itemsize

    def new_state(self, weight: Tensor, group: Group) -> dict[str, Tensor]:
        step = torch.zeros((), dtype=torch.float32, device=weight.device if group["fused"] else "cpu")
        return {"step": step, "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}

    def update(self, group: Group, weights: list[Tensor]) -> None:
        """torch's update of some weights of a group, to the bit that of its step."""
        steps, first, second = ([self.state[weight][key] for weight in weights] for key in ("step", "exp_avg", "exp_avg_sq"))
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        beta1, beta2 = group["betas"]
        adamw(
            weights,
            gradients,
            first,
            second,
            [],
            steps,
            fused=group["fused"],
            foreach=group["foreach"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
