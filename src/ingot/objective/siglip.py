r"""Whether a text belongs to an image, asked of every pair of a step by itself.   Zhai et al. 2023 (SigLIP), arXiv:2303.15343, section 3.2.

    u, v: pooled outputs of length 1        s_ij = exp(t) u_i . v_j + b        z_ij = 1 for i = j, else -1

    loss of a pair i = sum_j -log sigmoid(z_ij s_ij)        t, b learned, from log 10 and -10

No normalization over the other pairs, so batches may be of any size. ``pooling: attention`` is the paper's head: a learned query
attends to all positions, then norm(x), a feed-forward and a residual.

Shapes: u, v (B, outputs)   Cost: 2 N^2 outputs per step on each rank, and one forward more under accumulation or ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.parts import Positive, Spec, part
from ..nn.pooling import Pooling
from ._attention_pool import AttentionPool
from ._pairs import MAIN, PairObjective, Scalar, Side, missing_tower, width_of
from ._projection import real_rows


class AttendedSide(Side):
    """A side whose positions a learned query attends to."""

    def __init__(self, width: int, outputs: int | None, linear: Spec, heads: int, hidden: int | None):
        super().__init__(width, outputs, linear, "mean", causal=False, bias=True)
        self.attention = AttentionPool(width, linear, heads, hidden or 4 * width)

    def pool(self, h_BTD: Tensor, context: Any, leading: int) -> Tensor:
        found: Tensor = self.attention(h_BTD, context)
        return found


@part
class SigLIP(PairObjective):
    """outputs: features that are compared; null for the model's width, then the model's own side is not projected. tower: the other
    side. pooling, tower_pooling: which positions speak for a row; heads, hidden: of the attention that pools. temperature, shift: what
    1 / exp t and b start from. tower_causal: whether the tower may not look ahead."""

    def __init__(
        self,
        width: int,
        linear: Spec,
        tower_widths: Mapping[str, int] | None = None,
        *,
        outputs: Positive[int] | None = None,
        tower: str = "text",
        pooling: Pooling | Literal["attention"] = "mean",
        tower_pooling: Pooling = "last",
        heads: Positive[int] = 8,
        hidden: Positive[int] | None = None,
        tower_causal: bool = False,
        temperature: Positive[float] = 0.1,
        shift: float = -10.0,
    ):
        own = (
            AttendedSide(width, outputs, linear, heads, hidden)
            if pooling == "attention"
            else Side(width, outputs, linear, pooling, False, bias=True)
        )
        super().__init__(
            tower, own, Side(width_of(tower, tower_widths, width), outputs or width, linear, tower_pooling, tower_causal, bias=True)
        )
        self.scale, self.shift = Scalar(-math.log(temperature)), Scalar(shift)

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from missing_tower(knobs, context)
        if knobs["pooling"] == "attention" and context.get("width", 0) % knobs["heads"]:
            yield f"{knobs['heads']} heads of the pooling attention do not divide the width {context['width']}"

    def couple(self, representations: Mapping[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        """The loss of every pair, (N,)."""
        u, v = representations[MAIN], representations["other"]
        real = real_rows(batch)
        s = self.scale.weight.to(u.dtype).exp() * (u @ v.T) + self.shift.weight.to(u.dtype)
        z = 2 * torch.eye(len(u), dtype=u.dtype, device=u.device) - 1
        return {"sigmoid": -(F.logsigmoid(z * s) * (real[None] & real[:, None])).sum(dim=1)}
