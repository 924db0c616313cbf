r"""Soft mixture: experts compute weighted means of the row's positions.   Soft MoE, Puigcerver et al. 2023, arXiv:2308.00951, section 2.1.

    L = x Phi        X' = softmax over positions (L)^T x        Y'_s = E_e(X'_s) for the slots s of expert e        y = softmax over slots (L) Y'

Everything is differentiable, nothing is dropped, nothing needs balance. x and each slot's Phi are normalized to length 1 and Phi is
scaled by a learned number (section 2.3), so that a wide model's softmax does not collapse.

Slots are mixed within a row. A position's output depends on the whole row, so causal objectives are refused, and so are rows of
several documents.

Side losses: none.   Shapes: x_BTD, Phi: (S, D), S = E slots.   State: none.
Cost: 6 D S operations per position for scores and both mixtures; the experts compute S vectors a row, whatever its length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.axes import label
from ...core.errors import UserError
from ...core.parts import Positive, part
from ..context import Context
from ._router import Router, causal_objectives, one_unit_a_row, real
from ._routes import Mixed, Routes


@part
class Soft(Router):
    """slots: vectors of each expert a row."""

    weight_sum = (1.0, 1.0)
    local = False
    caches = False
    of_width = True  # lengths of vectors are not those of their copies

    def __init__(self, width: int, experts: int, *, slots: Positive[int] = 1):
        super().__init__(experts)
        self.weight = nn.Parameter(torch.empty(experts * slots, width))
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.normal_(self.weight, std=0.02)
        label(self, "weight", "slots", "width", role="matrix")
        label(self, "scale", "one", role="scale")

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        names = causal_objectives(context)
        if names:
            yield f"soft mixes all positions of a row, which {names[0]} forbids; use top_k or bias_balanced"
        if message := one_unit_a_row("soft", context):
            yield message

    def forward(self, x_BTD: Tensor, context: Context) -> Routes:
        if context.causal:
            raise UserError("soft mixes all positions of a row, which a causal stack forbids; use top_k or bias_balanced")
        dtype = torch.promote_types(x_BTD.dtype, torch.float32)
        phi_SD = self.scale.to(dtype) * F.normalize(self.weight.to(dtype), dim=-1)
        logits_BTS = F.linear(F.normalize(x_BTD.to(dtype), dim=-1), phi_SD)
        real_BT1 = real(context, x_BTD)[:, :, None]
        dispatch_BTS = logits_BTS.masked_fill(~real_BT1, -1e30).softmax(dim=1).masked_fill(~real_BT1, 0)
        return Mixed(dispatch_BTS, logits_BTS.softmax(dim=-1).masked_fill(~real_BT1, 0), self.experts)
