r"""Adafactor: the second moment by its row and column means, no first moment.   Shazeer & Stern 2018, arXiv:1804.04235, Algorithms 4 and 5.

    b_t = 1 - t^beta2_decay
    R_t = b_t R_{t-1} + (1 - b_t) mean_columns(g^2)      C_t = b_t C_{t-1} + (1 - b_t) mean_rows(g^2)
    V_t = R_t C_t^T / max(mean(R_t), eps1)               vectors: V_t = b_t V_{t-1} + (1 - b_t) g^2
    u_t = g / sqrt(max(V_t, eps1^2))                     u^_t = u_t / max(1, RMS(u_t) / clip)
    w_t = w_{t-1} (1 - lr weight_decay) - max(eps2, RMS(w_{t-1})) min(lr, 1 / sqrt(t)) u^_t

It is torch.optim.Adafactor to rounding: lr is relative to each weight's own size, and eps1 is the dtype's epsilon where it is None.
Weights of three and more dimensions are factored in their last two.

DEPARTS, as torch does: the paper adds eps1 = 1e-30 to g^2, here eps1 (1.2e-7 in fp32) is a floor. Where the mean of g^2 is below it
(gradients of less than 3.5e-4), V is too small by their ratio and u too large by its root, which `clip` alone bounds: set eps1 lower there.
min(lr, 1 / sqrt(t)) has lr for the paper's 0.01, and the weight decay is not in the paper.

Shapes: g, u, V as w; R (..., rows), C (..., columns).
State: rows + columns numbers per matrix, one tensor per vector, and a step count.   Cost: 2 rows columns FLOPs per matrix.
Sharding: C and the three means are summed over ranks.   Growing: carried; a wider V is the old one's image, and R' and C' its means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Le
from torch import Tensor

from ..core.axes import Axes
from ..core.parts import NonNegative, Positive, part
from ._adam import slabs
from ._declared import STEP, DeclaredOptimizer, Held, gathered, number, scattered, total
from ._groups import Group, local, local_gradient, prepare_groups


@part
class Adafactor(DeclaredOptimizer):
    """lr: relative step. beta2_decay: exponent of the averaging. eps: floors of the second moment and of the weight's size. clip: of RMS(u)."""

    width_rule = "other"
    state_powers: ClassVar[dict[str, int | str]] = DeclaredOptimizer.state_powers | {"variance": 2, "row": "rows", "column": "columns"}

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        beta2_decay: Annotated[float, Le(0)] = -0.8,
        eps: tuple[Positive[float] | None, NonNegative[float]] = (None, 1e-3),
        clip: Positive[float] = 1.0,
        weight_decay: NonNegative[float] = 0.0,
    ):
        super().__init__(prepare_groups(params, lr=lr, weight_decay=weight_decay), {"beta2_decay": beta2_decay, "eps": eps, "clip": clip})

    def declare(self, axes: Axes | None, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Held]:
        if len(shape) < 2:
            return {"step": STEP, "variance": Held("elementwise" if shape else "scalar", shape, dtype)}
        return {"step": STEP, "row": Held("per_axis", shape[:-1], dtype), "column": Held("per_axis", (*shape[:-2], shape[-1]), dtype)}

    def update(self, group: Group, weights: list[Tensor]) -> None:
        for weight in weights:
            state, own, gradient = self.state[weight], local(weight), local_gradient(weight)
            state["step"] += 1
            step = number(state["step"], 1)
            share = step ** group["beta2_decay"]
            floor = group["eps"][0] or torch.finfo(weight.dtype).eps
            factors = (
                _factors(state, weight, gradient, share, floor)
                if weight.dim() > 1
                else [local(state["variance"]).lerp_(gradient.square(), share)]
            )
            parts = list(slabs(gradient))
            # whole where it is one part; else worked out twice, which a CPU does sooner than it is given memory for the whole
            updates = [_update(gradient, factors, floor, parts[0])] if len(parts) == 1 else ()
            square = gradient.new_zeros(())
            for update in updates or (_update(gradient, factors, floor, rows) for rows in parts):
                square += torch.linalg.vector_norm(update).square()
            rate = max(group["eps"][1], _rms(torch.linalg.vector_norm(own).square(), weight)) * min(group["lr"], step**-0.5)
            rate /= max(1.0, _rms(square, weight) / group["clip"])
            for rows, update in zip(parts, updates or (_update(gradient, factors, floor, rows) for rows in parts)):
                if decay := group["lr"] * group["weight_decay"]:
                    own[rows].mul_(1 - decay)
                own[rows].add_(update, alpha=-rate)


def _update(gradient: Tensor, factors: Sequence[Tensor], floor: float, rows: Any) -> Tensor:
    """u of some rows of a weight; factors: of V, each of the gradient's shape."""
    estimate = torch.mul(*(factor[rows] for factor in factors)) if len(factors) > 1 else factors[0][rows].clone()
    return estimate.clamp_(min=floor * floor).rsqrt_().mul_(gradient[rows])


def _factors(state: dict[str, Any], weight: Tensor, gradient: Tensor, share: float, floor: float) -> Sequence[Tensor]:
    """Two factors of this rank's rows of V, of the gradient's shape."""
    row, column = local(state["row"]), local(state["column"])
    rows, columns = weight.shape[-2:]
    stacked = weight.dim() > 2  # and cut between its matrices, if at all
    sums = torch.zeros_like(column) if stacked else gradient.new_zeros(columns)
    for some in slabs(gradient):
        squared = gradient[some].square()  # many times faster on a CPU than norms along columns
        row[some].lerp_(squared.mean(-1), share)
        (sums[some] if stacked else sums).add_(squared.sum(-2))
    if stacked:
        column.lerp_(sums.div_(rows), share)
        return [
            value.expand(gradient.shape) for value in ((row / row.mean(-1, keepdim=True).clamp(min=floor))[..., None], column[..., None, :])
        ]
    column.lerp_(scattered(sums, weight).div_(rows), share)
    mean = total(row.sum(), weight) / rows
    return [value.expand(gradient.shape) for value in ((row / mean.clamp(min=floor))[:, None], gathered(column, columns, weight)[None])]


def _rms(square: Tensor, weight: Tensor) -> float:
    """Root mean square of a value shaped as the weight; square: the sum of this rank's squares."""
    return number(total(square, weight).sqrt(), 1) / sqrt(weight.numel())
