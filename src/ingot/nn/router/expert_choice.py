r"""Every expert chooses positions: an even load by construction.   Zhou et al. 2022, arXiv:2202.09368, equations 1-3.

    S = softmax(W x) over experts        expert e takes the  C = ceil(capacity_factor n / E)  positions of largest S[t, e]
    y_t = sum over the experts e that took t of  S[t, e] E_e(x_t)

n: the row's real positions. A position may be taken by any number of experts, also by none: then it passes through unchanged.

DEPARTS: experts choose within a row, where the paper chooses within the whole batch, so that results do not depend on how rows are
grouped. A position's experts depend on the rest of the row, later positions included: with a causal objective that leaks the future,
so it is refused unless ``leak_future`` says that this is known (the paper names this as its limitation); such a model
computes whole rows when it generates.

Side losses: router_z.   Shapes: x_BTD, W: (E, D).   State: none.   Cost: 2 D E operations per position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.parts import Positive, part
from ..context import Context
from ._router import Scored, causal_objectives, one_unit_a_row, real, router_z
from ._routes import Picked, Routes


@part
class ExpertChoice(Scored):
    """capacity_factor: experts of a position on average. leak_future: take a causal objective although positions then see later ones."""

    side_losses = ("router_z",)
    local = False
    caches = False

    def __init__(self, width: int, experts: int, *, capacity_factor: Positive[float] = 2.0, leak_future: bool = False):
        super().__init__(width, experts)
        self.capacity_factor, self.leak_future, self.share = capacity_factor, leak_future, capacity_factor

    @staticmethod
    def check(knobs: dict[str, Any], context: dict[str, Any]) -> Iterable[str]:
        names = causal_objectives(context)
        if names and not knobs["leak_future"]:
            yield f"expert_choice shows later positions to earlier ones, which {names[0]} forbids; use top_k, or set leak_future: true if that is what you study"
        if message := one_unit_a_row("expert_choice", context):
            yield message

    def forward(self, x_BTD: Tensor, context: Context) -> Routes:
        if context.causal and not self.leak_future:
            raise UserError(
                "expert_choice shows later positions to earlier ones, which a causal stack forbids; use top_k, or set leak_future: true"
            )
        if context.cache is not None:
            raise UserError("expert_choice needs whole rows: it cannot continue from a cache")
        length, real_BT = x_BTD.shape[1], real(context, x_BTD)
        logits_BTE = self.logits(x_BTD)
        s_BTE = logits_BTE.softmax(dim=-1)
        each = min(length, math.ceil(length * (self.capacity_factor / self.experts) - 1e-9))
        s_BEC, positions_BEC = s_BTE.masked_fill(~real_BT[:, :, None], -1).transpose(1, 2).topk(each, dim=2)
        room_B = (real_BT.sum(dim=1).double() * (self.capacity_factor / self.experts) - 1e-9).ceil()
        taken_BEC = (torch.arange(each, device=x_BTD.device) < room_B[:, None, None]) & (s_BEC >= 0)
        if self.training:
            reached_BT = (
                torch.zeros_like(real_BT, dtype=torch.int64).scatter_add(
                    1, positions_BEC.flatten(1), taken_BEC.expand_as(positions_BEC).long().flatten(1)
                )
                > 0
            )
            routed = real_BT.sum()
            counts = {
                "count/load": taken_BEC.sum(dim=(0, 2)),
                "count/routed": routed,
                "count/dropped": routed - (reached_BT & real_BT).sum(),
            }
            self.side = {"router_z": router_z(logits_BTE, real_BT), **counts}
        return Picked(positions_BEC, s_BEC.masked_fill(~taken_BEC, 0), length)
