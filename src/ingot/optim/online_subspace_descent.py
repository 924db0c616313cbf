r"""Online Subspace Descent: GaLore whose subspace follows the gradient by descent, not by decompositions.   Liang et al. 2024,
arXiv:2408.12857, section 4.

    R_t = G_t B_t (rows >= columns) or B_t^T G_t;      w_t from Adam's N_t of R_t, as in GaLore
    L(B) = |G^ B B^T - G^|^2 + orthogonality |B^T B - I|^2      G^ = G_t / |G_t|      (rows < columns: |B B^T G^ - G^|^2)
    B_{t+1} = B_t - eta_t rule(grad L(B_t))                     eta_t = projection_lr lr_t / lr_base
    grad L = 2 (G^^T R^ (B^T B - 2 I) + B R^^T R^) + 4 orthogonality B (B^T B - I)

B_1 are the leading singular vectors of the first gradient that is not zero. rule "adamw": betas 0.9 and 0.999, eps 1e-8, with decay
projection_weight_decay; "sgd": the gradient. The authors' code has orthogonality 0 and projection_lr 1 / 200.

DEPARTS: decoupled weight decay comes before the update, as in AdamW; the authors' code has it after, on the new weight.

Shapes: w, G (rows, columns); B (shorter side, rank); R, m, v, N (longer side, rank) or transposed.
State: rank (shorter + 2 longer) numbers per matrix and a step count; 2 rank shorter more for rule "adamw".
Cost: 6 rows columns rank + (4 longer + 6 shorter) rank^2 FLOPs per matrix and step; one decomposition in the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.parts import NonNegative, Positive, part
from ._adam import adam_
from ._declared import Held, fixed, gathered, number, scattered, total
from ._groups import Beta, Group, local
from ._projection import LowRankAdam, Plan, Projector

_BETAS, _EPS = (0.9, 0.999), 1e-8


@part
class OnlineSubspaceDescent(LowRankAdam):
    """rank, scale: as in GaLore. projection_lr, projection_rule, projection_weight_decay, orthogonality: of the subspace's descent."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        rank: Positive[int] = 128,
        scale: Positive[float] = 0.25,
        projection_lr: NonNegative[float] = 0.005,
        projection_rule: Literal["adamw", "sgd"] = "adamw",
        projection_weight_decay: NonNegative[float] = 0.01,
        orthogonality: NonNegative[float] = 0.0,
        betas: tuple[Beta, Beta] = (0.9, 0.999),
        eps: Positive[float] = 1e-6,
        weight_decay: NonNegative[float] = 0.0,
    ):
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            rank=rank,
            scale=scale,
            projection_lr=projection_lr,
            projection_rule=projection_rule,
            projection_weight_decay=projection_weight_decay,
            orthogonality=orthogonality,
            betas=betas,
            eps=eps,
        )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from fixed(knobs, context, "rank", "projection_rule")

    def due(self, group: Group, state: dict[str, Any]) -> bool:
        return number(state["step"], 1) == 0

    def more(self, plan: Plan, dtype: torch.dtype) -> dict[str, Held]:
        moments = ("projection_exp_avg", "projection_exp_avg_sq") if self.defaults["projection_rule"] == "adamw" else ()
        return {key: Held("projected", plan.basis, dtype) for key in ("projection", *moments)}

    def move(
        self, group: Group, state: dict[str, Any], to: Projector, operand: Tensor, gradient: Tensor, own: Tensor, rate: float, decay: float
    ) -> None:
        image = to.down(gradient, operand)
        normalized = self.normalized(group, state, image, to.plan.image)
        to.add_up(own, normalized, operand, beta=1 - decay, alpha=-rate * group["scale"], out=own)
        base = group["base_lr"] * group["lr_scale"]
        if number(state["step"], 2) > 1 and base:
            slope = self._slope(group, to, local(state["projection"]), gradient, image)
            self._descend(group, state, slope, group["projection_lr"] * group["lr"] / base)

    def _slope(self, group: Group, to: Projector, basis: Tensor, gradient: Tensor, image: Tensor) -> Tensor:
        """grad L, this rank's rows of it. basis: this rank's rows."""
        weight, one = to.weight, torch.eye(to.plan.rank, dtype=basis.dtype, device=basis.device)
        if to.plan.right:
            crossed = scattered(gradient.mT @ image, weight) if to.cut else gradient.mT @ image
            square = to.total(image.mT @ image)
        else:
            whole = gathered(image, to.plan.rank, weight) if to.cut else image
            crossed, square = gradient @ whole.mT, whole @ whole.mT
        gram = total(basis.mT @ basis, weight) if to.cut else basis.mT @ basis
        size = to.norm(gradient).square().clamp(min=torch.finfo(basis.dtype).tiny)
        slope = 2 * (crossed @ (gram - 2 * one) + basis @ square) / size
        return slope + 4 * group["orthogonality"] * basis @ (gram - one) if group["orthogonality"] else slope

    def _descend(self, group: Group, state: dict[str, Any], slope: Tensor, lr: float) -> None:
        basis = local(state["projection"])
        if group["projection_rule"] == "sgd":
            basis.add_(slope, alpha=-lr)
            return
        step = number(state["step"], 2) - 1  # there is no slope in the first step
        first, second, correction = local(state["projection_exp_avg"]), local(state["projection_exp_avg_sq"]), sqrt(1 - _BETAS[1] ** step)
        rate, decay = lr * correction / (1 - _BETAS[0] ** step), lr * group["projection_weight_decay"]
        adam_(basis, slope, first, second, betas=_BETAS, eps=_EPS * correction, rate=rate, decay=decay)
