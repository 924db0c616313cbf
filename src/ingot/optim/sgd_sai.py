r"""SGD-SaI: momentum SGD, every weight's learning rate scaled once, by its first gradient.   Xu et al. 2024, arXiv:2412.11768, Algorithm 1.

    s = |g_1| / (std(g_1) + eps)             the gradient's signal-to-noise ratio, one number per weight, fixed ever after
    m_1 = g_1        m_t = momentum m_{t-1} + (1 - momentum) g_t
    w_t = w_{t-1} (1 - lr weight_decay) - lr s m_t

s is about the root of the number of elements, so lr wants to be far below that of SGD.

DEPARTS: s is taken from the first gradient that is not zero (the authors take zero, and a weight behind a zero-initialized one never
moves), and is 1 for a single element, which has no spread (theirs is |g| / eps). Their code, since version 1.0.4, divides every s by
the largest: the same with another lr, but it needs all gradients at once.

Shapes: m, g as w.   State: one tensor per weight and one number: half of Adam's.   Cost: no matmul FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.axes import Axes
from ..core.parts import NonNegative, Positive, part
from ._declared import DeclaredOptimizer, Held, number, total
from ._groups import Beta, Group, local, local_gradient, prepare_groups


@part
class SGDSaI(DeclaredOptimizer):
    """lr: of a weight with ratio 1. momentum: averaging of the gradient. eps: added to the spread. weight_decay: decoupled."""

    width_rule = "other"
    state_powers: ClassVar[dict[str, int | str]] = DeclaredOptimizer.state_powers | {"snr": 0}

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        momentum: Beta = 0.9,
        eps: Positive[float] = 1e-8,
        weight_decay: NonNegative[float] = 0.0,
    ):
        super().__init__(prepare_groups(params, lr=lr, weight_decay=weight_decay), {"momentum": momentum, "eps": eps})

    def declare(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Held]:
        return {"momentum": Held("elementwise" if shape else "scalar", shape, dtype), "snr": Held("scalar", (), torch.float32, host=True)}

    def update(self, group: Group, weights: list[Tensor]) -> None:
        for weight in weights:
            state, gradient, own = self.state[weight], local_gradient(weight), local(weight)
            momentum = local(state["momentum"])
            if not number(state["snr"], 0):
                state["snr"].copy_(_ratio(weight, gradient, group["eps"]))
                momentum.copy_(gradient)
            else:
                momentum.lerp_(gradient, 1 - group["momentum"])
            own.mul_(1 - group["lr"] * group["weight_decay"]).add_(momentum, alpha=-group["lr"] * number(state["snr"], 1))


def _ratio(weight: Tensor, gradient: Tensor, eps: float) -> Tensor:
    """|g| / (std(g) + eps) of the whole gradient; 0 where it is zero."""
    wide, elements = gradient.double(), weight.numel()
    sums = total(torch.stack([wide.sum(), wide.square().sum()]), weight)
    if elements == 1:
        return (sums[1] > 0).double()
    spread = total((wide - sums[0] / elements).square().sum(), weight) / (elements - 1)
    return sums[1].sqrt() / (spread.sqrt() + eps)
