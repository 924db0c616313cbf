r"""Fira: GaLore's update, and what lies outside its subspace scaled as Adam scales what lies inside.   Chen et al. 2024, arXiv:2410.01623.

    B, R_t, m_t, v_t, N_t as in GaLore;      U(X) = X B^T or B X
    phi_i = |N_t,i| / |R_t,i|                                      per row (rows >= columns) or per column
    S_t = phi (G_t - scale U(R_t))                                 S_t <- S_t growth |S_{t-1}| / |S_t|  where |S_t| > growth |S_{t-1}|
    w_t = w_{t-1} (1 - lr weight_decay) - lr (scale U(N_t) + S_t) sqrt(1 - b2^t) / (1 - b1^t)

As in the authors' code scale multiplies the projected gradient that is subtracted, too. Weights that are not projected have plain Adam.

DEPARTS: decoupled weight decay comes before the update, as in AdamW; the authors' code has it after. An expert's growth is its own.

Shapes: w, G, S (rows, columns); B (shorter side, rank); R, m, v, N (longer side, rank) or transposed; phi one per channel.
State: rank (shorter + 2 longer) + 1 numbers per matrix and a step count.
Cost: 6 rows columns rank FLOPs per matrix and step; the decomposition as in GaLore.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from ..core.parts import NonNegative, Positive, part
from ._declared import Held, fixed
from ._groups import Beta, Group
from ._projection import LowRankAdam, Plan, Projector, held_norm


@part
class Fira(LowRankAdam):
    """rank, refresh, subspace: as in GaLore. scale: of the part inside. growth: limit on the norm of the part outside, per step."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        rank: Positive[int] = 128,
        refresh: Positive[int] = 200,
        scale: Positive[float] = 0.25,
        growth: Annotated[float, Ge(1)] | None = 1.01,
        subspace: Literal["svd", "randomized"] = "svd",
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
            scale=scale,
            growth=growth,
            subspace=subspace,
            betas=betas,
            eps=eps,
        )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from fixed(knobs, context, "rank", "refresh")

    def more(self, plan: Plan, dtype: torch.dtype) -> dict[str, Held]:
        return super().more(plan, dtype) | held_norm(plan, dtype)

    def move(
        self, group: Group, state: dict[str, Any], to: Projector, operand: Tensor, gradient: Tensor, own: Tensor, rate: float, decay: float
    ) -> None:
        image = to.down(gradient, operand)
        normalized = self.normalized(group, state, image, to.plan.image)
        factor = to.channel_norm(normalized) / (to.channel_norm(image) + 1e-8)
        outside = to.add_up(gradient, image, operand, beta=1, alpha=-group["scale"]).mul_(factor)
        to.add_up(own, normalized, operand, beta=1 - decay, alpha=-rate * group["scale"], out=own)
        own.addcmul_(outside, self.limit(state, to, to.norm(outside), group["growth"]), value=-rate)
