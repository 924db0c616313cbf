r"""Schedule-free AdamW: an average of the iterates in place of a learning rate schedule.   Defazio et al. 2024, arXiv:2405.15682, Algorithm 1.

    y_t = (1 - b1) z_t + b1 x_t                                where the gradient g_t is taken
    v_t = b2 v_{t-1} + (1 - b2) g_t^2      v^ = v / (1 - b2^t)
    z_{t+1} = z_t - lr_t (g_t / (sqrt(v^_t) + eps) + weight_decay y_t)
    x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}      c_t = s_t / sum_{i<=t} s_i,   s_t = t^power max_{i<=t} lr_i^lr_power

The model holds x, the weights to evaluate, save and go on from; they are y only while the closure runs, so a step wants a closure. A
gradient that was taken outside of one counts as taken at y. Use a constant learning rate, with warm-up; b1 wants to be 0.9 to 0.98.

DEPARTS: the authors' package keeps y in the model between steps, and x must be asked for before evaluating and saving. The values
are the same to rounding; x is worked out from y and z after the gradient, so a step that is skipped may move x by its last digit.

Shapes: v, z, g as w.   State: two tensors per weight (z and v), a step count, the sum of s and the largest lr.
Cost: no matmul FLOPs; one more pass over the weights than AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ..core.axes import Axes
from ..core.parts import NonNegative, Positive, part
from ._adam import adam_, pieces
from ._declared import number
from ._groups import Beta, Group, Layout, StatefulOptimizer, count, local, local_gradient, prepare_groups

_SCALARS = ("step", "weight_sum", "lr_max")
TINY = torch.finfo(torch.float32).tiny  # in place of a sum that is still zero, while the learning rate is


@part
class ScheduleFree(StatefulOptimizer):
    """betas: where y lies between z and x; averaging of the gradient's square. weight_decay: decoupled, at y. power, lr_power: of s."""

    around_closure = "moves the weights to where it takes the gradient"
    state_powers: ClassVar[dict[str, int | str]] = StatefulOptimizer.state_powers | {"z": "weight", "weight_sum": 0, "lr_max": 0}
    _ahead: frozenset[int] = frozenset()  # weights that are y at this moment

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        betas: tuple[Annotated[float, Gt(0), Lt(1)], Beta] = (0.9, 0.95),
        eps: NonNegative[float] = 1e-8,
        weight_decay: NonNegative[float] = 0.1,
        power: NonNegative[float] = 0.0,
        lr_power: NonNegative[float] = 2.0,
    ):
        defaults = {"betas": betas, "eps": eps, "power": power, "lr_power": lr_power}
        super().__init__(prepare_groups(params, lr=lr, weight_decay=weight_decay), defaults)

    def state_layout(self, axes: Axes | None, shape: tuple[int, ...]) -> dict[str, Layout]:
        return {"z": "elementwise", "exp_avg_sq": "elementwise", "step": "scalar", "weight_sum": "scalar", "lr_max": "scalar"}

    def state_bytes(self, shape: tuple[int, ...], dtype: torch.dtype, axes: Axes | None = None) -> int:
        return 2 * count(shape) * dtype.itemsize + 3 * torch.float32.itemsize

    def state_dtypes(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.dtype]:
        return dict.fromkeys(_SCALARS, torch.float32)

    def new_state(self, weight: Tensor, group: Group) -> dict[str, Tensor]:
        scalars = {name: torch.zeros((), dtype=torch.float32) for name in _SCALARS}
        return {"z": weight.detach().clone(), "exp_avg_sq": torch.zeros_like(weight)} | scalars

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; the closure finds the model at y, and whatever becomes of it the model holds x afterwards."""
        begun = [
            (group, weight) for group in self.param_groups for weight in group["params"] if closure is not None and self.state.get(weight)
        ]
        try:
            for group, weight in begun:
                local(weight).lerp_(local(self.state[weight]["z"]), 1 - group["betas"][0])
            self._ahead = frozenset(id(weight) for _, weight in begun)
            return super().step(closure)
        finally:
            for group, weight in begun:
                self._to_x(group, weight)

    def _to_x(self, group: Group, weight: Tensor) -> None:
        if id(weight) in self._ahead:
            local(weight).lerp_(local(self.state[weight]["z"]), 1 - 1 / group["betas"][0])
            self._ahead -= {id(weight)}

    def update(self, group: Group, weights: list[Tensor]) -> None:
        beta, lr, decay = group["betas"][1], group["lr"], group["lr"] * group["weight_decay"]
        for weight in weights:
            state = self.state[weight]
            state["step"] += 1
            state["lr_max"].clamp_(min=lr)
            step = number(state["step"], 1)
            share = step ** group["power"] * number(state["lr_max"], lr) ** group["lr_power"]
            state["weight_sum"] += share
            portion, correction = share / max(number(state["weight_sum"], share), TINY), sqrt(1 - beta**step)
            chosen = {"betas": (0.0, beta), "eps": group["eps"] * correction, "rate": lr * correction}
            held = [local(weight)], [local(state["z"])], [local(state["exp_avg_sq"])], [local_gradient(weight)]
            back = 1 - 1 / group["betas"][0] if id(weight) in self._ahead else 0.0
            self._ahead -= {id(weight)}
            for (own,), (z,), (square,), (gradient,) in pieces(*held):
                x = own.lerp(z, back) if back else own
                if decay:
                    z.add_(own, alpha=-decay)
                adam_(z, gradient, gradient, square, **chosen)  # an average with b = 0 is the gradient itself
                torch.lerp(x, z, portion, out=own)
