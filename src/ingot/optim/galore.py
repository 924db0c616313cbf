r"""GaLore: Adam in a low-rank subspace of the gradient.   Zhao et al. 2024, arXiv:2403.03507, Algorithm 2.

    every `refresh` steps    B = the leading `rank` singular vectors of G_t, of its shorter side
    rows >= columns:  R_t = G_t B      rows < columns:  R_t = B^T G_t
    m_t = b1 m_{t-1} + (1 - b1) R_t    v_t = b2 v_{t-1} + (1 - b2) R_t^2    N_t = m_t / (sqrt(v_t) + eps)
    w_t = w_{t-1} (1 - lr weight_decay) - lr scale (N_t B^T or B N_t) sqrt(1 - b2^t) / (1 - b1^t)

The first subspace is that of the first gradient that is not zero. Moments are kept when it changes. Projected are weights with the role
"matrix"; all others have plain Adam, without scale.
With `state_bits: 8` all moments of two dimensions and `smallest` elements or more are block-wise quantized (part adam8bit).
`subspace: randomized` finds the singular vectors nearly, from a random sketch drawn from the weight's name and the refresh number.

DEPARTS: decoupled weight decay comes before the update, as in AdamW; the authors' code has it after, on the new weight.

Shapes: w, G (rows, columns); B (shorter side, rank); R, m, v, N (longer side, rank) or transposed.
State: rank (shorter + 2 longer) numbers per matrix and a step count; 8 bits: the moments a byte each and 4 bytes per block of 256.
Cost: 4 rows columns rank FLOPs per matrix and step; every `refresh` steps 6 longer shorter^2 + 20 shorter^3 more for the decomposition,
randomized 10 rows columns rank and three of (shorter, rank) by QR.   Sharding: see optim/_projection.py; gathered whole only for a refresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from torch import Tensor

from ..core.parts import NonNegative, Positive, part
from ._declared import fixed
from ._groups import Beta, Group
from ._projection import LowRankAdam, Projector


@part
class GaLore(LowRankAdam):
    """rank: of the subspace. refresh: steps it is kept. scale: of projected updates (alpha). state_bits: of all moments."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        rank: Positive[int] = 128,
        refresh: Positive[int] = 200,
        scale: Positive[float] = 0.25,
        subspace: Literal["svd", "randomized"] = "svd",
        state_bits: Literal[32, 8] = 32,
        smallest: NonNegative[int] = 4096,
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
            subspace=subspace,
            state_bits=state_bits,
            smallest=smallest,
            betas=betas,
            eps=eps,
        )

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
        yield from fixed(knobs, context, "rank", "refresh", "state_bits", "smallest")

    def move(
        self, group: Group, state: dict[str, Any], to: Projector, operand: Tensor, gradient: Tensor, own: Tensor, rate: float, decay: float
    ) -> None:
        normalized = self.normalized(group, state, to.down(gradient, operand), to.plan.image)
        to.add_up(own, normalized, operand, beta=1 - decay, alpha=-rate * group["scale"], out=own)
