r"""Which text belongs to which image, by softmax over all pairs of a step.   Radford et al. 2021 (CLIP), arXiv:2103.00020, section 2.3.

    u = W_u pool(f(image)), v = W_v pool(g(text)), both brought to length 1        s_ij = exp(t) u_i . v_j

    loss of a pair i = ( -log softmax_j(s_ij)_i - log softmax_j(s_ji)_i ) / 2        t learned, from log(1 / 0.07)

After every update t is brought back to log most where it has gone beyond, as in the authors' training.
The model's own embedding and encoder are one side, a further tower the other; they may be of any modality.

Shapes: u, v (B, outputs)   Cost: 4 N^2 outputs per step on each rank, and one forward more under accumulation or ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.parts import Positive, Spec, part
from ..nn.pooling import Pooling
from ._pairs import MAIN, PairObjective, Scalar, Side, missing_tower, width_of
from ._projection import picked, real_rows
from ._teacher import local


@part
class CLIP(PairObjective):
    """outputs: features that are compared. tower: the other side. pooling, tower_pooling: which positions speak for a row. causal,
    tower_causal: whether a side may not look ahead. temperature: what 1 / exp t starts from. most: bound on exp t."""

    def __init__(
        self,
        width: int,
        linear: Spec,
        tower_widths: Mapping[str, int] | None = None,
        *,
        outputs: Positive[int] = 512,
        tower: str = "text",
        pooling: Pooling = "mean",
        tower_pooling: Pooling = "last",
        causal: bool = False,
        tower_causal: bool = True,
        temperature: Positive[float] = 0.07,
        most: Positive[float] = 100.0,
    ):
        own = Side(width, outputs, linear, pooling, causal, bias=False)
        super().__init__(tower, own, Side(width_of(tower, tower_widths, width), outputs, linear, tower_pooling, tower_causal, bias=False))
        self.scale, self.most = Scalar(min(-math.log(temperature), math.log(most))), most

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        yield from missing_tower(knobs, context)

    def couple(self, representations: Mapping[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        """The loss of every pair, (N,)."""
        u, v = representations[MAIN], representations["other"]
        real = real_rows(batch)
        s = self.scale.weight.to(u.dtype).exp() * (u @ v.T)
        each = torch.arange(len(u), device=u.device)
        allowed = real[None] | torch.eye(len(u), dtype=torch.bool, device=u.device)
        return {"contrastive": torch.where(real, (picked(s, allowed, each) + picked(s.T, allowed, each)) / 2, 0)}

    @torch.no_grad()
    def stepped(self, state: Any, log: dict[str, Any]) -> None:
        """After an update: exp t is most again where it is more."""
        local(self.scale.weight).clamp_(max=math.log(self.most))
