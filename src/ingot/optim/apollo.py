r"""APOLLO: the gradient itself, each channel scaled as Adam would scale its random low-rank image.   Zhu et al. 2024, arXiv:2412.05270.

    B: normal numbers / sqrt(rank), drawn anew every `refresh` steps, never kept: its seed is the weight's name and the refresh number
    R_t = G_t B (rows >= columns) or B^T G_t;      m_t, v_t of R_t as in Adam;      N_t = m_t / (sqrt(v_t) + eps)
    s_i = |N_t,i| / |R_t,i|        per row (rows >= columns) or column: scaling "channel";   one for the whole matrix: "tensor"
    D_t = s G_t                    D_t <- D_t growth |D_{t-1}| / |D_t|  where |D_t| > growth |D_{t-1}|  (Fira's limiter)
    w_t = w_{t-1} (1 - lr weight_decay) - lr sqrt(scale) D_t sqrt(1 - b2^t) / (1 - b1^t)

APOLLO-Mini is `rank: 1, scaling: tensor, scale: 128`. Weights that are not projected have plain Adam.

DEPARTS: decoupled weight decay comes before the update, as in AdamW; the authors' code has it after. An expert's growth is its own.

Shapes: w, G, D (rows, columns); B (shorter side, rank); R, m, v, N (longer side, rank) or transposed.
State: 2 longer rank + 2 numbers per matrix: the moments, the norm and the step count, which stands for the paper's seed.
Cost: 2 rows columns rank FLOPs per matrix and step, and shorter x rank random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from ..core.parts import NonNegative, Positive, part
from ._declared import Held, fixed
from ._groups import Beta, Group
from ._projection import LowRankAdam, Plan, Projector, gaussian, held_norm, turn


@part
class Apollo(LowRankAdam):
    """rank: of the image. refresh: steps its random matrix is kept. scaling: per channel, or one factor per matrix. growth: per step."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        rank: Positive[int] = 256,
        refresh: Positive[int] = 200,
        scaling: Literal["channel", "tensor"] = "channel",
        scale: Positive[float] = 1.0,
        growth: Annotated[float, Ge(1)] | None = 1.01,
        betas: tuple[Beta, Beta] = (0.9, 0.999),
        eps: Positive[float] = 1e-6,
        weight_decay: NonNegative[float] = 0.0,
    ):
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            rank=rank,
            refresh=refresh,
            scaling=scaling,
            scale=scale,
            growth=growth,
            betas=betas,
            eps=eps,
        )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from fixed(knobs, context, "rank", "refresh")

    def more(self, plan: Plan, dtype: torch.dtype) -> dict[str, Held]:
        return held_norm(plan, dtype)

    def operand(self, group: Group, state: dict[str, Any], name: str, to: Projector, gradient: Tensor) -> Tensor:
        return to.drawn(gaussian(to.plan.basis, name, turn(group, state), gradient).div_(sqrt(to.plan.rank)))

    def move(
        self, group: Group, state: dict[str, Any], to: Projector, operand: Tensor, gradient: Tensor, own: Tensor, rate: float, decay: float
    ) -> None:
        image = to.down(gradient, operand)
        normalized = self.normalized(group, state, image, to.plan.image)
        channels = group["scaling"] == "channel"
        norm = to.channel_norm if channels else to.norm
        factor = norm(normalized) / (norm(image) + 1e-8)
        if channels:
            gradient, factor = gradient * factor, torch.ones_like(factor[..., :1, :1])
        factor = factor * self.limit(state, to, to.norm(gradient) * factor, group["growth"])
        if decay:
            own.mul_(1 - decay)
        own.addcmul_(gradient, factor, value=-rate * sqrt(group["scale"]))
